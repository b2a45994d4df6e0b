"""Components: what is configured or learnt, as JSON and arrays and back; loading executes no code of a file.

A component is written as an experiment file writes it, `{"class_path": ..., "init_args": {...}}`. Configurations, cache
keys, saved detectors, guards and provenance all use `encode`, `decode` and `digest`.
"""

import functools
import hashlib
import inspect
import json
import sys
from abc import ABC
from collections import Counter
from collections.abc import Collection, Mapping, MutableMapping
from dataclasses import fields, is_dataclass
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse._common import denying_import_path_entry, parsing_settings  # nothing public reads the policy
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from lightning_gradood.core.errors import Refusal
from lightning_gradood.core.files import parse_json

PACKAGES = ("lightning_gradood", "torch", "torchvision", "timm")
"""Packages of which a guard may name components, networks and transforms without being trusted by name."""

_COMPONENT = "component"  # among the metadata of a safetensors file
_FUNCTIONS = ("lightning_gradood.networks.", "torchvision.models.", "timm.")  # functions there return networks
# arguments that fetch weights
_DOWNLOADS = ("weights", "weights_backbone", "pretrained", "pretrained_model_name_or_path")
_FILES = ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")  # timm's, which read other files


class Component(ABC):  # noqa: B024 - nothing is abstract; groups of settings are registered
    """Base of everything that is configured (label design, probe, perturbation, detector, source) or learnt (`Fitted`).

    Its class and the arguments of its constructor say all about it: it is a frozen dataclass, or keeps each argument
    under the argument's name.
    """


def check_import(path: str) -> None:
    """Refuse an import path that the parser's policy denies, where `--trust` has restricted it."""
    if parsing_settings["import_paths_enforced"] and denying_import_path_entry(path):
        raise Refusal(
            f"`--trust` should name the packages whose classes an experiment file may build. Got `{path}`, which is of none "
            f"of them; it was not built. If you know what the file does, add --trust {path.partition('.')[0]}."
        )


def encode(value: Any, arrays: MutableMapping[str, Tensor] | None = None, place: str = "") -> Any:
    """Describe a component, or a list or mapping of components and plain values, in JSON types.

    Transforms of torchvision are components too. Mappings with a `class_path` are components as an experiment file names
    them; arguments that fetch weights or name
    files are left out of these, and functions and classes that are defaults. Refuses anything else, such as a module.

    Args:
        arrays: takes tensors and NumPy arrays by their place in `value` behind the prefix `place`, e.g.
            `members.0.means`; without it they become lists.

    Examples:
        >>> from lightning_gradood.gradients import KHot
        >>> encode(KHot((0, 3)))
        {'class_path': 'lightning_gradood.gradients.KHot', 'init_args': {'classes': [0, 3]}}
        >>> decode(encode(KHot((0, 3))))
        KHot(classes=(0, 3))
    """

    def part(name: object, inner: Any) -> Any:
        return encode(inner, arrays, f"{place}.{name}" if place else str(name))

    match value:
        case Enum():
            return {"enum": class_path(type(value)), "name": value.name}
        case None | bool() | int() | float() | str():
            return value
        case np.generic():
            return value.item()
        case torch.dtype():
            return {"dtype": str(value).removeprefix("torch.")}
        case Tensor() | np.ndarray():
            tensor = value.detach().cpu() if isinstance(value, Tensor) else torch.from_numpy(value)
            if arrays is not None:
                arrays[place] = tensor.contiguous()
            held = tensor.tolist() if arrays is None else place
            kind = "tensor" if isinstance(value, Tensor) else "array"
            return {kind: held, "dtype": str(tensor.dtype).removeprefix("torch.")}
        case list() | tuple():
            return [part(number, inner) for number, inner in enumerate(value)]
        case Mapping() if set(value) <= {"class_path", "init_args"} and "class_path" in value:
            path, given = str(value["class_path"]), value.get("init_args") or {}
            kept = {
                name: part(name, inner)
                for name, inner in given.items()
                if not (name in _DOWNLOADS or (inner is None and name in _FILES) or _is_default(path, name, inner))
            }
            return {"class_path": path, "init_args": kept}
        case Mapping():
            return {str(name): part(name, inner) for name, inner in value.items()}
    ours = isinstance(value, Component) or (is_dataclass(value) and not isinstance(value, type))
    if ours or type(value).__module__.startswith("torchvision.transforms."):
        given = {name: part(name, inner) for name, inner in arguments_of(value).items()}
        return {"class_path": class_path(type(value)), "init_args": given}
    raise Refusal(
        "A component that is saved should be made of numbers, text, lists, arrays and other components. "
        f"Got a {type(value).__name__}{f' in {place}' if place else ''}. Keep what it is made from."
    )


def _is_default(path: str, name: str, value: Any) -> bool:
    """Whether an argument is a function or class that stands in the signature as well: a parser fills it in."""
    if not (inspect.isroutine(value) or isinstance(value, type)):
        return False
    module, _, made = path.rpartition(".")
    known = inspect.signature(getattr(import_module(module), made)).parameters
    return name in known and known[name].default is value


def decode(value: Any, trust: Collection[str] = (), arrays: Mapping[str, Tensor] | None = None) -> Any:
    """Rebuild what `encode` described, except that tuples become lists; `trust` names packages beside `PACKAGES`.

    A module or function of which required arguments are missing becomes one that takes them. Refuses a class path that
    is not trusted, does not exist, or does not take its arguments.
    """
    if isinstance(value, list):
        return [decode(part, trust, arrays) for part in value]
    if not isinstance(value, dict):
        return value
    names = set(value)
    if names == {"class_path", "init_args"}:
        return _built(value["class_path"], value["init_args"], trust, arrays)
    if names == {"dtype"}:
        return _dtype(value["dtype"])
    if names in ({"tensor", "dtype"}, {"array", "dtype"}):
        held = value.get("tensor", value.get("array"))
        try:
            tensor = (arrays or {})[held] if isinstance(held, str) else torch.tensor(held, dtype=_dtype(value["dtype"]))
        except (KeyError, TypeError, ValueError) as error:
            raise Refusal(
                f"A file should hold the arrays that it names. Got none for `{error}`. Save it anew."
            ) from error
        return tensor if "tensor" in value else tensor.numpy()
    if names == {"enum", "name"}:
        kind = _found(value["enum"], trust)
        if not (isinstance(kind, type) and issubclass(kind, Enum)) or value["name"] not in kind.__members__:
            raise Refusal(f"A file should name members of enumerations. Got `{value['enum']}`. Save it anew.")
        return kind[value["name"]]
    return {name: decode(part, trust, arrays) for name, part in value.items()}


def pack(value: Any) -> bytes:
    """A safetensors file of what `encode` describes: its arrays, and among the metadata JSON and a checksum."""
    arrays: dict[str, Tensor] = {}
    described = json.dumps(encode(value, arrays))
    places = Counter(part.untyped_storage().data_ptr() for part in arrays.values())
    for name, part in arrays.items():
        if places[part.untyped_storage().data_ptr()] > 1:  # the format refuses parts of one tensor
            arrays[name] = part.clone()
    return save(arrays, {_COMPONENT: f"{_checksum(arrays, described)} {described}"})


def unpack(path: Path, trust: Collection[str] = ()) -> Any:
    """Rebuild what `pack` has written to a file, as `decode`; ValueError or OSError if it is altered or something else."""
    try:
        with safe_open(path, framework="pt") as file:
            checksum, _, described = (file.metadata() or {}).get(_COMPONENT, "").partition(" ")
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(str(error)) from error
    if _checksum(arrays, described) != checksum:
        raise ValueError("content that differs from its checksum")
    return decode(parse_json(described), trust, arrays)


def digest(thing: Any) -> str:
    """SHA-256 of what `encode` says, in hexadecimal: equal for equal classes and arguments."""
    return hashlib.sha256(json.dumps(encode(thing), sort_keys=True).encode()).hexdigest()


def class_path(kind: type) -> str:
    """Import path of a class by the outermost module that offers it, e.g. `torch.nn.Linear`."""
    parts = kind.__module__.split(".")
    modules = (".".join(parts[: end + 1]) for end in range(len(parts)))
    fronts = (name for name in modules if getattr(sys.modules.get(name), kind.__name__, None) is kind)
    return f"{next(fronts, kind.__module__)}.{kind.__qualname__}"


def arguments_of(thing: Any) -> dict[str, Any]:
    """The arguments that a component was made with, by name; a Refusal if it does not keep one."""
    names = (
        [field.name for field in fields(thing) if field.init]
        if is_dataclass(thing)
        else list(inspect.signature(type(thing)).parameters)
    )
    try:
        return {name: getattr(thing, name) for name in names}
    except AttributeError as error:
        raise Refusal(
            f"A {type(thing).__name__} should keep each argument of its constructor under its own name, to be saved. "
            f"Got one that does not: {error}. Make it a dataclass, or write e.g. `self.scale = scale`."
        ) from error


def packages_of(encoded: Any) -> set[str]:
    """Packages of all class paths in what `encode` returned."""
    if isinstance(encoded, list):
        return set[str]().union(*map(packages_of, encoded))
    if not isinstance(encoded, dict):
        return set()
    own = {str(encoded["class_path"]).partition(".")[0]} if "class_path" in encoded else set()
    return own.union(*map(packages_of, encoded.values()))


def _checksum(arrays: Mapping[str, Tensor], described: str) -> str:
    found = hashlib.sha256(described.encode())
    for name, tensor in sorted(arrays.items()):
        found.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _built(path: Any, given: Any, trust: Collection[str], arrays: Mapping[str, Tensor] | None) -> Any:
    made = _found(path, trust)
    if not (_is_allowed(made) or str(path).partition(".")[0] in trust):
        raise Refusal(
            "A file should name networks, transforms, detectors and other components of lightning_gradood. "
            f"Got `{path}`. Load only files whose origin you know."
        )
    ours = isinstance(made, type) and issubclass(made, Component)
    if not isinstance(given, dict) or (not ours and set(given) & {*_DOWNLOADS, *_FILES}):
        raise Refusal(f"A file should name plain arguments for `{path}`. Got {sorted(given)}. Save it anew.")
    arguments = {name: decode(part, trust, arrays) for name, part in given.items()}
    try:
        signature = inspect.signature(made)
        signature.bind_partial(**arguments)
        needed = (one for one in signature.parameters.values() if one.kind is one.POSITIONAL_OR_KEYWORD)
        if not ours and any(one.default is one.empty and one.name not in arguments for one in needed):
            return functools.partial(made, **arguments)
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):  # weights are drawn before they are replaced
            return made(**arguments)
    except Refusal:
        raise
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise Refusal(
            f"`{path}` should take the arguments that the file names. Got: {str(error).strip()}. "
            "Use the version of its package that the file was saved with."
        ) from error


def _found(path: Any, trust: Collection[str]) -> Any:
    module, _, name = str(path).rpartition(".")
    package = str(path).partition(".")[0]
    if package not in (*PACKAGES, *trust):
        raise Refusal(
            f"A file should name classes of {', '.join(PACKAGES)} or of packages that you trust. Got `{path}`. "
            f"If you know where this file comes from, add --trust {package}."
        )
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise Refusal(
            f"A file should name classes that are installed. Got `{path}`: {error}. "
            f"Install `{package}` in the version that the file was saved with."
        ) from error


def _is_allowed(made: Any) -> bool:
    """Whether building it can do no more than build a part of a guard."""
    module = f"{getattr(made, '__module__', '')}."
    if isinstance(made, type):
        return issubclass(made, nn.Module | Component) or module.startswith("torchvision.transforms.")
    return inspect.isfunction(made) and module.startswith(_FUNCTIONS)


def _dtype(name: Any) -> torch.dtype:
    found = getattr(torch, str(name), None)
    if not isinstance(found, torch.dtype):
        raise Refusal(f"A file should name torch's dtypes. Got `{name}`. Save it anew.")
    return found
