"""A guard's folder, in which all but `guard.json`, with a hash of each file, is safetensors; and its network, built again."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood import networks
from lightning_gradood.core import (
    Refusal,
    atomic_write,
    class_path,
    decode,
    encode,
    fits,
    pack,
    packages_of,
    read_json,
    uncompiled,
    unpack,
    writing_refused,
)
from lightning_gradood.core import versions as installed
from lightning_gradood.gradients import parameter_names
from lightning_gradood.networks import Outputs, TwoLogits, classifier
from lightning_gradood.records import entry_key

if TYPE_CHECKING:  # `Guard` imports this file
    from lightning_gradood.guard.guard import Guard

GUARD, NETWORK, DETECTOR, PROBES = "guard.json", "network.safetensors", "detector.safetensors", "probes.safetensors"
KNOWN = "known.safetensors"
_DIGEST = "digest"  # of guard.json itself, without this entry
_TOLERANCE = 1e-3  # of the scores' spread; another network or transform is off by far more, another batch size by less
_SIZES = {"num_classes", "kwargs"}  # parameters of functions that build networks


@dataclass(frozen=True)
class Description:
    """What `guard.json` says beside its digest.

    Args:
        normalize: `mean` and `std` of each channel that are applied before the network; None where it does so itself.
        picture: how files are decoded before the transform: `RGB`, or `L` for grey.
        image_shape: [C, H, W] of an image after the transform.
        classes: names of the classes; empty where they have none.
        parameters: names of the network's parameter tensors, in the order of the gradient norms.
        trained_on: `normal` for a detector that needs no anomalies, else the anomaly sources it was fitted on.
        counts: number of records it was fitted and calibrated on.
        calibration: scores of normal images that it was not fitted on, ascending.
        calibration_classes: the predicted class of each of them.
        metrics: what was measured, by source; see `results.parquet`.
        batch_size: images in a batch when the calibration images were read.
        built_in: whether no anomalies were known, so that `metrics` are about anomalies made from the normal images.
        one_logit: whether the network has one logit z, which is read as [0, z].
        outputs: what the network gives, see `networks.Logits`.
        files: names of the other files to their SHA-256.
    """

    experiment: str
    network: dict[str, Any]
    normalize: dict[str, list[float]] | None
    transform: dict[str, Any] | None
    picture: Literal["RGB", "L"]
    image_shape: list[int]
    classes: list[str]
    parameters: list[str]
    detector_name: str
    trained_on: str
    counts: dict[str, dict[str, int]]
    calibration: list[float]
    calibration_classes: list[int]
    false_positive_rate: float
    threshold: float
    metrics: dict[str, dict[str, float]]
    batch_size: int
    built_in: bool = False
    one_logit: bool = False
    outputs: Outputs = "logits"
    versions: dict[str, str] = field(default_factory=installed)
    files: dict[str, str] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """Which guard gave a score: the detector's name and a digest of all that decides scores and p-values."""
        names = ("network", "normalize", "transform", "picture", "one_logit", "outputs", "calibration")
        told = {name: getattr(self, name) for name in names} | {"files": self.files | {KNOWN: ""}}
        return f"{self.detector_name}@{entry_key(told)[:12]}"


def write_guard(guard: Guard, folder: Path, images: Tensor, expected: np.ndarray, flag: str) -> Guard:
    """Save a guard and return what is loaded from there, if that gives the images their scores, [n]."""
    weights, probes = guard.bare_network.state_dict(), guard.probes
    held = {NETWORK: weights, DETECTOR: guard.saved, PROBES: probes, KNOWN: guard.known}
    parts = {name: pack(part) for name, part in held.items()}
    told = asdict(replace(guard.about, files={name: hashlib.sha256(part).hexdigest() for name, part in parts.items()}))
    text = json.dumps(told | {_DIGEST: entry_key(told)}, indent=1, allow_nan=False)
    trial, old = (folder.with_name(f".{folder.name}.{name}") for name in ("trial", "old"))
    try:
        for name, content in {**parts, GUARD: text.encode()}.items():
            with atomic_write(trial / name) as file:
                file.write(content)
        loaded = guard.load(trial, guard.packages, guard.device)
        spread = max(float(np.ptp(guard.calibration)), 1e-12)
        if not np.allclose(loaded(images).scores, expected, rtol=1e-6, atol=_TOLERANCE * spread):
            raise Refusal(
                "A guard should give the scores that `detect` gave. Got others, as its class path and arguments build "
                "another network. Let its constructor's arguments decide all that is not in its weights."
            )
        with writing_refused(folder, flag, trial, old):
            if folder.exists():
                os.replace(folder, old)
            os.replace(trial, folder)
    finally:
        shutil.rmtree(trial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return loaded


def guard_folder(place: str | Path) -> Path:
    """The folder of a guard: the place itself, or for a run `guard` in it."""
    inside = Path(place, "guard")
    return inside if (inside / GUARD).is_file() else Path(place)


def read_description(folder: Path) -> Description:
    """Read `guard.json` and verify all hashes; a file that is missing or altered is refused."""
    path = folder / GUARD
    if not path.is_file():
        raise Refusal(
            f"`--guard` should be a folder with a {GUARD}, as `detect` saves it in runs/<experiment>/<time>/guard. "
            f"Got `--guard {folder}`, {'which has none' if folder.exists() else 'which does not exist'}."
        )
    try:
        told = read_json(path)
        intact = told.pop(_DIGEST) == entry_key(told)
    except (ValueError, OSError, AttributeError, KeyError, TypeError) as error:
        raise damaged(path, f"what cannot be read ({error})") from error
    if not intact:
        raise damaged(path, "content that differs from its own hash")
    kinds = get_type_hints(Description)
    wrong = [name for name, kind in kinds.items() if name not in told or not fits(told[name], kind)]
    if not wrong and (
        not 0 < len(told["calibration"]) == len(told["calibration_classes"])
        or told["batch_size"] < 1
        or len(told["image_shape"]) != 3
    ):
        wrong = ["calibration`, `batch_size` or `image_shape"]
    if wrong:
        raise damaged(path, f"something else under `{wrong[0]}`")
    for name, digest in told["files"].items():
        part = folder / Path(name).name
        if not part.is_file():
            raise damaged(part, "no such file")
        with part.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise damaged(part, f"content that differs from its hash in {GUARD}")
    return Description(**{name: told[name] for name in kinds})


def damaged(path: Path, got: str) -> Refusal:
    """Word the refusal of a guard's file or folder."""
    return Refusal(
        f"{path} should be part of a guard as `detect` has saved it. Got {got}. Copy the whole folder again, install the "
        f"versions of packages that {GUARD} names, or run `detect` again; to change the threshold use --threshold or "
        "--false_positive_rate."
    )


@dataclass(frozen=True)
class Recipe:
    """How a guard's network, without its normalisation, and the transform are built again, as `core.encode` says it."""

    network: dict[str, Any]
    transform: dict[str, Any] | None = None


def recipe_of(network: nn.Module, transform: Any = None) -> Recipe:
    """How a network in memory and a transform are built again.

    Tried are the network's class with the arguments that it keeps as attributes, then functions beside the class, such as
    `torchvision.models.resnet18`, and those of `networks`; taken is what has the same modules and tensors.

    Raises:
        Refusal: there is nothing of the kind; or the transform keeps its arguments not as attributes.
    """
    kind = type(network)
    if kind.__module__ == "__main__" or "<locals>" in kind.__qualname__:
        raise Refusal(
            f"A network that is saved should have its class in a module. Got {kind.__qualname__}, defined in a notebook, a "
            "script or a function. Move it into a file of its own, such as my_network.py, and import it from there."
        )
    beside = [*vars(sys.modules[kind.__module__]).values(), *vars(networks).values()]
    functions: list[Any] = [
        one for one in beside if inspect.isfunction(one) and _SIZES & {*inspect.signature(one).parameters}
    ]
    hub = [networks.hugging_face] if networks.configuration_of(network) else []  # needs no trust, as transformers would
    for made in (*hub, kind, *functions):
        found = {"class_path": class_path(made), "init_args": _arguments(made, network)}
        if _builds(
            found, network, nullcontext() if made is kind else _WithoutValues()
        ):  # of the functions some are large
            return Recipe(found, encode(transform))
    raise Refusal(
        f"A network that is saved should keep its constructor's arguments as attributes, to be built again. Got "
        f"{class_path(kind)}, which does not, and no function beside it builds such a network. Write in its "
        "constructor e.g. `self.width = width`, or put a function that builds it beside it."
    )


def _arguments(made: Callable[..., Any], network: nn.Module) -> dict[str, Any]:
    """Arguments as attributes of the network tell them, and its numbers of classes and channels."""
    tensors = [*network.parameters()]
    outputs, inputs = (len(tensors[-1]), [*tensors[0].shape, 0][1]) if tensors else (0, 0)
    sizes = {
        "num_classes": outputs,
        "kwargs": outputs,
        "channels": inputs,
        "config": networks.configuration_of(network),
    }
    found = {}
    for name in inspect.signature(made).parameters:
        with suppress(Refusal):
            if isinstance(made, type) and (name in vars(network) or isinstance(getattr(made, name, None), property)):
                found[name] = encode(getattr(network, name))
            elif name in sizes:
                found["num_classes" if name == "kwargs" else name] = sizes[name]
    return found


class _WithoutValues(TorchFunctionMode):
    """Weights take no memory; other tensors, from which some networks compute their widths, have values."""

    @override
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}) | ({"device": "meta"} if func is torch.empty else {}))


def _builds(described: dict[str, Any], network: nn.Module, mode: AbstractContextManager[Any]) -> bool:
    with suppress(Exception), warnings.catch_warnings(), mode:  # it raises whatever it likes
        warnings.simplefilter("ignore")
        return _structure(decode(described, packages_of(described))) == _structure(network)
    return False


def _structure(network: nn.Module) -> tuple[list[Any], list[Any]]:
    modules = [(name, type(one)) for name, one in network.named_modules()]
    return modules, [(name, one.shape) for name, one in network.state_dict().items()]


def built_network(folder: Path, about: Description, trust: Collection[str]) -> nn.Module:
    """Build the network that a guard's folder describes, with its weights and all that stands around it; in eval mode."""
    bare = uncompiled(decode(about.network, trust))
    bare.float()  # as `ClassificationTask` has it, whatever it is built in
    bare.load_state_dict(unpack(folder / NETWORK))
    with torch.device("cpu"):  # whatever the caller's default is
        network = classifier(bare, about.normalize, about.outputs)
    if about.one_logit:
        network = TwoLogits(network)
    if parameter_names(network) != about.parameters:
        raise ValueError("other parameters than the guard was fitted on, or in another order")
    return network.eval()
