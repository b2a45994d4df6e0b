"""Any value by flag, interpolation, and help that a reader can take in."""

import json
import re
from pathlib import Path

import yaml
from tiny import FILE, printed, resolved

VERBS = ["fit", "validate", "test", "predict", "extract", "detect", "benchmark"]
FLAGS = {
    "seed_everything": ("seed_everything", 3),
    "model.network.num_classes": ("model.init_args.network.init_args.num_classes", 4),
    "model.normalize": ("model.init_args.normalize", {"mean": [0.5, 0.5, 0.5], "std": [1, 1, 1]}),
    "model.optimizer": ("model.init_args.optimizer.class_path", "torch.optim.AdamW"),
    "data.anomalies.photographs.scale": ("data.init_args.anomalies.photographs.init_args.scale", 0.5),
    "data.anomalies.mine": ("data.init_args.anomalies.mine", "my/folder"),
    "data.split.fractions": ("data.init_args.split.fractions", [0.5, 0.3, 0.2]),
    "detection.mlp.log_values": ("detection.mlp.log_values", False),
}
HELP = [  # what a reader looks for
    (["benchmark"], ["--config", "--experiments", "--seeds", "--detectors", "--run_dir", "--cache_dir", "--tables.near"]),
    (["fit"], ["--trainer.max_epochs ", "--model ", "--data ", "--detection ", "--run_dir ", "--cache_dir ", "--ckpt_path ",
               "an earlier one of the same experiment is continued"]),
    (["fit", "--model.help", "ClassificationTask"],
     ["--model.network", "--model.weights WEIGHTS", "file with initial weights"]),
    (["fit", "--data.help", "ImageDataModule"],
     ["--data.normal NORMAL", "--data.split.seed", "FolderSource", "default: 64"]),
    (["fit", "--detection.help"], ["--detection.mlp.width WIDTH", "--detection.label_designs", "Predicted"]),
]  # fmt: skip


def at(config, path):
    """What stands under a dotted key."""
    for key in path.split("."):
        config = config[key]
    return config


def test_any_value_is_a_flag_and_what_is_printed_can_be_run_again(capsys):
    flags = [f"--{flag}={value if isinstance(value, str) else json.dumps(value)}" for flag, (_, value) in FLAGS.items()]
    text = printed(["detect", *FILE, *flags, "--print_config"], capsys)
    config = yaml.safe_load(text)
    wrong = {flag: at(config, path) for flag, (path, value) in FLAGS.items() if at(config, path) != value}
    assert wrong == {}
    Path("printed.yaml").write_text(text)
    assert resolved(["detect", "--config", "printed.yaml"], capsys) == config


def test_interpolation_reaches_across_files_and_follows_overrides(capsys, monkeypatch):
    Path("more.yaml").write_text(
        "data: {init_args: {probe_batch_size: '${data.init_args.batch_size}', limits: {images: '${detection.mlp.width}'}}}\n"
        "model: {init_args: {label_smoothing: '${div:8,255}', weights: '${oc.env:WEIGHTS_DIR,somewhere}/net.pt'}}\n"
        "detection: {mlp: {learning_rate: 0.5}}"
    )
    keys = ["data.init_args.probe_batch_size", "data.init_args.limits.images", "model.init_args.weights"]
    files = ["fit", *FILE, "--config", "more.yaml"]
    config = resolved(files, capsys)
    assert [at(config, key) for key in keys] == [64, 128, "somewhere/net.pt"]  # 128 is a default that no file names
    assert config["model"]["init_args"]["label_smoothing"] == 8 / 255
    monkeypatch.setenv("WEIGHTS_DIR", "here")
    config = resolved([*files, "--data.batch_size", "7", "--detection.mlp.width=9"], capsys)
    assert [at(config, key) for key in keys] == [7, 9, "here/net.pt"]
    assert config["detection"]["mlp"] == config["detection"]["mlp"] | {"learning_rate": 0.5, "max_epochs": 3}


def test_help_names_every_verb_and_what_a_reader_needs_on_a_few_screens(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    text = printed(["--help"], capsys)
    assert text.startswith("usage: python -m lightning_gradood ")
    assert [verb for verb in VERBS if not re.search(rf"^    {verb} +[A-Z].*\.$", text, re.MULTILINE)] == []
    for words, expected in HELP:
        text = printed(words if len(words) > 1 else [*words, "--help"], capsys)
        assert [word for word in expected if word not in re.sub(r"\s+", " ", text)] == []
        if len(words) > 1:
            assert len(text.splitlines()) < 150, "hundreds of known subclasses hide what a reader looks for"
            assert all(len(line) <= 130 for line in text.splitlines())
