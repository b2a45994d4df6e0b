"""Which records stand on the normal and which on the anomalous side of a source."""

import re

import numpy as np
import pytest

from lightning_gradood.core import Refusal
from lightning_gradood.detectors import MLP
from lightning_gradood.evaluation import attack_numbers, evaluate
from lightning_gradood.gradients import AllOnes
from lightning_gradood.records import Records, detection_dataset
from lightning_gradood.tasks import MLPSettings

N = 30
SPLIT = [("train", "train", "val", "val", "test")[row % 5] for row in range(N)]
RIGHT = [row % 3 != 0 for row in range(N)]  # classified correctly when clean
FOOLED = [row % 2 == 0 for row in range(N)]  # another prediction when attacked


def built(prefix, gap=0.0, **columns):
    values = np.exp(np.random.default_rng(len(prefix)).normal(gap, 1, size=(N, 2)))
    table = Records.build(
        [f"{prefix}/{row:02d}" for row in range(N)],
        source="normal",
        values={"gradients/all_ones": values},
        origin_id=[f"normal/{row:02d}" for row in range(N)],
        **columns,
    )
    return table.with_splits({f"normal/{row:02d}": split for row, split in enumerate(SPLIT)})


@pytest.fixture
def records():
    attack = {"attack": ["bim"] * N, "label": [0] * N, "success": FOOLED}
    sizes = {"l2": [1.0] * 10 + [2.0] * 20, "linf": [0.5] * N}
    return {
        "normal": built("normal", label=[0] * N, prediction=[0 if right else 1 for right in RIGHT]),
        "bim": built("bim", 3.0, **attack, **sizes, target_hit=[True] * 6 + [False] * 24),
        "bim.noise": built("bim.noise", l2=[1.0] * N),
    }


def rows(table, prefix):
    return [int(name.rpartition("/")[2]) for name in table.ids if name.startswith(f"{prefix}/")]


def test_all_images_stand_on_both_sides_and_the_noise_control_on_the_normal_one(records):
    dataset = detection_dataset(records, "bim")
    assert (len(dataset), dataset.anomalous.sum()) == (2 * N, N)
    dataset = detection_dataset(records, "bim", noise="bim.noise")
    assert rows(dataset, "bim.noise") == list(range(N))
    assert (len(dataset), dataset.anomalous.sum()) == (3 * N, N)
    split_of = {}
    for origin, split in zip(dataset.column("origin_id"), dataset.column("split"), strict=True):
        assert split_of.setdefault(origin, split) == split  # an image and its versions share a split


def test_successful_leaves_what_was_right_and_then_wrong_on_every_side(records):
    dataset = detection_dataset(records, "bim", noise="bim.noise", keep="successful")
    for prefix in ("normal", "bim", "bim.noise"):
        assert rows(dataset, prefix) == [row for row in range(N) if RIGHT[row] and FOOLED[row]]
    unlabelled = records | {"normal": built("normal", label=[-1] * N, prediction=[1] * N)}  # these count as right
    assert rows(detection_dataset(unlabelled, "bim", keep="successful"), "bim") == list(range(0, N, 2))
    failed = records | {"bim": built("bim", attack=["bim"] * N, success=[False] * N)}
    words = (
        "`data.keep = successful` should leave images of `bim` in every split. Got 0 of 30 that were classified "
        "correctly and then misled: {'train': 0, 'val': 0, 'test': 0}. Use `--data.keep all`"
    )
    with pytest.raises(Refusal, match=re.escape(words)):
        detection_dataset(failed, "bim", keep="successful")
    assert len(detection_dataset(failed, "bim")) == 2 * N


def test_numbers_of_the_attack_stand_beside_each_split_s(records):
    detector, dataset = MLP([AllOnes()], MLPSettings(max_epochs=3)), detection_dataset(records, "bim")
    outcome = evaluate(detector, dataset, source="bim", seed=0)
    for split in ("val", "test"):
        part, metrics = [row for row in range(N) if SPLIT[row] == split], outcome.metrics[split]
        assert metrics["attack_success"] == pytest.approx(np.mean([FOOLED[row] for row in part]))
        assert metrics["attack_target_hit"] == pytest.approx(np.mean([row < 6 for row in part]))
        assert metrics["attack_l2"] == pytest.approx(np.mean([1.0 if row < 10 else 2.0 for row in part]))
        assert metrics["attack_linf"] == 0.5
    assert attack_numbers(records["bim"])["attack_success"] == 0.5
    assert attack_numbers(records["normal"]) == {}
    untargeted = built("pgd", attack=["pgd"] * N, success=FOOLED)
    assert sorted(attack_numbers(untargeted)) == ["attack_l2", "attack_linf", "attack_success"]
