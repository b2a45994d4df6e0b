"""Networks, transforms and detectors as class path and arguments; which of them may be built from a guard's folder.

The folder names its parts as `{"class_path": ..., "init_args": {...}}`, as an experiment file does; nothing is
unpickled and no code of it is executed. Only networks, transforms, detectors, label designs and synthetic outliers of
this package, torch, torchvision and timm are built, and any class of a package that the user trusts by name.
"""

import functools
import inspect
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from importlib import import_module
from typing import Any

import torch
from torch import nn

from lightning_gradood.core import Refusal
from lightning_gradood.detectors import Detector
from lightning_gradood.gradients import LabelDesign
from lightning_gradood.networks import MLPSettings
from lightning_gradood.perturbations import SyntheticOutlier

PACKAGES = ("lightning_gradood", "torch", "torchvision", "timm")
"""Packages whose networks, transforms, detectors and label designs are built without being trusted by name."""

_FUNCTIONS = ("lightning_gradood.networks", "torchvision.models", "timm")  # functions there return networks
_TRANSFORMS = "torchvision.transforms"
_KINDS = (nn.Module, LabelDesign, SyntheticOutlier, Detector, MLPSettings)
_DOWNLOADS = ("weights", "weights_backbone", "pretrained")  # arguments that fetch weights, which the folder has
_FILES = ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")  # timm's, which read other files


@dataclass(frozen=True)
class Component:
    """An object by its class path and arguments.

    Args:
        class_path: of a class, or of a function that returns the object, e.g. `torchvision.models.resnet18`.
        init_args: plain values, lists, enumeration members, dtypes, and other components.
    """

    class_path: str
    init_args: Mapping[str, Any]

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "Component":
        """Take the parsed setting of an experiment, with `class_path` and perhaps `init_args`."""
        arguments = given.get("init_args") or {}
        return cls(str(given["class_path"]), {name: _component(value) for name, value in arguments.items()})

    def encoded(self) -> dict[str, Any]:
        """JSON-able form; an argument that is no plain value is refused."""
        arguments = {
            name: encode(value)
            for name, value in self.init_args.items()
            if name not in _DOWNLOADS and not (value is None and name in _FILES)
        }
        return {"class_path": self.class_path, "init_args": arguments}

    def build(self, trust: Collection[str] = ()) -> Any:
        """Build the object; a class of which required arguments are missing becomes a function that takes them.

        Args:
            trust: names of packages whose classes may be built beside those of `PACKAGES`.

        Raises:
            Refusal: the class path is not trusted, does not exist, or does not take these arguments.
        """
        return decode(self.encoded(), trust)

    @property
    def packages(self) -> set[str]:
        """Packages that it and the components among its arguments come from."""
        return packages_of(self.encoded())


def packages_of(encoded: Any) -> set[str]:
    """Packages of all class paths in what `encode` returned."""
    if isinstance(encoded, list):
        return set[str]().union(*map(packages_of, encoded))
    if not isinstance(encoded, dict):
        return set()
    own = {str(encoded["class_path"]).partition(".")[0]} if "class_path" in encoded else set()
    return own.union(*map(packages_of, encoded.values()))


def component_of(thing: Any) -> Component:
    """Describe a detector, a label design or another object by its fields or stored arguments; refuse any other."""
    taken = (
        [field.name for field in fields(thing)]
        if is_dataclass(thing)
        else list(inspect.signature(type(thing)).parameters)
    )
    try:
        arguments = {name: getattr(thing, name) for name in taken}
    except AttributeError as error:
        raise Refusal(
            f"A {type(thing).__name__} in a guard should keep each argument of its constructor under its own name. "
            f"Got one that does not: {error}. Write e.g. `self.scale = scale`."
        ) from error
    return Component(f"{type(thing).__module__}.{type(thing).__qualname__}", arguments)


def encode(value: Any) -> Any:
    """Convert an argument to JSON types or refuse it; `decode` is the inverse, except that tuples become lists."""
    if value is None or (isinstance(value, bool | int | float | str) and not isinstance(value, Enum)):
        return value
    if isinstance(value, Enum):
        return {"enum": f"{type(value).__module__}.{type(value).__qualname__}", "name": value.name}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, Component):
        return value.encoded()
    if isinstance(value, list | tuple):
        return [encode(part) for part in value]
    if isinstance(value, Mapping):
        return {str(name): encode(part) for name, part in value.items()}
    named = isinstance(value, Detector | LabelDesign | SyntheticOutlier)
    if named or (is_dataclass(value) and not isinstance(value, type)):
        return component_of(value).encoded()
    raise Refusal(
        "A guard should be made of a network and a transform with plain arguments. "
        f"Got an argument of type {type(value).__name__}. Give numbers, text, lists or class paths."
    )


def decode(value: Any, trust: Collection[str] = ()) -> Any:
    """Rebuild what `encode` described; see `Component.build`."""
    if isinstance(value, list):
        return [decode(part, trust) for part in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"class_path", "init_args"}:
        return _built(value["class_path"], value["init_args"], trust)
    if set(value) == {"dtype"}:
        return _dtype(value["dtype"])
    if set(value) == {"enum", "name"}:
        return _member(value["enum"], value["name"], trust)
    return {name: decode(part, trust) for name, part in value.items()}


def _component(value: Any) -> Any:
    if isinstance(value, Mapping) and set(value) <= {"class_path", "init_args"} and "class_path" in value:
        return Component.of(value)
    return [_component(part) for part in value] if isinstance(value, list) else value


def _built(path: Any, given: Any, trust: Collection[str]) -> Any:
    made = _found(path, trust)
    if not (_is_allowed(made) or str(path).partition(".")[0] in trust):
        raise Refusal(
            "A guard should be built of networks, transforms, detectors and label designs. "
            f"Got `{path}`. Load only guards whose origin you know."
        )
    if not isinstance(given, dict) or set(given) & {*_DOWNLOADS, *_FILES}:
        raise Refusal(f"A guard should name plain arguments for `{path}`. Got {sorted(given)}. Save the guard anew.")
    arguments = {name: decode(part, trust) for name, part in given.items()}
    try:
        inspect.signature(made).bind_partial(**arguments)
        if _misses_arguments(made, arguments):
            return functools.partial(made, **arguments)
        with torch.random.fork_rng(devices=[]):  # weights are drawn before they are replaced
            return made(**arguments)
    except Refusal:
        raise
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise Refusal(
            f"`{path}` should take the arguments that the guard names. Got: {str(error).strip()}. "
            "Use the version of its package that the guard was saved with."
        ) from error


def _found(path: Any, trust: Collection[str]) -> Any:
    module, _, name = str(path).rpartition(".")
    package = str(path).partition(".")[0]
    if package not in (*PACKAGES, *trust):
        raise Refusal(
            f"A guard should name classes of {', '.join(PACKAGES)} or of packages that you trust. Got `{path}`. "
            f"If you know where this guard comes from, add --trust {package}."
        )
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise Refusal(
            f"A guard should name classes that are installed. Got `{path}`: {error}. "
            f"Install `{package}` in the version that the guard was saved with."
        ) from error
    return found


def _is_allowed(made: Any) -> bool:
    """Whether building it can do no more than build a part of a guard."""
    module = str(getattr(made, "__module__", ""))
    if isinstance(made, type):
        return issubclass(made, _KINDS) or _is_below(module, (_TRANSFORMS,))
    return inspect.isfunction(made) and _is_below(module, _FUNCTIONS)


def _is_below(module: str, packages: Sequence[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _misses_arguments(made: Any, arguments: Mapping[str, Any]) -> bool:
    needed = (
        parameter.name
        for parameter in inspect.signature(made).parameters.values()
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    )
    return any(name not in arguments for name in needed)


def _dtype(name: Any) -> torch.dtype:
    found = getattr(torch, str(name), None)
    if not isinstance(found, torch.dtype):
        raise Refusal(f"A guard should name torch's dtypes. Got `{name}`. Save the guard anew.")
    return found


def _member(path: Any, name: Any, trust: Collection[str]) -> Enum:
    kind = _found(path, trust)
    if not (isinstance(kind, type) and issubclass(kind, Enum)) or name not in kind.__members__:
        raise Refusal(f"A guard should name members of enumerations. Got `{path}.{name}`. Save the guard anew.")
    return kind[name]
