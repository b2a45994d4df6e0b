"""A guard's folder: whole or refused, no code of it is executed, only trusted classes are built."""

import itertools
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from guards import NETWORK, network, save
from torch import nn

from lightning_gradood.core import Refusal
from lightning_gradood.guard import Component, Guard, read_description
from lightning_gradood.guard.folder import _json_digest

FILES = ["network.safetensors", "detector.safetensors", "probes.safetensors", "guard.json"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return the folder of a guard that has every kind of file."""
    folder = tmp_path_factory.mktemp("saved")
    save(folder, "mahalanobis_p_fe")
    return folder / "guard"


@pytest.fixture
def folder(saved, tmp_path):
    """Return a copy."""
    return Path(shutil.copytree(saved, tmp_path / "guard"))


def rewritten(folder, **changes):
    """Change guard.json and give it a hash that fits, as whoever means harm would."""
    content = json.loads((folder / "guard.json").read_text()) | changes
    content["digest"] = _json_digest(content)
    (folder / "guard.json").write_text(json.dumps(content))
    return folder


def test_what_is_on_disk_is_tensors_and_json(folder):
    assert {path.name for path in folder.iterdir()} <= set(FILES)
    for path in folder.iterdir():
        assert path.suffix in (".json", ".safetensors")
    content = json.loads((folder / "guard.json").read_text())
    assert content["format"] == 1
    assert content["network"]["class_path"] == "lightning_gradood.networks.CifarResNet"
    assert content["classes"] == ["ant", "bee", "cat", "dog"]
    assert set(content["files"]) == {path.name for path in folder.iterdir()} - {"guard.json"}
    assert content["versions"]["torch"] == torch.__version__.split("+")[0]


@pytest.mark.parametrize("name", ["network.safetensors", "detector.safetensors", "probes.safetensors", "guard.json"])
@pytest.mark.parametrize("damage", ["missing", "a byte", "cut", "empty"])
def test_a_missing_or_altered_file_is_named(folder, name, damage):
    path = folder / name
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "a byte":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    else:
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    with pytest.raises(Refusal, match=re.escape(name)):
        Guard.load(folder)


@pytest.mark.parametrize("changed", ["threshold", "calibration", "classes"])
def test_an_entry_changed_by_hand_is_refused(folder, changed):
    content = json.loads((folder / "guard.json").read_text())
    content[changed] = 1e9 if changed == "threshold" else content[changed][1:]
    (folder / "guard.json").write_text(json.dumps(content))
    with pytest.raises(
        Refusal, match=r"guard.json should be part of a guard .* use --threshold or --false_positive_rate"
    ):
        Guard.load(folder)


def test_a_newer_format_and_foreign_folders_are_refused(folder, tmp_path):
    with pytest.raises(Refusal, match=r"of format 1 or older. Got format 2. Update lightning_gradood"):
        Guard.load(rewritten(folder, format=2))
    (tmp_path / "other").mkdir()
    with pytest.raises(Refusal, match=r"`--guard` should be a folder with a guard.json, .* Got `--guard .*other`"):
        Guard.load(tmp_path / "other")
    for text in ("[]", "{}", "no json", '{"format": 1}'):
        (tmp_path / "other" / "guard.json").write_text(text)
        with pytest.raises(Refusal, match=r"other/guard.json should be part of a guard"):
            Guard.load(tmp_path / "other")
    with pytest.raises(Refusal, match="no such folder"):
        Guard.load(tmp_path / "nowhere")


HOSTILE = [
    {"class_path": "os.system", "init_args": {"command": "touch executed"}},
    {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", "executed"]}},
    {"class_path": "builtins.exec", "init_args": {}},
    {"class_path": "my_package.Network", "init_args": {}},
    {"class_path": "torchvision.models.os.system", "init_args": {"command": "touch executed"}},
    {"class_path": "torch.hub.load", "init_args": {"repo_or_dir": ".", "model": "x", "source": "local"}},
    {"class_path": "torch.load", "init_args": {"f": "executed.pt", "weights_only": False}},
    {"class_path": "torch.utils.cpp_extension.load_inline", "init_args": {"name": "x", "cpp_sources": ""}},
    {"class_path": "torch.nn.modules.module.os.system", "init_args": {"command": "touch executed"}},
    {"class_path": "lightning_gradood.core.atomic_write", "init_args": {"path": "executed"}},
    {"class_path": "torchvision.models.resnet18", "init_args": {"weights": "IMAGENET1K_V1"}},
    {"class_path": "timm.create_model", "init_args": {"model_name": "resnet10t", "checkpoint_path": "executed.pt"}},
    {"class_path": "torch.nn.Linear", "init_args": {"in_features": 2, "out_features": 2, "dtype": {"dtype": "load"}}},
    {"class_path": "torch.nn.NoSuchThing", "init_args": {}},
    {"class_path": "torch.nn.Linear", "init_args": {"no_such_argument": 1}},
    {"class_path": "torch.nn.Linear", "init_args": [1, 2]},
    {"class_path": 3, "init_args": {}},
    {"class_path": "torch.nn.ReLU", "init_args": {}},
]


@pytest.mark.parametrize("part", ["network", "transform", "detector"])
@pytest.mark.parametrize("component", HOSTILE, ids=lambda one: str(one["class_path"]))
def test_a_class_that_is_not_trusted_is_neither_imported_nor_built(folder, component, part, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    if component["class_path"] == "torch.nn.ReLU" and part == "transform":
        return  # a module may be a transform
    before = set(sys.modules)
    with pytest.raises((Refusal, ImportError)) if "timm" in str(component["class_path"]) else pytest.raises(Refusal):
        Guard.load(rewritten(folder, **{part: component}))
    assert not list(tmp_path.glob("executed*"))
    assert "my_package" not in set(sys.modules) - before


def test_a_package_of_the_users_own_is_built_once_it_is_trusted(folder, tmp_path, monkeypatch):
    (tmp_path / "own_package.py").write_text(
        "from lightning_gradood.networks import CifarResNet\nclass Network(CifarResNet):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own = NETWORK.encoded() | {"class_path": "own_package.Network"}
    with pytest.raises(Refusal, match=r"Got `own_package.Network`. If you know .* add --trust own_package"):
        Guard.load(rewritten(folder, network=own))
    assert type(Guard.load(folder, trust=["own_package"]).network.network).__name__ == "Network"
    sys.modules.pop("own_package")


def test_weights_of_another_network_are_refused(folder, tmp_path):
    copied = Path(shutil.copytree(folder, tmp_path / "copied"))
    other = Component("lightning_gradood.networks.CifarResNet", {"blocks_per_stage": 2, "num_classes": 4}).encoded()
    with pytest.raises(Refusal, match=r"network.safetensors should hold the weights of `.*CifarResNet`. Got: "):
        Guard.load(rewritten(folder, network=other))
    with pytest.raises(Refusal, match="should have the parameters that the guard was fitted on, in their order"):
        Guard.load(rewritten(copied, parameters=["conv1.weight"]))


_NUMBERS = itertools.count(1)


class Unlucky(nn.Module):
    """Its constructor's arguments do not say what it does."""

    def __init__(self):
        super().__init__()
        self.inner = network()
        self.shift = next(_NUMBERS)

    def forward(self, pixels):
        return self.inner(pixels) * self.shift


def test_a_network_that_its_arguments_do_not_describe_is_not_saved(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "unlucky", sys.modules[__name__])
    about = {"network": {"class_path": "unlucky.Unlucky", "init_args": {}}, "normalize": None}
    with pytest.raises(Refusal, match="Got others from the network that its class path and arguments build"):
        save(tmp_path, "baseline", net=Unlucky().eval(), **about)
    assert not (tmp_path / "guard").exists()
    assert list(tmp_path.iterdir()) == []


def test_an_older_guard_is_replaced_whole(tmp_path):
    save(tmp_path, "baseline")
    first = read_description(tmp_path / "guard")
    save(tmp_path, "energy")
    second = read_description(tmp_path / "guard")
    assert (first.detector_name, second.detector_name) == ("baseline", "energy")
    assert [path.name for path in tmp_path.iterdir()] == ["guard"]


def test_components_are_built_as_experiment_files_mean_them():
    given = {
        "class_path": "torchvision.models.resnet18",
        "init_args": {"weights": None, "num_classes": 3, "norm_layer": {"class_path": "torch.nn.InstanceNorm2d"}},
    }
    built = Component.of(given).build()
    assert isinstance(built.bn1, nn.InstanceNorm2d)
    assert built.fc.out_features == 3
    resize = {"class_path": "torchvision.transforms.v2.Resize", "init_args": {"size": [8, 8]}}
    to_dtype = {"class_path": "torchvision.transforms.v2.ToDtype", "init_args": {"dtype": torch.float32, "scale": True}}
    compose = Component.of(
        {"class_path": "torchvision.transforms.v2.Compose", "init_args": {"transforms": [resize, to_dtype]}}
    )
    rebuilt = Component.of(json.loads(json.dumps(compose.encoded())))
    assert json.dumps(compose.encoded()) == json.dumps(rebuilt.encoded())
    out = compose.build()(torch.zeros(3, 16, 16, dtype=torch.uint8))
    assert (out.shape, out.dtype) == ((3, 8, 8), torch.float32)
    from torchvision.transforms import InterpolationMode

    one = Component("torchvision.transforms.v2.Resize", {"size": 4, "interpolation": InterpolationMode.NEAREST})
    assert one.build().interpolation == InterpolationMode.NEAREST
    assert json.loads(json.dumps(one.encoded()))["init_args"]["interpolation"]["name"] == "NEAREST"


def test_an_argument_that_no_file_can_name_is_refused():
    with pytest.raises(Refusal, match=r"Got an argument of type Linear. Give numbers, text, lists or class paths"):
        Component("torch.nn.Sequential", {"first": nn.Linear(1, 1)}).encoded()


def test_building_draws_no_random_numbers_of_the_caller():
    before = torch.get_rng_state()
    NETWORK.build()
    assert torch.equal(before, torch.get_rng_state())
