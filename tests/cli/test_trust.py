"""`--trust`: an experiment file from somebody else imports and builds nothing but what the user names."""

import sys
from pathlib import Path

import lightning.pytorch  # noqa: F401  # its log handler keeps the stream that it first meets
import pytest
import tiny
from tiny import FILE, refused

from lightning_gradood.cli import main
from lightning_gradood.cli.trust import OWN
from lightning_gradood.core import may_import, shipped_files

EVIL = """
import os

os.mkdir("executed")

from lightning_gradood.networks import CifarResNet
from lightning_gradood.data import DigitsSource as Source, ImageDataModule as Data
from lightning_gradood.tasks import ClassificationTask as Task
from lightning.pytorch.callbacks import Callback as Call
from lightning.pytorch.loggers import CSVLogger as Logger
from torchvision.transforms.v2 import Resize
from torch.optim import SGD


class Network(CifarResNet):
    pass


def attack(network, images, labels):
    return images
"""


@pytest.fixture(autouse=True)
def here(workplace, monkeypatch):
    Path("evil.py").write_text(EVIL)
    monkeypatch.syspath_prepend(".")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield
    sys.modules.pop("evil", None)


def not_imported(words, capsys):
    """The sentence of a refusal before which the module was not imported."""
    message = refused([words[0], "--trust", "own", *words[1:]], capsys)
    assert "evil" not in sys.modules
    assert not Path("executed").exists()
    return message


def edited(old, new):
    assert old in tiny.CONFIG
    Path("theirs.yaml").write_text(tiny.CONFIG.replace(old, new))
    return ["--config", "theirs.yaml"]


FLAGS = {
    "network": ["--model.network", "evil.Network"],
    "class_path": ["--model.network.class_path", "evil.Network"],
    "init_args": ["--model.init_args.network", "{class_path: evil.Network}"],
    "task": ["--model", "evil.Task"],
    "data": ["--data=evil.Data"],
    "transform": ["--data.transform", "evil.Resize"],
    "source": ["--data.normal", "{class_path: evil.Source}"],
    "anomalies": ["--data.anomalies", "{x: {class_path: evil.Source}}"],
    "attack": ["--data.attacks", "{x: {class_path: FunctionAttack, init_args: {function: evil.attack}}}"],
    "optimizer": ["--model.optimizer", "evil.SGD"],
    "callbacks": ["--trainer.callbacks", "[{class_path: evil.Call}]"],
    "more callbacks": ["--trainer.callbacks+=evil.Call"],
    "logger": ["--trainer.logger", "evil.Logger"],
    "advertorch": ["--data.attacks", "{x: {class_path: AdvertorchAttack, init_args: {attack: evil.attack}}}"],
    "label design": ["--detection.label_designs", "[{class_path: evil.Design}]"],
    "detector": ["--detection.detectors", "[{class_path: evil.Detector}]"],
    "help": ["--model.help", "evil.Task"],
}


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
def test_no_flag_imports_what_is_not_trusted(flags, capsys):
    message = not_imported(["fit", *FILE, *flags], capsys)
    assert "Got `evil." in message
    assert message.endswith("add --trust evil.")


EDITS = {
    "network": ("lightning_gradood.networks.CifarResNet", "evil.Network"),
    "short": ("class_path: lightning_gradood.networks.CifarResNet", "evil.Network #"),
    "environment": ("lightning_gradood.networks.CifarResNet", "${oc.env:EVIL}"),
    "interpolated": (
        "seed_everything: 0",
        "run_dir: evil.Network\nmodel: {class_path: ClassificationTask, init_args: {network: {class_path: '${run_dir}'}}}"
        "\nseed_everything: 0",
    ),
    "callbacks": ("ReportCallback", "evil.Call"),
    "nested file": (
        "transform: {class_path: torchvision.transforms.v2.Resize, init_args: {size: [8, 8]}}",
        "transform: part.yaml",
    ),
    "attribute": ("lightning_gradood.networks.CifarResNet", "torch.nn.evil.Network"),
    "anchor": ("lightning_gradood.networks.CifarResNet", "&a evil.Network"),
}  # fmt: skip


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_no_file_imports_what_is_not_trusted(edit, capsys, monkeypatch):
    monkeypatch.setenv("EVIL", "evil.Network")
    Path("part.yaml").write_text("class_path: evil.Resize")
    text = edited(*edit)
    if edit[0].startswith("seed"):  # one key `model` only
        Path("theirs.yaml").write_text(Path("theirs.yaml").read_text().replace("\nmodel:\n", "\nother:\n"))
    not_imported(["fit", *text], capsys)


@pytest.mark.parametrize("flag", ["--model", "--data", "--trainer"])
def test_no_nested_file_imports_what_is_not_trusted(flag, capsys):
    Path("part.yaml").write_text(
        {"--model": "class_path: evil.Task", "--data": "class_path: evil.Data"}.get(flag, "callbacks: evil.Call")
    )
    assert "Got `evil." in not_imported(["fit", *FILE, flag, "part.yaml"], capsys)


@pytest.mark.parametrize(
    "path",
    [
        "os.system",
        "subprocess.Popen",
        "torch.hub.load",
        "torch.load",
        "torch.utils.cpp_extension.load_inline",
        "torchvision.models.os.system",
        "torch.nn.modules.module.functools.partial",
        "lightning_gradood.networks.checkpoints.torch.load",
        "lightning_gradood.core.atomic_write",
        "lightning_gradood.cli.main",
        "torchvision.datasets.MNIST",
        "jsonargparse.set_parsing_settings",
        "builtins.exec",
    ],
)
def test_own_packages_are_no_way_round(path, capsys):
    not_imported(["fit", *FILE, "--model.network", path], capsys)
    not_imported(
        ["fit", *FILE, "--data.attacks", f"{{x: {{class_path: FunctionAttack, init_args: {{function: {path}}}}}}}"],
        capsys,
    )


def test_a_message_does_not_have_a_module_imported(capsys):
    not_imported(["fit", *FILE, "--model.network", "module 'evil' has no attribute 'Netwrk'"], capsys)
    refused(["fit", *FILE, "--model.network", "module 'evil' has no attribute 'Netwrk'"], capsys)
    assert not Path("executed").exists()


def test_a_file_cannot_trust_itself(capsys):
    words = edited("seed_everything: 0", "trust: evil\nseed_everything: 0")
    assert "trust" in not_imported(["fit", *words, "--model.network", "evil.Network"], capsys)


def test_a_benchmark_is_held_to_it(capsys):
    Path("bench.yaml").write_text(
        "seeds: [0]\nexperiments: {a: {config: tiny.yaml, dataset: d, network: n, flags: {model.network: evil.Network}}}"
    )
    assert "Got `evil.Network`" in not_imported(["benchmark", "--config", "bench.yaml"], capsys)


@pytest.mark.parametrize(
    "words", [["--trust"], ["--trust", "a b"], ["--trust="], ["--trust", "jsonargparse"], ["--trust", "*"]]
)
def test_what_names_no_package_is_refused(words, capsys):
    assert "`--trust` should name a package or module" in refused(["fit", *FILE, *words], capsys)


def print_config(words, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([*words, "--print_config"])
    assert exit_.value.code in (0, None)
    return capsys.readouterr().out


def test_a_package_is_built_once_it_is_trusted_and_everything_is_without_the_flag(capsys):
    words = ["fit", *FILE, "--model.network", "evil.Network"]
    assert "evil.Network" in print_config([*words, "--trust", "evil"], capsys)
    assert Path("executed").exists()
    Path("executed").rmdir()
    sys.modules.pop("evil")
    assert "evil.Network" in print_config(words, capsys)
    assert Path("executed").exists()
    assert may_import("os.system")


@pytest.mark.parametrize("name", [name for name in shipped_files("configs") if not name.startswith("tables_")])
def test_shipped_files_name_only_what_is_our_own(name, capsys):
    assert "class_path" in print_config(["fit", "--trust=own", "--config", name], capsys)


def test_own_does_not_hold_whole_packages_that_load_files():
    assert not {"torch", "torchvision", "torchvision.datasets", "lightning", "lightning_gradood", "timm"} & set(OWN)
