"""One file, every verb; any value by flag; interpolation; help that a reader can take in."""

import os
import re
from pathlib import Path

import pytest
import torch
import yaml
from tiny import FILE, IMAGES, numbers, refused, snapshot

from lightning_gradood.cli import main

VERBS = ["fit", "validate", "test", "predict", "extract", "detect"]


def printed(arguments, capsys):
    """What a call prints that ends by itself, such as --help."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    output = capsys.readouterr()
    assert exit_.value.code == 0, output.err
    return output.out


def resolved(arguments, capsys):
    """The configuration that a call would run with."""
    return yaml.safe_load(printed([*arguments, "--print_config"], capsys))


@pytest.mark.parametrize(("verb", "metric"), [("validate", "val"), ("test", "test")])
def test_validate_and_test_take_the_best_checkpoint_of_a_run_or_any_file(run, verb, metric, capsys):
    shown = []
    for where in (["--run_dir", str(run)], ["--ckpt_path", str(run / "checkpoints/best.ckpt")]):
        before = numbers(run)
        main([verb, *FILE, *where])
        shown.append(re.findall(rf"{metric}/(?:accuracy|loss)\W+([\d.]+)", capsys.readouterr().out))
        assert numbers(run) == before
    assert len(shown[0]) == 2
    assert shown[0] == shown[1]


def test_predict_runs_the_classifier_on_every_source_and_probes_nothing(run, probed, monkeypatch):
    from lightning_gradood.tasks import ClassificationTask

    seen = []
    monkeypatch.setattr(
        ClassificationTask, "predict_step", lambda self, batch, *_, **__: seen.append(len(batch[0])) or self(batch[0])
    )
    main(["predict", *FILE, "--run_dir", str(run)])
    assert sum(seen) == IMAGES
    assert not probed


def test_a_run_chooses_its_threads_and_leaves_the_choice_of_the_next_run_open(run, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    before = torch.get_num_threads()
    try:
        main(["extract", *FILE, "--run_dir", str(run)])
    finally:
        torch.set_num_threads(before)
    assert "OMP_NUM_THREADS" not in os.environ


def test_extract_keeps_the_records_that_detect_then_finds(run, probed):
    before = numbers(run)
    main(["extract", *FILE, "--run_dir", str(run), "--cache_dir", "new"])
    assert sum(probed) == IMAGES
    assert len(list(Path("new").glob("*/entry.json"))) == 3 * 2  # gradients and logits of each source
    probed.clear()
    main(["detect", *FILE, "--run_dir", str(run), "--cache_dir", "new"])
    assert not probed
    assert numbers(run) == before


@pytest.mark.parametrize("verb", ["validate", "test", "predict", "extract"])
def test_verbs_that_read_a_run_leave_other_folders_alone(run, verb, capsys):
    Path("thesis").mkdir()
    Path("thesis/chapter.tex").write_text("precious")
    before = snapshot(Path("."))
    assert "`run_dir = thesis`" in refused([verb, *FILE, "--run_dir", "thesis"], capsys)
    assert "`run_dir` should be an earlier run's folder" in refused([verb, *FILE, "--run_dir", "new"], capsys)
    other = [verb, *FILE, "--run_dir", str(run), "--data.split_seed", "3"]
    assert "differs in data.init_args.split_seed" in refused(other, capsys)
    assert snapshot(Path(".")) == before
    assert not Path("new").exists()


def test_interpolation_reaches_across_files_and_follows_overrides(capsys, monkeypatch):
    Path("more.yaml").write_text(
        "data: {init_args: {probe_batch_size: '${data.init_args.batch_size}', limit: '${detection.mlp.width}'}}\n"
        "model: {init_args: {label_smoothing: '${div:8,255}', weights: '${oc.env:WEIGHTS_DIR,somewhere}/net.pt'}}\n"
    )
    files = ["fit", *FILE, "--config", "more.yaml"]
    config = resolved(files, capsys)
    assert config["data"]["init_args"]["probe_batch_size"] == 64
    assert config["data"]["init_args"]["limit"] == 128  # a default that no file names
    assert config["model"]["init_args"]["label_smoothing"] == 8 / 255
    assert config["model"]["init_args"]["weights"] == "somewhere/net.pt"
    monkeypatch.setenv("WEIGHTS_DIR", "here")
    config = resolved([*files, "--data.batch_size", "7", "--detection.mlp.width=9"], capsys)
    assert config["data"]["init_args"]["probe_batch_size"] == 7
    assert config["data"]["init_args"]["limit"] == 9
    assert config["model"]["init_args"]["weights"] == "here/net.pt"


def test_interpolated_values_reach_the_run(run, probed):
    Path("more.yaml").write_text("data: {init_args: {probe_batch_size: '${data.init_args.limit}'}}")
    checkpoint = ["--ckpt_path", str(run / "checkpoints/best.ckpt")]
    main(["extract", *FILE, "--config", "more.yaml", *checkpoint, "--cache_dir", "new", "--data.limit", "10"])
    assert probed == [10, 10, 10]


def test_later_files_and_flags_win(capsys):
    Path("more.yaml").write_text("data: {init_args: {batch_size: 5}}\ndetection: {mlp: {width: 6}}")
    config = resolved(["fit", *FILE, "--config", "more.yaml", "--detection.mlp.width", "7"], capsys)
    assert config["data"]["init_args"]["batch_size"] == 5
    assert config["detection"]["mlp"] == config["detection"]["mlp"] | {"width": 7, "max_epochs": 3}


@pytest.mark.parametrize(
    ("flag", "path", "value"),
    [
        ("--seed_everything=3", "seed_everything", 3),
        ("--trainer.precision=bf16-mixed", "trainer.precision", "bf16-mixed"),
        ("--model.network.num_classes=4", "model.init_args.network.init_args.num_classes", 4),
        ("--model.normalize.mean=[0.5, 0.5, 0.5]", "model.init_args.normalize.mean", [0.5, 0.5, 0.5]),
        ("--model.optimizer=torch.optim.AdamW", "model.init_args.optimizer.class_path", "torch.optim.AdamW"),
        ("--model.scheduler=Cosine", "model.init_args.scheduler.class_path", "lightning_gradood.tasks.Cosine"),
        ("--data.anomalies.photographs.scale=0.5", "data.init_args.anomalies.photographs.init_args.scale", 0.5),
        ("--data.anomalies.mine=my/folder", "data.init_args.anomalies.mine", "my/folder"),
        ("--data.split=[0.5, 0.3, 0.2]", "data.init_args.split", [0.5, 0.3, 0.2]),
        ("--data.transform.size=[16, 16]", "data.init_args.transform.init_args.size", [16, 16]),
        ("--detection.mlp.log_values=false", "detection.mlp.log_values", False),
        ("--cache_dir=there", "cache_dir", "there"),
    ],
)
def test_any_value_is_a_flag(flag, path, value, capsys):
    if "normalize.mean" in flag:
        flag = "--model.normalize={mean: [0.5, 0.5, 0.5], std: [1, 1, 1]}"
    found = resolved(["detect", *FILE, flag], capsys)
    for key in path.split("."):
        found = found[key]
    assert found == value


def test_what_is_printed_can_be_run_again(capsys):
    first = printed(["fit", *FILE, "--print_config"], capsys)
    Path("printed.yaml").write_text(first)
    assert yaml.safe_load(printed(["fit", "--config", "printed.yaml", "--print_config"], capsys)) == yaml.safe_load(
        first
    )


def test_the_programs_help_lists_every_verb_with_a_whole_sentence(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    text = printed(["--help"], capsys)
    assert text.startswith("usage: python -m lightning_gradood ")
    for verb in VERBS:
        assert re.search(rf"^    {verb} +[A-Z].*\.$", text, re.MULTILINE), verb


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_names_what_a_reader_needs(verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    text = printed([verb, "--help"], capsys)
    for flag in ("--trainer.max_epochs", "--model", "--data", "--detection", "--run_dir", "--cache_dir", "--ckpt_path"):
        assert f"\n  {flag} " in text, flag
    assert "an earlier one of the same experiment is continued" in re.sub(r"\s+", " ", text)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--model.help", "ClassificationTask"],
            ["--model.network", "--model.weights WEIGHTS", "file with initial weights"],
        ),
        (
            ["--data.help", "ImageDataModule"],
            ["--data.normal NORMAL", "--data.split_seed", "FolderSource", "default: 128"],
        ),
        (["--detection.help"], ["--detection.mlp.width WIDTH", "--detection.label_designs", "Predicted"]),
        (["--data.normal.help", "FolderSource"], ["root", "relative to the working directory"]),
    ],
)
def test_the_help_of_a_class_fits_on_a_few_screens(arguments, words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    if arguments[0].startswith("--data.normal"):
        arguments = ["--data", "ImageDataModule", *arguments]
    text = printed(["fit", *arguments], capsys)
    for word in words:
        assert word in text
    assert len(text.splitlines()) < 140, "hundreds of known subclasses hide what a reader looks for"
    assert all(len(line) <= 130 for line in text.splitlines())
