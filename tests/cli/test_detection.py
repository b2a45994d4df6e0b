"""What `--detection.*` chooses: detectors by name, what they may know, the guard's detector, and what happens if one fails."""

import json
from pathlib import Path

import numpy as np
import pytest
from tiny import called, detect, detecting, refused, results, table, write_digits

import lightning_gradood.detectors as detectors
from lightning_gradood.cli import main
from lightning_gradood.core import Refusal
from lightning_gradood.data import Budget
from lightning_gradood.evaluation import DetectionSettings
from lightning_gradood.guard import Guard
from lightning_gradood.records import read_rows

OWN = """
from dataclasses import dataclass
from lightning_gradood.perturbations import SyntheticOutlier

@dataclass(frozen=True)
class Half(SyntheticOutlier):
    seed: int = 0

    def _make(self, images, draws):
        return images * draws.uniform(0.2, 0.5)
"""
OUTLIERS = "[Blur, {class_path: SignStep, init_args: {high: 0.1}}, own_outliers.Half]"
SYNTHETIC = "{class_path: SyntheticOutliers, init_args: {outliers: %s}}" % OUTLIERS  # noqa: UP031  # braces are YAML's
DETECTORS = {
    "gradient_gaussian": "GradientGaussian", "gradient_knn": "{class_path: GradientKNN, init_args: {k: 3}}",
    "baseline": "Baseline", "energy": "Energy", "gradnorm": "GradNorm", "image_statistics": "ImageStatistics",
    "knn": "{class_path: KNN, init_args: {k: 3}}", "lid": "{class_path: LID, init_args: {neighbours: [3, 5]}}",
    "odin": "{class_path: ODIN, init_args: {temperatures: [1, 1000], magnitudes: [0, 0.01]}}",
    "mahalanobis_v": "Mahalanobis", "synthetic_outliers": SYNTHETIC,
    "mahalanobis_p_fe": "{class_path: Mahalanobis, init_args: {preprocessing: true, ensemble: true}}",
}  # fmt: skip
ALONE = ["--data.anomalies", "{}"]
BUILT_IN = ["builtin_fgsm", "builtin_pgd", "builtin_semantic", "builtin_gaussian_noise", "builtin_defocus_blur",
            "builtin_fog", "builtin_contrast", "builtin_jpeg_compression"]  # fmt: skip
REASON = "`val` should have more images. Got 1. Add some."


@pytest.fixture
def own(module):
    module("own_outliers", OWN)


@pytest.fixture
def broken(monkeypatch):
    """Let a detector's fit fail, on every source or where a source's images are among the records."""

    def broken(name, error, source=""):
        kind = getattr(detectors, name)
        method = "begin" if name == "MLP" else "fit"  # all MLPs of a process are trained together
        fit = getattr(kind, method)

        def failing(self, records, seed):
            if any(one.startswith(source) for one in records.ids):
                raise error
            return fit(self, records, seed)

        monkeypatch.setattr(kind, method, failing)

    return broken


def scores(folder, detector="synthetic_outliers"):
    columns = read_rows(Path(folder) / "scores.parquet")
    chosen = np.array(columns["detector"]) == detector
    return dict(zip(np.array(columns["id"])[chosen], np.array(columns["score"])[chosen], strict=True))


def test_all_kinds_by_name_stand_in_table_and_files_and_the_best_that_needs_no_anomalies_is_the_guard(
    run, own, capsys, probed
):
    words = ["--detection.detectors", f"[{', '.join(DETECTORS.values())}]", "--detection.metrics", "[lee2018, openood]"]
    detect(run, "all", *words)
    names, found = ["mlp", *DETECTORS], results("all")
    outcomes = found["outcomes"]
    assert [(one["source"], one["detector"]) for one in outcomes] == [
        (source, name) for source in ("nine", "photographs") for name in names
    ]
    shown = [line.split()[:2] for line in table(capsys.readouterr().out).splitlines()]
    assert [words[1] for words in shown if words[0] == "nine"] == names
    mlp = [one["metrics"]["test"]["auroc"] for one in outcomes if one["detector"] == "mlp"]
    assert mlp == [one["metrics"]["test"]["auroc"] for one in results(run)["outcomes"]]
    metrics = set(outcomes[0]["metrics"]["test"])
    assert {"lee2018/tnr_at_tpr95", "lee2018/aupr_in", "openood/fpr_at_tpr95", "openood/aupr_out"} <= metrics
    assert not [name for name in metrics if name.startswith(("odin/", "energy/"))]
    trust = ["own_outliers"]
    free = {one["detector"] for one in outcomes if one["trained_on"] == "normal"}
    files = {(path.parent.name, path.stem): path for path in Path("all/detectors").glob("*/*.safetensors")}
    tuned = [(source, name) for source in ("nine", "photographs") for name in names if name not in free]
    assert {*files} == {*tuned, *(("normal", name) for name in free)}
    saved = {name: detectors.load_detector(path, trust) for (_, name), path in files.items()}
    assert {saved[name].counts["val"]["anomalous"] for name in free} == {0}
    assert len(saved["lid"].fitted.layers) == 4  # the stem and three stages
    assert 0 <= saved["odin"].fitted.column < len(saved["odin"].detector.probes[0].grid)
    assert len(list(Path("runs/.records").glob("*/*.safetensors"))) == 1  # both kinds of Mahalanobis share it
    assert free >= {"gradient_gaussian", "gradient_knn", "knn", "baseline", "energy", "synthetic_outliers"}
    assert {one["counts"]["train"]["anomalous"] for one in outcomes if one["detector"] in free} == {0}
    means = {name: np.mean([o["metrics"]["val"]["auroc"] for o in outcomes if o["detector"] == name]) for name in free}
    assert Guard.load("all/guard", ["own_outliers"]).about.detector_name == max(means, key=means.__getitem__)
    made = {name for name in found["provenance"]["perturbations"] if name.startswith("synthetic_")}
    assert made == {"synthetic_blur", "synthetic_sign_step", "synthetic_half"}
    keys = found["provenance"]["records"]
    read = {name.partition("/")[2] for name in keys if name.startswith("synthetic_blur/")}
    assert read == {"features/layers+spread", "logits", "views/mirror+blur"}  # no gradients, which cost most
    assert probed
    probed.clear()
    detect(run, "again", *words)
    assert not probed
    assert scores("again") == scores("all")


def test_leave_one_out_trains_on_the_others_and_cross_shows_every_source_against_each(run, drawn, capsys):
    outcomes = results(detect(run, "other", "--detection.protocol", "leave_one_out"))["outcomes"]
    assert [(one["source"], one["trained_on"]) for one in outcomes] == [("nine", "others"), ("photographs", "others")]
    lines = table(capsys.readouterr().out).splitlines()
    assert [line.split()[:3] for line in lines[2:4]] == [["nine", "mlp", "others"], ["photographs", "mlp", "others"]]
    outcomes = [one for one in results(drawn / "drawn")["outcomes"] if one["detector"] == "mlp"]
    names = list(dict.fromkeys(one["source"] for one in outcomes))
    assert len(outcomes) == len({(one["trained_on"], one["source"]) for one in outcomes}) == len(names) ** 2
    printed = (drawn / "printed.txt").read_text()
    assert printed[printed.index("mlp: AUROC in %") :].splitlines()[1].split() == ["trained", "on", *names, "others"]
    assert [name for name in names if not (drawn / f"drawn/detectors/{name}/mlp.safetensors").is_file()] == []


def test_a_folder_of_normal_images_is_enough_and_a_budget_reads_few_of_them(run, capsys, monkeypatch):
    write_digits(Path("photos"), [0, 1, 2])
    capsys.readouterr()
    monkeypatch.setattr(DetectionSettings, "sizes", lambda self, known: Budget((20, 20, 10), (0, 3, 4)))
    detect(run, "alone", *ALONE, "--data.train", "null", "--data.normal", "photos", "--data.limits.images", "60")
    output = capsys.readouterr()
    said = output.out + output.err
    assert "No anomalies are named: weighted_parts, gradient_knn, energy are fitted on" in said
    assert "The sources builtin_* are made from the normal images; they do not predict" in said
    outcomes = results("alone")["outcomes"]
    assert list(dict.fromkeys(one["source"] for one in outcomes)) == BUILT_IN
    assert {one["trained_on"] for one in outcomes} == {"normal"}
    assert "Budget `standard`: 20 of 24 normal images fit detectors, 20 of 24 calibrate them and 10 of 12 test" in said
    counts = {"train": (20, 0), "val": (20, 3), "test": (10, 4)}
    assert [one["counts"] for one in outcomes] == len(outcomes) * [
        {split: dict(zip(("normal", "anomalous"), numbers, strict=True)) for split, numbers in counts.items()}
    ]
    assert {len(ids) for ids in json.loads(Path("alone/splits.json").read_text())["sources"]["normal"].values()} == {
        20,
        10,
    }
    about = json.loads(Path("alone/guard/guard.json").read_text())
    assert about["built_in"] is True
    assert set(about["metrics"]) == {*BUILT_IN, "normal"}
    shown = output.out[output.out.index("Guard: `") :]
    assert [line.split()[0] for line in shown.splitlines() if line.startswith("builtin_")] == BUILT_IN
    main(["score", "--guard", "alone/guard", "photos", "--output", "scores.csv"])
    found = {row.split(",")[0]: float(row.split(",")[3]) for row in Path("scores.csv").read_text().splitlines()[1:]}
    own = {name: score for name, score in scores("alone", about["detector_name"]).items() if name.startswith("normal/")}
    assert own
    there = [found[f"photos/{name.removeprefix('normal/')}"] for name in own]
    assert there == pytest.approx(list(own.values()), rel=1e-5)  # another batch: detect takes 60 of the files


def test_a_method_of_the_preset_post_hoc_guards_with_the_head_it_was_fitted_with(run, capsys):
    folder = detect(run, "post_hoc", "--detection.preset", "post_hoc", "--detection.guard", "adascale", *ALONE)
    assert "Left out" not in capsys.readouterr().err
    guard = Guard.load(folder / "guard")
    assert (guard.about.detector_name, guard.about.trained_on) == ("adascale", "normal")
    images = write_digits(Path("again"), [0, 1, 2])
    main(["score", "--guard", str(folder / "guard"), "again", "--output", "again.csv"])
    assert len(Path("again.csv").read_text().splitlines()) == len(images) + 1


def test_the_guards_detector_can_be_chosen_or_there_is_none(run, capsys):
    guard = Guard.load(detect(run, "chosen", "--detection.guard", "mlp") / "guard")
    assert (guard.about.detector_name, guard.about.trained_on) == ("mlp", "nine+photographs")
    assert len(guard.calibration) == 4  # the MLP stops on the other half of `val`
    assert set(guard.about.metrics) == {"nine", "photographs", "normal"}
    assert "Guard: `mlp`, fitted on " in capsys.readouterr().out
    detect(run, "none", "--detection.false_positive_rate", "0.01")
    output = capsys.readouterr().out
    assert "should have at least 99 images in `val` for `detection.false_positive_rate = 0.01`" in output
    assert "Results and figures: " in output
    assert not Path("none/guard").exists()


def test_a_detector_that_fails_is_a_row_that_says_why_and_costs_nothing_that_the_others_found(run, broken, capsys):
    words = ["--detection.detectors", "[Energy, Baseline]", "--detection.guard", "energy"]
    detect(run, "again", *words)  # its guard is there when the second one fails
    broken("Energy", np.linalg.LinAlgError("Singular matrix\nmore of it"))
    broken("MLP", Refusal(REASON), "nine/")
    code, out, err = called([*detecting(run), "--run_dir", "again", *words], capsys)
    assert code == 3
    assert "error: fits failed: 3, of `" in err
    assert err.endswith("; the table says why, all else is reported.\n")
    reason = "LinAlgError: Singular matrix."
    assert f"failed: `energy` on `nine`: {reason}" in out
    assert "No guard is saved: `energy` cannot be one: " in out
    assert "The guard in again/guard is that of an earlier run." in out
    rows = [line.split() for line in table(out).splitlines()]
    assert [row[row.index("energy") + 1 :].count("failed") for row in rows if "energy" in row] == [1, 1]
    found = results("again")
    assert {(one["source"], one["detector"]) for one in found["outcomes"]} == {
        ("photographs", "mlp"), ("nine", "baseline"), ("photographs", "baseline"),
    }  # fmt: skip
    assert {(one["source"], one["detector"], one["reason"]) for one in found["failures"]} == {
        ("nine", "energy", reason), ("photographs", "energy", reason), ("nine", "mlp", REASON),
    }  # fmt: skip
    assert "failed: `energy` on `nine`: " in Path("again/report.html").read_text()
    broken("MLP", Refusal(REASON))
    words = "At least one detector should be fitted. Got 2 failures, the first of `mlp` on `nine`: `val`"
    assert refused([*detecting(run), "--run_dir", "none"], capsys).startswith(words)
    assert not Path("none/results.parquet").exists()
