"""Synthetic outliers on the command line: made while probing, once, alike on one process and on two, never tested on."""

from pathlib import Path

import numpy as np
import pytest
from test_two_processes import TWO, launched
from tiny import FILE, refused, results

from lightning_gradood.cli import main
from lightning_gradood.records import read_columns

KINDS = "[Blur, {class_path: SignStep, init_args: {high: 0.1}}, own_outliers.Half]"
DETECTORS = [
    "--detection.detectors",
    "[{class_path: SyntheticOutliers, init_args: {outliers: %s}}, Energy]" % KINDS,  # noqa: UP031  # braces are YAML's
]
OWN = """
from dataclasses import dataclass
from lightning_gradood.synthetic import SyntheticOutlier

@dataclass(frozen=True)
class Half(SyntheticOutlier):
    seed: int = 0

    def make(self, images, draws):
        return images * draws.uniform(0.2, 0.5)
"""


@pytest.fixture
def detect(run, monkeypatch):
    """Words of a `detect` with kinds of synthetic outliers, one of them the user's."""
    Path("own_outliers.py").write_text(OWN)
    monkeypatch.syspath_prepend(".")
    monkeypatch.setenv("PYTHONPATH", ".")
    return ["detect", *FILE, "--ckpt_path", str(run / "checkpoints/best.ckpt"), *DETECTORS]


def scores(folder):
    """Score of each image by the detector against synthetic outliers."""
    table = read_columns(Path(folder) / "scores.parquet")
    own = np.array(table["detector"]) == "synthetic_outliers"
    return dict(zip(np.array(table["id"])[own], np.array(table["score"])[own], strict=True))


def test_they_are_made_once_and_no_source_of_their_own(detect, probed):
    main([*detect, "--run_dir", "first"])
    kinds = {"synthetic_blur", "synthetic_sign_step", "synthetic_half"}
    found = results(Path("first"))
    assert kinds == {name for name in found["provenance"]["perturbations"] if name.startswith("synthetic_")}
    assert {one["source"] for one in found["outcomes"]} == {"nine", "photographs"}
    (trained,) = {one["trained_on"] for one in found["outcomes"] if one["detector"] == "synthetic_outliers"}
    assert trained == "normal"
    keys = found["provenance"]["records"]
    read = {name.partition("/")[2] for name in keys if name.startswith("synthetic_blur/")}
    assert read == {"features/layers+spread", "logits", "views/mirror+blur"}  # no gradients, which cost most
    assert probed
    probed.clear()
    main([*detect, "--run_dir", "again"])
    assert not probed
    assert scores("again") == scores("first")


def test_two_processes_give_the_same_scores(detect):
    main([*detect, "--run_dir", "one", "--cache_dir", "one_cache"])
    launched([*detect, *TWO, "--run_dir", "two", "--cache_dir", "two_cache"])
    one, two = scores("one"), scores("two")
    assert one.keys() == two.keys()
    assert [two[name] for name in one] == pytest.approx(list(one.values()), rel=1e-4, abs=1e-4)


def test_two_settings_of_one_kind_are_refused(detect, capsys):
    words = (
        "[{class_path: SyntheticOutliers, init_args: {outliers: [Blur]}}, {class_path: SyntheticOutliers, init_args: "
        "{outliers: [{class_path: Blur, init_args: {seed: 1}}], name: other}}]"
    )
    message = refused([*detect[:-1], words], capsys)
    assert "should agree on synthetic outliers of one name. Got two settings of `blur`" in message


def test_a_source_with_such_a_name_is_refused(detect, capsys):
    message = refused(
        [*detect, "--data.anomalies.synthetic_blur", "{class_path: PhotoPatches, init_args: {scale: 2.0}}"], capsys
    )
    assert "should not have names of synthetic outliers. Got ['synthetic_blur']. Rename them." in message


def test_a_k_beyond_the_images_is_refused_before_any_is_read(detect, probed, capsys):
    message = refused([*detect[:-1], "[{class_path: KNN, init_args: {k: 50}}]"], capsys)
    assert "`data.normal` should have at least 50 images in `train` for `knn`. Got 8." in message
    assert not probed
