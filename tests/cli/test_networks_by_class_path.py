"""Networks by class path as users have them: functions without annotations, logits in mappings, other dtypes, no weights."""

import re
from pathlib import Path

import pytest
import tiny
import torch
import torchvision.models
import yaml
from bad_inputs import write_images
from parsed import verdict
from tiny import FILE, called, refused, results

from lightning_gradood.cli import main
from lightning_gradood.cli.defaults import resolve_network
from lightning_gradood.cli.signatures import readable_signatures
from lightning_gradood.core import Refusal, shipped_files
from lightning_gradood.guard import Guard
from lightning_gradood.networks import CifarResNet
from lightning_gradood.tasks import IMAGENET

MODULE = '''
import torch
from torch import nn


class Found(nn.Module):
    """Logits in a mapping, beside features."""

    def __init__(self, classes, saturated):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, classes)
        if saturated:  # so sure of the first class that float32 knows no other
            nn.init.ones_(self.layer.weight)
            nn.init.zeros_(self.layer.bias)
            nn.init.zeros_(self.head.weight)
            self.head.bias.data = torch.tensor([1e4] + [0.0] * (classes - 1))

    def forward(self, images):
        features = self.layer(images).relu().mean((2, 3))
        return {"features": features, "logits": self.head(features)}


class Sure(Found):
    """Probabilities."""

    def forward(self, images):
        return super().forward(images)["logits"].softmax(1)


def compiled(classes: int) -> nn.Module:
    return torch.compile(Sure(classes, False), backend="eager")


def create(name, dtype=None, layer=nn.Conv2d, act=torch.relu, **kwargs):
    if (name, layer, act) != ("found", nn.Conv2d, torch.relu):
        raise KeyError(name)
    network = Found(kwargs.pop("classes"), kwargs.pop("saturated", False))
    assert not kwargs, kwargs
    return network.to(getattr(torch, dtype)) if dtype else network
'''
NETWORK = ["--model.network", "people.create", "--model.network.name", "found", "--model.network.classes", "3"]
NO_TRAINING = ["--data.train", "null", "--detection.detectors"]


@pytest.fixture(autouse=True)
def people(module):
    module("people", MODULE)


@pytest.mark.filterwarnings("ignore:The network returns a dict")
def test_a_function_without_annotations_is_used_with_any_keyword_and_a_guard_of_it_must_be_trusted(caplog):
    flags = ["--model.network.dtype", "bfloat16", "--run_dir", "runs/people", "--data.limits.images", "60"]
    main(["fit", *FILE, *NETWORK, *flags])
    assert "The network is cast to float32, in which" in caplog.text
    network = yaml.safe_load(Path("runs/people/config.yaml").read_text())["model"]["init_args"]["network"]
    given = {"name": "found", "classes": 3, "dtype": "bfloat16", "layer": "torch.nn.Conv2d", "act": "torch.relu"}
    assert network["init_args"] == {**given, "saturated": False}, "nothing of the file's own network"
    with pytest.raises(Refusal, match="people"):
        Guard.load("runs/people/guard")
    write_images(Path("photos"), 1)
    main(["score", "--guard", "runs/people/guard", "--trust", "people", "--output", "scores.csv", "photos"])


def test_a_compiled_network_that_gives_probabilities_is_read_and_guarded_once_it_says_so(capsys):
    network = ["--model.network", "people.compiled", "--model.network.classes", "3", "--run_dir", "runs/sure"]
    assert "Got outputs of softmax" in refused(["fit", *FILE, *network], capsys)
    more = ["--model.outputs", "softmax", "--data.limits.images", "60", "--detection.detectors", "[Baseline, Energy]"]
    _, out, error = called(["fit", *FILE, *network, *more], capsys)
    assert "torch.compile is taken off the network" in error
    assert "Guard: `" in out
    outputs = Guard.load("runs/sure/guard", trust=["people"]).network.outputs
    assert outputs == "softmax"


def test_a_name_with_weights_on_disk_brings_its_images(monkeypatch, capsys):
    monkeypatch.setenv("TORCH_HOME", "hub")
    checkpoint = Path("hub/hub/checkpoints/squeezenet1_1-b8a52dc0.pth")
    checkpoint.parent.mkdir(parents=True)
    torch.save(torchvision.models.squeezenet1_1().state_dict(), checkpoint)
    Path("plain.yaml").write_text(re.sub("    transform:.*\n", "", tiny.CONFIG))
    named = ["--model.network", "torchvision.models.squeezenet1_1", "--model.network.weights", "DEFAULT"]
    called(["predict", "--config", "plain.yaml", "--data.limits.images", "12", *named], capsys)
    (run,) = Path("runs/plain").iterdir()
    settings = yaml.safe_load((run / "config.yaml").read_text())
    model, data = settings["model"]["init_args"], settings["data"]["init_args"]
    assert model["weights"] == str(checkpoint)
    assert model["normalize"]["mean"] == [0.485, 0.456, 0.406]
    assert [one["class_path"].rpartition(".")[2] for one in data["transform"]["init_args"]["transforms"]] == [
        "RGB", "Resize", "CenterCrop",
    ]  # fmt: skip
    assert (run / "predictions.parquet").is_file()


RESNET = ["--model.network", "lightning_gradood.networks.CifarResNet", "--model.network.blocks_per_stage", "1"]
SQUEEZENET = "torchvision.models.squeezenet1_1"
NAMED = [  # words, class of the network, its number of classes, the transform
    (["--model.network", SQUEEZENET, "--model.weights", "five.pt"], SQUEEZENET, 5, ["RGB", "Resize", "CenterCrop"]),
    (["--model.network", SQUEEZENET, "--model.weights", "DEFAULT"], SQUEEZENET, 1000, ["RGB", "Resize", "CenterCrop"]),
    (["--model.network", "torchvision.models.get_model", "--model.network.name", "squeezenet1_1",
      "--model.network.weights", "DEFAULT"], SQUEEZENET, 1000, ["RGB", "Resize", "CenterCrop"]),
    ([*RESNET, "--model.weights", "three.pt"], RESNET[1], 3, 32),
    ([*RESNET, "--model.network.num_classes", "4"], RESNET[1], 4, 32),
    (["--model.network", "people.Found", "--model.network.classes", "3", "--model.network.saturated", "false"],
     "people.Found", None, 224),
    (["--model.network", "torchvision.models.SqueezeNet"], "torchvision.models.SqueezeNet", 1000, 224),
    (["--data.transform.size", "64"], "lightning_gradood.networks.resnet18", 10, 64),
]  # fmt: skip


def test_outputs_follow_from_the_weights_and_images_from_the_network(monkeypatch):
    monkeypatch.setenv("TORCH_HOME", "hub")
    Path("hub/hub/checkpoints").mkdir(parents=True)
    Path("hub/hub/checkpoints/squeezenet1_1-b8a52dc0.pth").touch()
    torch.save(torchvision.models.squeezenet1_1(num_classes=5).state_dict(), "five.pt")
    torch.save(CifarResNet(1, 3).state_dict(), "three.pt")
    folders = str(shipped_files("configs")["folders"])
    for words, network, classes, transform in NAMED:
        with readable_signatures(words):
            found = verdict(*words, verb="detect", file=folders)
        resolve_network(found, False)
        model, made = found.model.init_args, found.data.init_args.transform.init_args
        assert (model.network.class_path, model.network.init_args.get("num_classes")) == (network, classes), words
        assert model.normalize.mean == IMAGENET.mean
        steps = [one.class_path.rpartition(".")[2] for one in made.get("transforms", [])]
        assert (steps or made.size) == transform, words
    words = ["--model.normalize", "null", "--data.transform", "null"]
    found = verdict(*words, verb="detect", file=folders)
    resolve_network(found, False)
    assert (found.model.init_args.normalize, found.data.init_args.transform) == (None, None)
    source = [
        "--data.normal",
        "torchvision.datasets.FakeData",
        "--data.normal.size",
        "9",
        "--model.network",
        "hf:small",
    ]
    found = verdict(*source, verb="detect", file=folders)
    assert found.data.init_args.normal.init_args.size == 9
    assert found.model.init_args.network.init_args.pretrained_model_name_or_path == "small"


def test_a_constructor_that_finds_no_file_or_no_connection_is_one_sentence(capsys, module):
    module("afar", "def network(classes: int):\n    raise OSError('no connection')\n")
    words = ["--model.network", "afar.network", "--model.network.classes", "3"]
    assert "Got OSError: no connection. " in refused(["fit", *FILE, *words], capsys)


@pytest.mark.filterwarnings("ignore:The network returns a dict")
def test_it_may_stand_in_a_file_and_its_weights_are_found_again():
    network = "class_path: people.create\n      init_args: {name: found, classes: 3}"
    text = re.sub("class_path: lightning_gradood.networks.*\n.*", network, tiny.CONFIG)
    Path("own.yaml").write_text(text)
    main(["fit", "--config", "own.yaml", "--detection", "null", "--run_dir", "runs/own"])
    main(["detect", "--config", "own.yaml", "--ckpt_path", "runs/own/checkpoints/best.ckpt", "--run_dir", "runs/again"])
    assert results("runs/again")["outcomes"]


def test_a_constructor_may_know_the_weights_and_zero_gradients_and_equal_scores_are_said(capsys):
    saturated = ["--model.network.saturated", "true", "--data.perturbations.attacks", "{fgsm: {class_path: FGSM}}"]
    with pytest.warns(UserWarning, match="The network returns a dict"):
        _, out, _ = called(["detect", *FILE, *NETWORK, *saturated, *NO_TRAINING, "[Baseline]"], capsys)
    assert "Note: fgsm: 20 of 20 perturbed images are as they were; no gradient reaches them." in out
    assert "Note: nine: `baseline` gives every image the same score; its AUROC says nothing." in out
