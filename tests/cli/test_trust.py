"""`--trust`: an experiment file from somebody else imports and builds nothing but what the user names."""

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import tiny
from parsed import verdict
from tiny import FILE, printed, refused

from lightning_gradood.cli.parsing import OWN, trusting, without_trust
from lightning_gradood.core import Refusal, check_import, shipped_files

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


class Network(CifarResNet): pass
def attack(network, images, labels): return images
"""
FLAGS = [
    "--model.network=evil.Network", "--model.init_args.network={class_path: evil.Network}", "--model=evil.Task",
    "--data=evil.Data", "--data.transform=evil.Resize", "--data.anomalies={x: {class_path: evil.Source}}",
    "--model.optimizer=evil.SGD", "--trainer.callbacks=[{class_path: evil.Call}]", "--trainer.callbacks+=evil.Call",
    "--trainer.logger=evil.Logger", "--model.network=${oc.env:EVIL}", "--config=interpolated.yaml", "--config=anchor.yaml",
    "--config=nested.yaml", "--model=task.yaml", "--trainer=callbacks.yaml", "--model.network=torch.nn.evil.Network",
    "--model.network=module 'evil' has no attribute 'Netwrk'",  # a message's words
]  # fmt: skip
FILES = {
    "interpolated": "run_dir: evil.Network\nmodel: {class_path: ClassificationTask, init_args: {network: '${run_dir}'}}",
    "anchor": "model: {class_path: ClassificationTask, init_args: {network: {class_path: &a evil.Network}}}",
    "nested": "data: {class_path: ImageDataModule, init_args: {normal: photos, transform: transform.yaml}}",
    "task": "class_path: evil.Task",
    "transform": "class_path: evil.Resize",
    "callbacks": "callbacks: evil.Call",
    "theirs": f"trust: evil\n{tiny.CONFIG}",
    "bench": "seeds: [0]\nexperiments: {a: {config: tiny.yaml, dataset: d, network: n, flags: {model.network: evil.Network}}}",
}
WAYS_ROUND = [
    "os.system", "subprocess.Popen", "builtins.exec", "torch.hub.load", "torch.load", "torchvision.models.os.system",
    "torch.utils.cpp_extension.load_inline", "torch.nn.modules.module.functools.partial", "torchvision.datasets.MNIST",
    "lightning_gradood.networks.weights.torch.load", "lightning_gradood.core.atomic_write",
    "lightning_gradood.cli.main", "jsonargparse.set_parsing_settings",
]  # fmt: skip
BUILT_BY_NAME = [  # what is imported only when it is built
    "{x: {class_path: FunctionAttack, init_args: {function: %s}}}",
    "{x: {class_path: AdvertorchAttack, init_args: {attack: %s}}}",
]
NETWORK = ["--model.network", "evil.Network"]


@pytest.fixture(autouse=True)
def here(module, monkeypatch):
    module("evil", EVIL)
    for name, text in FILES.items():
        Path(f"{name}.yaml").write_text(text)
    monkeypatch.setenv("EVIL", "evil.Network")


def test_no_flag_and_no_file_imports_what_is_not_trusted():
    with trusting(["own"]):
        for flag in [*FLAGS, *(f"--model.network={path}" for path in WAYS_ROUND)]:
            assert isinstance(verdict(flag), str), flag
            assert "evil" not in sys.modules, flag
    assert not Path("executed").exists()


def test_the_sentence_names_what_was_not_built_and_how_to_trust_it(capsys):
    fit = ["fit", "--trust", "own", *FILE]
    rows = [
        ([*fit, *NETWORK], "Got `evil.Network`"),
        (["benchmark", "--trust", "own", "--config", "bench.yaml"], "Got `evil.Network`"),
        ([*fit[:3], "--config", "theirs.yaml", *NETWORK], "trust"),  # a file cannot trust itself
    ]
    for path in ("evil.attack", "os.system"):
        rows += [([*fit, "--data.perturbations.attacks", attack % path], f"Got `{path}`") for attack in BUILT_BY_NAME]
    tiny.all_refused(rows, capsys)
    assert refused(rows[0][0], capsys).endswith("add --trust evil.")
    assert "evil" not in sys.modules
    assert not Path("executed").exists()


def test_what_names_no_package_is_refused():
    for words in (["--trust"], ["--trust", "a b"], ["--trust", "jsonargparse"], ["--trust", "*"]):
        with pytest.raises(Refusal, match="`--trust` should name a package or module"):
            without_trust(["fit", *words])


def test_a_package_is_built_once_it_is_trusted_and_everything_is_without_the_flag(capsys):
    for trust in (["--trust", "evil"], []):
        assert "evil.Network" in printed(["fit", *FILE, *NETWORK, *trust, "--print_config"], capsys)
        Path("executed").rmdir()
        sys.modules.pop("evil")
    check_import("os.system")


def test_shipped_files_name_only_what_is_our_own():
    with trusting(["own"]):
        for name, path in shipped_files("configs").items():
            if not name.startswith("tables_"):
                assert not isinstance(verdict(file=str(path)), str), name
    assert [name for name in OWN if name.startswith("lightning_gradood.") and find_spec(name) is None] == []
    assert not {"torch", "torchvision", "torchvision.datasets", "lightning", "lightning_gradood", "timm"} & set(OWN)
