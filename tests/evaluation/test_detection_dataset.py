"""Which records stand on the normal and which on the anomalous side of a source."""

import numpy as np
import pytest
from asserts import assert_refused
from made_up_records import Spy

from lightning_gradood.evaluation import attack_numbers, evaluate
from lightning_gradood.records import Records, detection_dataset

N = 30
ROWS = np.arange(N)
SPLIT = np.array(["train", "train", "val", "val", "test"])[ROWS % 5]
RIGHT = ROWS % 3 != 0  # classified correctly when clean
FOOLED = ROWS % 2 == 0  # another prediction when attacked


def built(prefix, gap=0.0, **columns):
    values = np.exp(np.random.default_rng(len(prefix)).normal(gap, 1, size=(N, 2)))
    origins = [f"normal/{row:02d}" for row in range(N)]
    ids = [f"{prefix}/{row:02d}" for row in range(N)]
    table = Records.build(ids, source="normal", values={"gradients/all_ones": values}, origin_id=origins, **columns)
    return table.with_splits(dict(zip(origins, SPLIT.tolist(), strict=True)))


ATTACK = {"attack": ["bim"] * N, "label": [0] * N, "success": FOOLED.tolist()}
SIZES = {"l2": np.where(ROWS < 10, 1.0, 2.0), "linf": [0.5] * N, "target_hit": (ROWS < 6).tolist()}
RECORDS = {
    "normal": built("normal", label=[0] * N, prediction=np.where(RIGHT, 0, 1)),
    "bim": built("bim", 3.0, **ATTACK, **SIZES),
    "bim.noise": built("bim.noise", l2=[1.0] * N),
}


def rows(table, prefix):
    return [int(name.rpartition("/")[2]) for name in table.ids if name.startswith(f"{prefix}/")]


def test_all_images_stand_on_both_sides_and_the_noise_control_on_the_normal_one():
    assert len(detection_dataset(RECORDS, "bim")) == 2 * N
    dataset = detection_dataset(RECORDS, "bim", noise="bim.noise")
    assert rows(dataset, "bim.noise") == list(range(N))
    assert (len(dataset), dataset.anomalous.sum()) == (3 * N, N)
    pairs = set(zip(dataset.column("origin_id"), dataset.column("split"), strict=True))
    assert len(pairs) == N  # an image and its versions share a split


def test_successful_leaves_what_was_right_and_then_wrong_on_every_side():
    dataset = detection_dataset(RECORDS, "bim", noise="bim.noise", keep="successful")
    for prefix in ("normal", "bim", "bim.noise"):
        assert rows(dataset, prefix) == np.flatnonzero(RIGHT & FOOLED).tolist()
    unlabelled = RECORDS | {"normal": built("normal", label=[-1] * N, prediction=[1] * N)}  # these count as right
    assert rows(detection_dataset(unlabelled, "bim", keep="successful"), "bim") == list(range(0, N, 2))
    failed = RECORDS | {"bim": built("bim", attack=["bim"] * N, success=[False] * N)}
    words = "should leave images of `bim` in every split. Got 0 of 30 that were classified correctly and then misled"
    assert_refused((lambda: detection_dataset(failed, "bim", keep="successful"), words))


def test_numbers_of_the_attack_stand_beside_each_split_s():
    outcome = evaluate(Spy(), detection_dataset(RECORDS, "bim"), source="bim", seed=0)
    for split in ("val", "test"):
        metrics, part = outcome.metrics[split], split == SPLIT
        expected = {"success": FOOLED[part], "target_hit": ROWS[part] < 6, "l2": SIZES["l2"][part], "linf": 0.5}
        for name, values in expected.items():
            assert metrics[f"attack_{name}"] == pytest.approx(np.mean(values)), (split, name)
    untargeted = built("pgd", attack=["pgd"] * N, success=FOOLED.tolist())
    assert sorted(attack_numbers(untargeted)) == ["attack_l2", "attack_linf", "attack_success"]
