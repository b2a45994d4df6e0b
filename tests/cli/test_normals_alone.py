"""`detect` from normal images alone, and the choice of the guard's detector."""

import json
from pathlib import Path

import pytest
from photos import write_digits
from test_score import called
from tiny import FILE, only_run, refused, results

from lightning_gradood.cli import main
from lightning_gradood.guard import Guard
from lightning_gradood.records import read_columns

BUILT_IN = ["builtin_fgsm", "builtin_pgd", "builtin_semantic", "builtin_gaussian_noise", "builtin_defocus_blur",
            "builtin_fog", "builtin_contrast", "builtin_jpeg_compression"]  # fmt: skip
ALONE = ["--data.anomalies", "{}"]


def test_a_folder_of_normal_images_is_enough(run, capsys):
    write_digits(Path("photos"), [0, 1, 2])
    capsys.readouterr()
    checkpoint = str(run / "checkpoints/best.ckpt")
    main(["detect", *FILE, *ALONE, "--data.train", "null", "--data.normal", "photos", "--ckpt_path", checkpoint,
          "--run_dir", "runs/alone", "--data.limit", "60"])  # fmt: skip
    output = capsys.readouterr()
    said = output.out + output.err
    assert "No anomalies are named: no_anomalies, gradient_knn, energy are fitted on" in said
    assert "The sources builtin_* are built-in probes, made from the normal images" in said
    outcomes = results(Path("runs/alone"))["outcomes"]
    assert list(dict.fromkeys(one["source"] for one in outcomes)) == BUILT_IN
    assert {one["trained_on"] for one in outcomes} == {"normal"}
    about = json.loads(Path("runs/alone/guard/guard.json").read_text())
    assert about["built_in"] is True
    assert set(about["metrics"]) == {*BUILT_IN, "normal"}
    assert about["metrics"]["builtin_fgsm"].keys() == {"val/auroc", "test/auroc", "test/flagged"}
    printed = output.out[output.out.index("Guard: `") :]
    assert [line.split()[0] for line in printed.splitlines() if line.startswith("builtin_")] == BUILT_IN
    scores = read_columns(Path("runs/alone/scores.parquet"))
    rows = [row for row, name in enumerate(scores["id"]) if name.startswith("normal/")]
    assert all(scores["path"][row] == f"photos/{scores['id'][row].rpartition('/')[2]}" for row in rows)
    code, out, _ = called(["score", "--guard", "runs/alone/guard", "photos"], capsys)
    assert code == 0
    found = {line.split(",")[0]: float(line.split(",")[3]) for line in out.splitlines()[1:]}
    own = [row for row in rows if scores["detector"][row] == about["detector_name"]]
    assert own
    for row in own:  # another batch: detect takes 60 of the files
        assert found[scores["path"][row]] == pytest.approx(scores["score"][row], rel=1e-5)


def test_too_few_normal_images_for_the_default_are_refused_at_once(run, capsys):
    words = ["detect", *FILE, *ALONE, "--ckpt_path", str(run / "checkpoints/best.ckpt")]
    sentence = (
        "`data.normal` should have at least 20 images in `train` for `no_anomalies`. Got 8. Add images, or name other"
    )
    assert sentence in refused(words, capsys)


def test_detectors_that_need_none_are_those_that_are_named(run):
    main(["detect", *FILE, *ALONE, "--run_dir", "runs/alone", "--detection.detectors", "[Energy, KNN]",
          "--detection.detectors.k", "3", "--ckpt_path", str(run / "checkpoints/best.ckpt")])  # fmt: skip
    assert {one["detector"] for one in results(Path("runs/alone"))["outcomes"]} == {"energy", "knn"}


@pytest.mark.parametrize("name", ["mlp", "gradient_forest", "energy"])
def test_the_guards_detector_can_be_chosen(run, name, capsys):
    main(["detect", *FILE, "--detection.guard", name, "--run_dir", "runs/chosen", "--ckpt_path",
          str(run / "checkpoints/best.ckpt")])  # fmt: skip
    guard = Guard.load("runs/chosen/guard")
    assert guard.about.detector_name == name
    assert guard.about.trained_on == ("nine+photographs" if name == "mlp" else "normal")
    assert len(guard.calibration) == (4 if name == "mlp" else 8)  # the MLP stops on the other half of `val`
    assert set(guard.about.metrics) == {"nine", "photographs", "normal"}
    assert f"Guard: `{name}`, fitted on " in capsys.readouterr().out


def test_by_default_it_is_the_best_on_val_of_those_that_need_no_anomalies(run, capsys):
    about = json.loads((run / "guard/guard.json").read_text())
    means = {}
    for name in ("gradient_gaussian", "gradient_knn", "gradient_forest", "baseline", "energy"):
        main(["detect", *FILE, "--detection.guard", name, "--run_dir", f"runs/{name}", "--ckpt_path",
              str(run / "checkpoints/best.ckpt")])  # fmt: skip
        metrics = Guard.load(f"runs/{name}/guard").about.metrics
        means[name] = sum(metrics[source]["val/auroc"] for source in ("nine", "photographs")) / 2
    assert about["detector_name"] == max(means, key=means.__getitem__)


def test_a_guard_that_is_no_detector_of_the_experiment_is_refused(capsys):
    words = "`detection.guard` should name a detector of this experiment. Got `detection.guard = lid`. Choose among gradient_"
    assert words in refused(["fit", *FILE, "--detection.guard", "lid"], capsys)
    assert "Got `detection.guard = mlp`" in refused(["fit", *FILE, *ALONE, "--detection.guard", "mlp"], capsys)
    words = "should have at least 4 images in `val` for `detection.false_positive_rate = 0.2`"
    rate = ["--data.limit", "7", "--detection.guard", "mlp"]
    assert words in refused(["fit", *FILE, *rate], capsys)


def test_too_few_normal_images_for_a_guard_are_said_and_the_run_goes_on(capsys):
    main(["fit", *FILE, "--detection.false_positive_rate", "0.01", "--trainer.max_epochs", "1"])
    output = capsys.readouterr().out
    assert "No guard is saved: `data.normal` should have at least 99 images in `val`" in output
    assert "Results and figures: " in output
    assert not (only_run() / "guard").exists()


def test_predict_writes_a_table(run, capsys):
    main(["predict", *FILE, "--run_dir", str(run)])
    table = read_columns(run / "predictions.parquet")
    assert list(table) == ["id", "path", "source", "label", "prediction", "probability"]
    assert len(table["id"]) == len(set(table["id"])) == 60
    assert list(dict.fromkeys(table["source"])) == ["normal", "nine", "photographs"]
    assert set(table["prediction"]) <= {"0", "1", "2"}
    assert {label for label, source in zip(table["label"], table["source"], strict=True) if source == "nine"} == {"9"}
    scores = read_columns(run / "scores.parquet")
    known = dict(zip(table["id"], table["prediction"], strict=True))
    assert all(known[name] == one for name, one in zip(scores["id"], scores["prediction"], strict=True))
    main(["predict", *FILE, "--ckpt_path", str(run / "checkpoints/best.ckpt")])  # a folder of its own
    assert len(list(Path("runs/tiny").glob("*/predictions.parquet"))) == 2
