"""The main job by one command: train, probe, detect, report; and what a run folder is."""

import csv
import json
from pathlib import Path

import pytest
import torch
import yaml
from tiny import FILE, IMAGES, WITH_FIGURES, copy_run, numbers, only_run, refused, results, snapshot, table

from lightning_gradood.cli import main
from lightning_gradood.tasks import ClassificationTask


@pytest.fixture
def epochs(monkeypatch):
    """The epochs that are trained."""
    seen = []
    step = ClassificationTask.training_step

    def counting(self, *args):
        seen.append(self.current_epoch)
        return step(self, *args)

    monkeypatch.setattr(ClassificationTask, "training_step", counting)
    return seen


def test_fit_ends_with_the_table_and_fills_the_run_folder(capsys, probed):
    main(["fit", *FILE, *WITH_FIGURES])
    printed = capsys.readouterr().out
    rows = table(printed).splitlines()
    assert rows[0].split()[:5] == ["source", "detector", "n", "train", "n"]
    assert [row.split()[:5] for row in rows[2:4]] == [
        [source, "mlp", "8+8", "8+8", "4+4"] for source in ("nine", "photographs")
    ]
    folder = only_run()
    assert f"\nResults and figures: {folder}\n" in printed
    assert printed.rstrip().endswith(f"  python -m lightning_gradood score --guard {folder}/guard FOLDER")
    for name in (
        *(
            "config.yaml",
            "splits.json",
            "results.json",
            "results.csv",
            "results.parquet",
            "scores.parquet",
            "checkpoints/best.ckpt",
            "checkpoints/last.ckpt",
        ),
        *(
            f"figures/{name}.png"
            for name in ("roc_mlp", "precision_recall_mlp", "scores_mlp", "layer_norms", "samples")
        ),
        *(f"detectors/{source}/mlp.safetensors" for source in ("nine", "photographs")),
    ):
        assert (folder / name).stat().st_size > 0, name
    assert sum(probed) == IMAGES


def test_the_files_of_a_run_agree_with_its_table(run, finished):
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["data"]["init_args"]["limit"] == 20
    assert config["detection"]["mlp"]["width"] == 128  # defaults are resolved too
    splits = json.loads((run / "splits.json").read_text())["sources"]
    assert {source: [len(parts[name]) for name in ("train", "val", "test")] for source, parts in splits.items()} == {
        source: [8, 8, 4] for source in ("normal", "nine", "photographs")
    }
    document = results(run)
    assert document["experiment"] == "tiny"
    assert set(document["provenance"]["records"].values()) == {
        path.parent.name for path in Path("runs/.records").glob("*/entry.json")
    }
    with open(run / "results.csv") as file:
        rows = {(row["source"], row["split"], row["metric"]): row["value"] for row in csv.DictReader(file)}
    for outcome in document["outcomes"]:
        assert float(rows[outcome["source"], "test", "auroc"]) == outcome["metrics"]["test"]["auroc"]


def test_detection_null_stops_after_the_classifier(capsys, probed):
    main(["fit", *FILE, "--detection", "null", "--trainer.max_epochs", "1"])
    folder = only_run()
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "checkpoints", "logs", "run.log"}
    assert not probed
    assert "AUROC" not in capsys.readouterr().out


def test_fast_dev_run_walks_every_stage_and_leaves_folder_and_records_to_the_run_itself(capsys, probed):
    main(["fit", *FILE, "--trainer.fast_dev_run", "true", "--run_dir", "real", "--data.limit", "40"])
    assert [row.split()[0] for row in table(capsys.readouterr().out).splitlines()[2:4]] == ["nine", "photographs"]
    assert sum(probed) == 3 * 30
    assert not Path("real").exists()
    assert not list(Path("runs/.records").glob("*/entry.json"))
    assert Path("real_fast_dev_run/guard").is_dir()


def test_detect_alone_repeats_the_numbers_from_cached_records(run, probed, capsys):
    main(["detect", *FILE, "--ckpt_path", str(run / "checkpoints/best.ckpt")])
    assert not probed
    (again,) = [folder for folder in Path("runs/tiny").iterdir() if folder != run]
    assert numbers(again) == numbers(run)
    assert not (again / "checkpoints").exists()
    assert str(again) in capsys.readouterr().out


def test_a_label_design_that_is_new_is_probed_alone(run, probed):
    arguments = ["detect", *FILE, "--ckpt_path", str(run / "checkpoints/best.ckpt")]
    main([*arguments, "--detection.label_designs", "[AllOnes, Uniform]", "--run_dir", "both"])
    assert sum(probed) == IMAGES
    keys = results(Path("both"))["provenance"]["records"]
    assert keys["nine/gradients/all_ones"] == results(run)["provenance"]["records"]["nine/gradients/all_ones"]
    assert "nine/gradients/uniform" in keys


def test_two_runs_print_the_same_table_and_get_folders_of_their_own(finished, capsys):
    main(["fit", *FILE])
    first = table(capsys.readouterr().out)
    main(["fit", *FILE, "--cache_dir", "elsewhere"])
    assert table(capsys.readouterr().out) == first
    one, other = Path("runs/tiny").iterdir()
    assert numbers(one) == numbers(other)
    assert numbers(one) == numbers(next((finished / "runs" / "tiny").iterdir()))
    main(["detect", *FILE, "--ckpt_path", str(one / "checkpoints/best.ckpt"), "--seed_everything", "1"])
    assert table(capsys.readouterr().out) == first  # stage two has seeds of its own


def test_another_seed_trains_another_classifier(finished):
    main(["fit", *FILE, "--seed_everything", "1", "--detection", "null"])
    (theirs,) = finished.glob("runs/tiny/*/checkpoints/best.ckpt")
    weights = [
        torch.load(path, weights_only=True)["state_dict"] for path in (theirs, only_run() / "checkpoints/best.ckpt")
    ]
    assert not torch.equal(*(state["network.conv1.weight"] for state in weights))


def test_an_interrupted_fit_goes_on_where_it_stopped(monkeypatch, epochs, capsys):
    class PowerCutError(Exception):
        pass

    with monkeypatch.context() as patch:
        patch.setattr(ClassificationTask, "on_train_epoch_start", lambda self: _fail_in(self, 2, PowerCutError))
        with pytest.raises(PowerCutError):
            main(["fit", *FILE, "--trainer.max_epochs", "3"])
    assert set(epochs) == {0, 1}
    folder = only_run()
    before = snapshot(folder / "logs")
    epochs.clear()
    main(["fit", *FILE, "--trainer.max_epochs", "3", "--run_dir", str(folder)])
    assert set(epochs) == {2}
    assert table(capsys.readouterr().out)
    assert only_run() == folder
    assert before.items() <= snapshot(folder / "logs").items()


def _fail_in(task, epoch, error):
    if task.current_epoch == epoch:
        raise error


def test_naming_a_finished_run_reports_it_again_or_trains_it_longer(run, epochs, probed):
    before = numbers(run)
    main(["fit", *FILE, "--run_dir", str(run)])
    assert not epochs
    assert not probed
    assert numbers(run) == before
    best = Path(results(run)["provenance"]["checkpoint"])
    assert best.resolve() == (run / "checkpoints/best.ckpt").resolve(), "the run was copied: not where it lay before"
    main(["fit", *FILE, "--run_dir", str(run), "--trainer.max_epochs", "3"])
    assert set(epochs) == {2}
    assert only_run() == run


def test_detect_in_an_earlier_run_takes_its_best_checkpoint(run, probed):
    before = numbers(run)
    (run / "results.json").unlink()
    main(["detect", *FILE, "--run_dir", str(run)])
    assert not probed
    assert numbers(run) == before
    assert results(run)["provenance"]["checkpoint"] == str(run / "checkpoints/best.ckpt")


@pytest.mark.parametrize("verb", ["fit", "detect"])
@pytest.mark.parametrize(
    ("flag", "key"),
    [
        ("--seed_everything=1", "seed_everything"),
        ("--model.label_smoothing=0.1", "model.init_args.label_smoothing"),
        ("--data.split_seed=5", "data.init_args.split_seed"),
        ("--detection.mlp.width=7", "detection.mlp.width"),
    ],
)
def test_the_folder_of_another_experiment_is_refused_and_left_untouched(run, verb, flag, key, capsys):
    before = snapshot(Path("runs"))
    message = refused([verb, *FILE, "--run_dir", str(run), flag], capsys)
    assert f"`run_dir = {run}`, whose config.yaml differs in {key}. Name another folder" in message
    assert snapshot(Path("runs")) == before


@pytest.mark.parametrize("verb", ["fit", "detect"])
def test_a_folder_of_somebody_else_is_refused_and_left_untouched(run, verb, capsys):
    Path("thesis").mkdir()
    Path("thesis/chapter.tex").write_text("precious")
    weights = ["--model.weights", str(run / "checkpoints/best.ckpt")]
    message = refused([verb, *FILE, *weights, "--run_dir", "thesis"], capsys)
    assert "`run_dir = thesis`, which is no folder or holds other files and no config.yaml" in message
    assert "`run_dir = tiny.yaml`" in refused([verb, *FILE, *weights, "--run_dir", "tiny.yaml"], capsys)
    assert "`run_dir = tiny.yaml/sub`" in refused([verb, *FILE, *weights, "--run_dir", "tiny.yaml/sub"], capsys)
    assert [path.name for path in Path("thesis").iterdir()] == ["chapter.tex"]


def test_a_failure_after_training_loses_nothing(run, workplace, probed, capsys, finished):
    """An image that cannot be read, of a source too large for memory, is met while probing, after training."""
    folder = Path("smoke")
    folder.mkdir()
    for row in range(6):
        _picture(row).save(folder / f"{row}.png")
    (folder / "3.png").write_bytes(b"cut off")
    anomalies = ["--data.anomalies", "{smoke: smoke}", "--data.memory_limit_gib", "0"]
    message = refused(["fit", *FILE, *anomalies, "--trainer.max_epochs", "1"], capsys)
    assert "`smoke/3.png`" in message
    (again,) = [path for path in Path("runs/tiny").iterdir() if path != run]
    assert (again / "checkpoints/best.ckpt").exists()
    _picture(3).save(folder / "3.png")
    main(["detect", *FILE, *anomalies, "--run_dir", str(again)])
    assert results(again)["outcomes"][0]["source"] == "smoke"
    assert copy_run(finished, workplace / "other")  # the run it started from is as it was


def _picture(seed):
    import numpy as np
    from PIL import Image

    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8))
