"""A guard's folder: whole or refused, no code of it is executed, only trusted classes are built."""

import hashlib
import itertools
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from guards import NETWORK, network, save
from torch import nn

from lightning_gradood.core import Refusal, pack
from lightning_gradood.guard import Guard, read_description
from lightning_gradood.probes import LogitsProbe
from lightning_gradood.records import entry_key

FILES = ("network.safetensors", "detector.safetensors", "probes.safetensors", "known.safetensors")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    save(folder, "mahalanobis_p_fe")  # which has every kind of file
    return folder / "guard"


@pytest.fixture
def folder(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "guard"))


def described(folder):
    return json.loads((folder / "guard.json").read_text())


def rewritten(folder, **changes):
    """Change guard.json and give it a hash that fits, as whoever means harm would."""
    content = described(folder) | changes
    content.pop("digest")
    content["digest"] = entry_key(content)
    (folder / "guard.json").write_text(json.dumps(content))
    return folder


def replaced(folder, name, part):
    """Put another part into a file or into guard.json, with a checksum and hashes that fit."""
    if name not in FILES:
        return rewritten(folder, **{name: part})
    (folder / name).write_bytes(pack(part))
    digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    return rewritten(folder, files=described(folder)["files"] | {name: digest})


def refused(folder):
    try:
        Guard.load(folder)
    except Refusal as refusal:
        return str(refusal)
    return ""


def test_all_files_are_under_hashes_and_a_missing_or_altered_one_is_named(folder):
    content = described(folder)
    assert {path.name for path in folder.iterdir()} == {*content["files"], "guard.json"} == {*FILES, "guard.json"}
    assert content["versions"]["torch"] == torch.__version__.split("+")[0]
    for path in list(folder.iterdir()):
        content, middle = path.read_bytes(), path.stat().st_size // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        damages = {"missing": None, "empty": b"", "cut": content[:middle], "longer": content + b"\0", "a bit": flipped}
        for damage, altered in damages.items():
            path.unlink() if altered is None else path.write_bytes(altered)
            assert path.name in refused(folder), damage
            path.write_bytes(content)
    assert refused(folder) == ""


def test_an_entry_changed_by_hand_and_foreign_folders_are_refused(folder, tmp_path):
    content = described(folder)
    for name in set(content) - {"digest"}:
        (folder / "guard.json").write_text(json.dumps(content | {name: 1e9}))
        assert "use --threshold or --false_positive_rate" in refused(folder), name
        said = refused(rewritten(folder))  # a hash that fits does not make a number of what is no number
        assert name in ("threshold", "false_positive_rate") or f"something else under `{name}`" in said
    assert "which does not exist" in refused(tmp_path / "nowhere")
    (folder / "guard.json").unlink()
    assert "`--guard` should be a folder with a guard.json, " in refused(folder)
    for text in ("[]", "{}", "no json", '{"digest": 1}'):
        (folder / "guard.json").write_text(text)
        assert "guard/guard.json should be part of a guard" in refused(folder), text


TOUCH = {"command": "touch executed"}
HOSTILE = [  # class path and arguments
    ("os.system", TOUCH), ("subprocess.Popen", {"args": ["touch", "executed"]}), ("builtins.exec", {}),
    ("my_package.Network", {}), ("torchvision.models.os.system", TOUCH), ("torch.nn.modules.module.os.system", TOUCH),
    ("torch.hub.load", {"repo_or_dir": ".", "model": "x", "source": "local"}), ("torch.nn.NoSuchThing", {}), (3, {}),
    ("torch.load", {"f": "executed.pt", "weights_only": False}), ("torch.nn.Linear", {"no_such_argument": 1}),
    ("torch.utils.cpp_extension.load_inline", {"name": "x", "cpp_sources": ""}), ("torch.nn.Linear", [1, 2]),
    ("lightning_gradood.core.atomic_write", {"path": "executed"}), ("torch.nn.ReLU", {}),
    ("torchvision.models.resnet18", {"weights": "IMAGENET1K_V1"}),
    ("timm.create_model", {"model_name": "resnet10t", "checkpoint_path": "executed.pt"}),
    ("torch.nn.Linear", {"in_features": 2, "out_features": 2, "dtype": {"dtype": "load"}}),
]  # fmt: skip


def test_a_class_that_is_not_trusted_is_neither_imported_nor_built(saved, folder, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    for part, (class_path, arguments) in itertools.product(("network", "transform", *FILES), HOSTILE):
        if (part, class_path) == ("transform", "torch.nn.ReLU") or (part in FILES and arguments == [1, 2]):
            continue  # a module may be a transform, and `pack` takes no such arguments
        shutil.copytree(saved, folder, dirs_exist_ok=True)
        said = refused(replaced(folder, part, {"class_path": class_path, "init_args": arguments}))
        assert said, (part, class_path)
        assert not list(tmp_path.glob("executed*"))
    assert "my_package" not in set(sys.modules) - before


def test_parts_that_do_not_belong_together_are_refused(saved, folder):
    network, detector, probes, known = FILES
    other, words = NETWORK | {"init_args": {"blocks_per_stage": 2, "num_classes": 4}}, "parts that do not fit together "
    rows = [
        ("network", other, f"{words}(RuntimeError: Error(s) in loading"),
        ("parameters", ["conv1.weight"], f"{words}(ValueError: other parameters than the guard was fitted on"),
        (network, [1], f"{words}(TypeError: "),
        (detector, LogitsProbe(), "detector.safetensors should be a detector that `detect` has saved"),
        (known, [1], f"{words}(ValueError: images that other probes have read"),
        (probes, [LogitsProbe()], f"{words}(ValueError: other probes than the detector's)"),
    ]
    for name, part, words in rows:
        shutil.copytree(saved, folder, dirs_exist_ok=True)
        assert words in refused(replaced(folder, name, part)), name


_NUMBERS = itertools.count(1)


class Unlucky(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.shift = network(), next(_NUMBERS)

    def forward(self, pixels):
        return self.inner(pixels) * self.shift


def test_a_network_that_its_arguments_do_not_describe_is_not_saved_and_an_older_guard_is_replaced_whole(
    tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "unlucky", sys.modules[__name__])
    about = {"network": {"class_path": "unlucky.Unlucky", "init_args": {}}, "normalize": None}
    with pytest.raises(Refusal, match="Got others, as its class path and arguments build another network"):
        save(tmp_path, "baseline", net=Unlucky().eval(), **about)
    assert list(tmp_path.iterdir()) == []
    for name in ("baseline", "energy"):
        save(tmp_path, name)
        assert read_description(tmp_path / "guard").detector_name == name
    assert [path.name for path in tmp_path.iterdir()] == ["guard"]
