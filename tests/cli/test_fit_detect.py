"""The main job by one command: train, probe, detect, report; and what a run folder is."""

import csv
from pathlib import Path

import numpy as np
import pytest
import yaml
from tiny import FILE, IMAGES, all_refused, detect, detecting, numbers, only_run, results, table

from lightning_gradood.cli import main
from lightning_gradood.records import read_rows
from lightning_gradood.tasks import ClassificationTask

FILES = ["config.yaml", "splits.json", "provenance.json", "figures.npz", "curves.parquet", "results.csv",
         "results.parquet", "scores.parquet", "report.html",
         "checkpoints/best.ckpt", "checkpoints/last.ckpt", "detectors/nine/mlp.safetensors", "guard/guard.json"]  # fmt: skip


@pytest.fixture
def epochs(monkeypatch):
    seen = []
    step = ClassificationTask.training_step

    def counting(self, *args):
        seen.append(self.current_epoch)
        return step(self, *args)

    monkeypatch.setattr(ClassificationTask, "training_step", counting)
    return seen


def test_fit_ends_with_the_table_and_a_run_folder_that_agrees_with_it(run, finished):
    printed = (finished / "printed.txt").read_text()
    rows = [row.split()[:5] for row in table(printed).splitlines()]
    assert rows[0] == ["source", "detector", "AUROC", "95", "%"]
    assert [row[:2] for row in rows[2:4]] == [[source, "mlp"] for source in ("nine", "photographs")]
    assert f"\nResults and figures: {run}\n" in printed
    assert printed.rstrip().endswith(f"  python -m lightning_gradood score --guard {run}/guard {run}/samples")
    assert [name for name in FILES if not (run / name).stat().st_size] == []
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["data"]["init_args"]["limits"]["images"] == 20
    assert config["detection"]["mlp"]["width"] == 128  # defaults are resolved too
    splits = yaml.safe_load((run / "splits.json").read_text())["sources"]
    assert {source: [len(parts[name]) for name in ("train", "val", "test")] for source, parts in splits.items()} == {
        source: [8, 8, 4] for source in ("normal", "nine", "photographs")
    }
    document = results(run)
    assert document["experiment"] == "tiny"
    entries = {path.parent.name for path in Path("runs/.records").glob("*/*.parquet")}
    assert set(document["provenance"]["records"].values()) == entries
    with open(run / "results.csv") as file:
        found = {(row["source"], row["split"], row["metric"]): row["value"] for row in csv.DictReader(file)}
    for outcome in document["outcomes"]:
        assert float(found[outcome["source"], "test", "auroc"]) == outcome["metrics"]["test"]["auroc"]


def test_the_shipped_main_job_runs_in_short(capsys, probed):
    main([*("fit", "--config", "digits", "--run_dir", "short", "--data.limits.images", "50", "--data.limits.sources", "{cw: 20}"),
          *("--trainer.max_epochs", "2", "--trainer.accelerator", "cpu", "--detection.mlp.max_epochs", "5"),
          *("--detection.resamples", "20", "--detection.false_positive_rate", "0.1"),
          *("--trainer.callbacks", "[{class_path: ReportCallback, init_args: {figures: false}}]")])  # fmt: skip
    rows = {tuple(row.split()[:2]) for row in table(capsys.readouterr().out).splitlines()}
    sources = {outcome["source"] for outcome in results("short")["outcomes"]}
    assert len(sources) == 8  # the digit 9, photographs, six attacks
    assert {(source, name) for source in sources for name in ("mlp_all_ones", "mlp")} <= rows
    assert probed


def test_runs_with_equal_seeds_are_equal_and_stage_two_has_seeds_of_its_own(run, probed):
    main(["fit", *FILE, "--cache_dir", "elsewhere", "--run_dir", "again"])
    assert sum(probed) == IMAGES
    assert numbers("again") == numbers(run)
    other = detect(Path("again"), "other", "--cache_dir", "elsewhere", "--seed_everything", "1")
    assert sum(probed) == IMAGES
    assert numbers(other) == numbers(run)
    assert not (other / "checkpoints").exists()
    probed.clear()
    main(["fit", *FILE, "--detection", "null", "--run_dir", "bare"])
    assert {path.name for path in Path("bare").iterdir()} == {"config.yaml", "checkpoints", "logs", "run.log"}
    assert not probed


def test_fast_dev_run_walks_every_stage_and_leaves_folder_and_records_to_the_run_itself(capsys, probed):
    main(["fit", *FILE, "--trainer.fast_dev_run", "true", "--run_dir", "real", "--data.limits.images", "80"])
    assert [row.split()[0] for row in table(capsys.readouterr().out).splitlines()[2:4]] == ["nine", "photographs"]
    assert sum(probed) == 3 * 60
    assert not Path("real").exists()
    assert not list(Path("runs/.records").glob("*/*.parquet"))
    assert Path("real_fast_dev_run/guard").is_dir()


def test_naming_a_finished_run_reports_it_again_or_trains_it_longer(run, epochs, probed, capsys):
    before = numbers(run)
    (run / "report.html").write_text("old")
    (run / "results.parquet").unlink()
    main(["detect", *FILE, "--run_dir", str(run)])
    assert not probed
    assert numbers(run) == before
    assert results(run)["provenance"]["checkpoint"] == str(run / "checkpoints/best.ckpt")
    assert f"All on one page: {run}/report.html" in capsys.readouterr().out
    assert "Results" in (run / "report.html").read_text()
    main(["fit", *FILE, "--run_dir", str(run)])
    assert not epochs
    assert numbers(run) == before
    best = Path(results(run)["provenance"]["checkpoint"])
    assert best.resolve() == (run / "checkpoints/best.ckpt").resolve(), "the run was copied: not where it lay before"
    main(["fit", *FILE, "--run_dir", str(run), "--trainer.max_epochs", "3"])
    assert set(epochs) == {2}
    assert only_run() == run


def test_folders_of_another_experiment_or_of_somebody_else_are_refused_and_left_untouched(run, capsys):
    Path("thesis").mkdir()
    Path("thesis/chapter.tex").write_text("precious")
    weights = ["--model.weights", str(run / "checkpoints/best.ckpt")]
    rows = [
        ("fit", run, ["--seed_everything=1"], f"`run_dir = {run}`, whose config.yaml differs in seed_everything. Name"),
        ("detect", run, ["--detection.mlp.width=7"], "differs in detection.mlp.width"),
        ("predict", run, ["--data.split.seed=5"], "differs in data.init_args.split.seed"),
        ("fit", "thesis", [], "`run_dir = thesis`, which is no folder or holds other files and no config.yaml"),
        ("detect", "tiny.yaml/sub", weights, "`run_dir = tiny.yaml/sub`"),
        ("validate", "new", [], "`run_dir` should be an earlier run's folder"),
    ]
    all_refused([([verb, *FILE, "--run_dir", str(folder), *more], words) for verb, folder, more, words in rows], capsys)


def test_extract_keeps_the_records_that_detect_then_finds(run, probed):
    _, *words = [*detecting(run), "--cache_dir", "new"]
    main(["extract", *words])
    assert sum(probed) == IMAGES
    main(["detect", *words, "--run_dir", "found"])
    assert sum(probed) == IMAGES
    assert numbers("found") == numbers(run)


def test_validate_test_and_predict_take_the_best_checkpoint_of_a_run_or_any_file(run, probed, capsys):
    before = numbers(run)
    checkpoint = ["--ckpt_path", str(run / "checkpoints/best.ckpt")]
    for verb, where in (("validate", ["--run_dir", str(run)]), ("test", checkpoint)):
        main([verb, *FILE, *where])
        assert "accuracy" in capsys.readouterr().out
    main(["predict", *FILE, "--run_dir", str(run)])
    main(["predict", *FILE, *checkpoint])
    assert not probed
    assert numbers(run) == before
    predicted, other = (read_rows(path) for path in sorted(Path("runs/tiny").glob("*/predictions.parquet")))
    assert predicted == other
    assert list(predicted) == ["id", "path", "source", "label", "prediction", "probability"]
    assert len(predicted["id"]) == len(set(predicted["id"])) == IMAGES
    sources, labels = np.array(predicted["source"]), np.array(predicted["label"])
    assert list(dict.fromkeys(sources)) == ["normal", "nine", "photographs"]
    assert set(labels[sources == "nine"]) == {"9"}
    known = dict(zip(predicted["id"], predicted["prediction"], strict=True))
    scores = read_rows(run / "scores.parquet")
    assert all(known[name] == one for name, one in zip(scores["id"], scores["prediction"], strict=True))
