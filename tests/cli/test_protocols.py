"""What detectors may know is one flag; the table, the files and the refusals follow."""

import json

import numpy as np
import pytest
import tiny
from safetensors.torch import load_file

from lightning_gradood.cli import main

FREE = "[GradientGaussian, {class_path: GradientKNN, init_args: {k: 3}}, GradientForest]"


def detect(run, *flags):
    """Detect with the finished run's classifier, in a folder of its own, and return the folder."""
    folder = run.parent / "other"
    main(
        ["detect", *tiny.FILE, "--ckpt_path", str(run / "checkpoints" / "best.ckpt"), "--run_dir", str(folder), *flags]
    )
    return folder


def test_known_is_the_default_and_one_class_detectors_stand_beside_it(run, capsys):
    folder = detect(run, "--detection.detectors", FREE)
    outcomes = tiny.results(folder)["outcomes"]
    assert [(o["source"], o["detector"], o["trained_on"]) for o in outcomes] == [
        (source, name, source if name == "mlp" else "normal")
        for source in ("nine", "photographs")
        for name in ("mlp", "gradient_gaussian", "gradient_knn", "gradient_forest")
    ]
    assert [o["metrics"]["test"]["auroc"] for o in outcomes if o["detector"] == "mlp"] == [
        o["metrics"]["test"]["auroc"] for o in tiny.results(run)["outcomes"]
    ]
    assert {o["counts"]["train"]["anomalous"] for o in outcomes if o["trained_on"] == "normal"} == {0}
    rows = [line.split() for line in tiny.table(capsys.readouterr().out).splitlines()]
    assert {tuple(row[:3]) for row in rows} >= {
        ("mean", "gradient_forest", "normal"),
        ("nine", "gradient_knn", "normal"),
    }
    assert (folder / "detectors" / "nine" / "gradient_forest.safetensors").is_file()


def test_leave_one_out_trains_on_the_others(run, capsys):
    folder = detect(run, "--detection.protocol", "leave_one_out")
    outcomes = tiny.results(folder)["outcomes"]
    assert [(o["source"], o["trained_on"]) for o in outcomes] == [("nine", "others"), ("photographs", "others")]
    lines = tiny.table(capsys.readouterr().out).splitlines()
    assert [line.split()[:3] for line in lines[2:4]] == [["nine", "mlp", "others"], ["photographs", "mlp", "others"]]


def test_a_matrix_is_printed_written_and_drawn(run, capsys):
    folder = detect(run, "--detection.protocol", "cross", *tiny.WITH_FIGURES)
    outcomes = tiny.results(folder)["outcomes"]
    pairs = {(o["trained_on"], o["source"]): o["metrics"]["test"]["auroc"] for o in outcomes}
    assert len(outcomes) == len(pairs) == 4
    printed = capsys.readouterr().out
    _, header, *rows = printed[printed.index("mlp: AUROC in %") :].splitlines()[:4]
    assert header.split() == ["trained", "on", "nine", "photographs", "others"]
    for name, row in zip(("nine", "photographs"), rows, strict=True):
        numbers = [pairs[name, "nine"], pairs[name, "photographs"]]
        assert row.split()[:3] == [name, *(f"{100 * number:.1f}" for number in numbers)]
    assert (folder / "figures" / "matrix_mlp.png").stat().st_size > 5000
    for name in ("nine", "photographs"):
        assert np.isfinite(load_file(folder / "detectors" / name / "mlp.safetensors")["mean"].numpy()).all()
    assert "nine,photographs,mlp,test,auroc," in (folder / "results.csv").read_text()


def test_conventions_join_the_numbers(run):
    folder = detect(run, "--detection.metrics", "[lee2018, openood]")
    metrics = json.loads((folder / "results.json").read_text())["outcomes"][0]["metrics"]["test"]
    assert {"lee2018/tnr_at_tpr95", "lee2018/aupr_in", "openood/fpr_at_tpr95", "openood/aupr_out"} <= set(metrics)
    assert not [name for name in metrics if name.startswith(("odin/", "energy/"))]


def test_words_that_are_no_choice_are_refused_with_the_choices(run, capsys):
    for flag, value, choices in (
        ("--detection.protocol", "all", "'known','leave_one_out','cross'"),
        ("--detection.metrics", "[ours]", "'lee2018','odin','openood','energy'"),
    ):
        sentence = tiny.refused(["detect", *tiny.FILE, flag, value], capsys)
        assert choices in sentence.replace(" ", "")


@pytest.mark.filterwarnings("ignore:NO WEIGHTS")
def test_one_anomaly_source_has_no_others(run, capsys):
    flags = ["--data.anomalies", "{nine: {class_path: DigitsSource, init_args: {digits: [9]}}}"]
    sentence = tiny.refused(["detect", *tiny.FILE, *flags, "--detection.protocol", "leave_one_out"], capsys)
    assert sentence.startswith(
        "`detection.protocol = leave_one_out` should have at least two anomaly sources. Got ['nine']."
    )
