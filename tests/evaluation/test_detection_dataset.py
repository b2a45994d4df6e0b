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


def built(source, prefix, gap=0.0, **columns):
    values = np.exp(np.random.default_rng(len(prefix)).normal(gap, 1, size=(N, 2)))
    table = Records.build(
        [f"{prefix}/{row:02d}" for row in range(N)],
        source=source,
        values={"gradients/all_ones": values},
        origin_id=[f"normal/{row:02d}" for row in range(N)],
        **columns,
    )
    return table.with_splits({f"normal/{row:02d}": split for row, split in enumerate(SPLIT)})


@pytest.fixture
def records():
    clean = built("normal", "normal", label=[0] * N, prediction=[0 if right else 1 for right in RIGHT])
    attack = {"attack": ["bim"] * N, "label": [0] * N, "success": FOOLED}
    sizes = {"l2": [1.0] * 10 + [2.0] * 20, "linf": [0.5] * N}
    return {
        "normal": clean,
        "bim": built("normal", "bim", 3.0, **attack, **sizes, target_hit=[True] * 6 + [False] * 24),
        "bim.noise": built("normal", "bim.noise", l2=[1.0] * N),
    }


def rows(table, prefix):
    return [int(name.rpartition("/")[2]) for name in table.ids if name.startswith(f"{prefix}/")]


def test_all_images_stand_on_both_sides(records):
    dataset = detection_dataset(records, "bim")
    assert len(dataset) == 2 * N
    assert dataset.anomalous.sum() == N


def test_the_noise_control_joins_the_normal_side(records):
    dataset = detection_dataset(records, "bim", noise="bim.noise")
    assert rows(dataset, "bim.noise") == list(range(N))
    assert (len(dataset), dataset.anomalous.sum()) == (3 * N, N)


def test_successful_leaves_what_was_right_and_then_wrong_on_every_side(records):
    dataset = detection_dataset(records, "bim", noise="bim.noise", keep="successful")
    expected = [row for row in range(N) if RIGHT[row] and FOOLED[row]]
    for prefix in ("normal", "bim", "bim.noise"):
        assert rows(dataset, prefix) == expected


def test_images_without_a_label_count_as_right(records):
    unlabelled = records | {"normal": built("normal", "normal", label=[-1] * N, prediction=[1] * N)}
    assert rows(detection_dataset(unlabelled, "bim", keep="successful"), "bim") == list(range(0, N, 2))


def test_an_attack_that_fails_is_refused_with_its_numbers(records):
    failed = records | {"bim": built("normal", "bim", attack=["bim"] * N, success=[False] * N)}
    words = (
        "`data.keep = successful` should leave images of `bim` in every split. Got 0 of 30 that were classified "
        "correctly and then misled: {'train': 0, 'val': 0, 'test': 0}. Use `--data.keep all`"
    )
    with pytest.raises(Refusal, match=re.escape(words)):
        detection_dataset(failed, "bim", keep="successful")
    assert len(detection_dataset(failed, "bim")) == 2 * N


def test_an_image_and_its_versions_share_a_split(records):
    dataset = detection_dataset(records, "bim", noise="bim.noise")
    split_of = {}
    for origin, split in zip(dataset.column("origin_id"), dataset.column("split"), strict=True):
        assert split_of.setdefault(origin, split) == split


def test_numbers_of_the_attack_stand_beside_each_split_s(records):
    outcome = evaluate(
        MLP([AllOnes()], MLPSettings(max_epochs=3)), detection_dataset(records, "bim"), source="bim", seed=0
    )
    bim = records["bim"]
    for split in ("val", "test"):
        part = [row for row in range(N) if SPLIT[row] == split]
        metrics = outcome.metrics[split]
        assert metrics["attack_success"] == pytest.approx(np.mean([FOOLED[row] for row in part]))
        assert metrics["attack_target_hit"] == pytest.approx(np.mean([row < 6 for row in part]))
        assert metrics["attack_l2"] == pytest.approx(np.mean([1.0 if row < 10 else 2.0 for row in part]))
        assert metrics["attack_linf"] == 0.5
    assert attack_numbers(bim)["attack_success"] == 0.5


def test_without_an_attack_there_are_no_such_numbers(records):
    assert attack_numbers(records["normal"]) == {}
    untargeted = built("normal", "pgd", attack=["pgd"] * N, success=FOOLED)
    assert sorted(attack_numbers(untargeted)) == ["attack_l2", "attack_linf", "attack_success"]
