"""Read files of weights without executing code, and load them into a network completely or not at all."""

import itertools
import os
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from lightning_gradood.core import Refusal, say_once
from lightning_gradood.networks.architectures import bare

# attributes that hold the network in DistributedDataParallel, `Normalized`, tasks, torch.compile
_WRAPPERS = frozenset({"module", "network", "model", "net", "_orig_mod"})
_ROOT = '""'  # what stands for an empty prefix, as it is typed
_MOST_LEFT_OUT = 100
_OTHER_KINDS = {  # what is often saved or downloaded in place of weights, by first bytes or names in a zip archive
    "is a Git LFS pointer, which `git lfs pull` replaces by the file": r"version https://git-lfs",
    "is a web page": r"\s*<(!doctype|html|\?xml)",
    "is compressed by gzip, which `gunzip` undoes": "\x1f\x8b",
    "is a TorchScript archive, not a state dict": r"PK.* \S+/code/",
    "is an exported program, not a state dict": r"PK.* \S+/archive_format",
    "holds NumPy arrays": r"PK.*\.npy|\x93NUMPY",
}
_PROFILED = ("total_ops", "total_params")  # a profiler's counts beside each module's weights
_COUNTER = "num_batches_tracked"  # BatchNorm's, unused with a fixed momentum, absent from files before torch 0.4.1


def load_weights(network: nn.Module, path: str | os.PathLike[str], prefix: str | None = None) -> list[str]:
    """Load weights into `network` in place, whatever wrapped either of them when they were saved.

    Names fit when they are the same after the wrappers' prefixes ("module.", "network.", "model.", "net.", "_orig_mod."
    and chains of them) are taken from both. So a plain network's file loads into a `Normalized` one, and so does a
    Lightning checkpoint of a task; what the checkpoint holds beside the network is not read. Of several networks in one
    file the only one that fits is taken, and none where several do and no prefix says which. Tied weights need one of
    their names. OpenOOD's `shortcut` in a ResNet fits torchvision's `downsample`.
    Floating-point values are cast to the network's dtype, integers never are.

    Args:
        network: The network to fill.
        path: A state dict or a Lightning checkpoint (any ending), or a .safetensors file; no code in it is executed.
        prefix: What the names of the network's tensors start with in the file, `student` or `model_ema`.

    Returns:
        A sentence about which of several networks is taken, if that was decided.

    Raises:
        Refusal: If the file cannot be read, names are missing or unexpected, shapes or kinds of numbers differ, or
            several networks in the file fit. The network is unchanged then.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"module.weight": torch.ones(1, 1), "module.bias": torch.ones(1)}, f"{folder}/layer.pt")
        ...     layer = nn.Linear(1, 1)
        ...     load_weights(layer, f"{folder}/layer.pt")
        []
        >>> layer(torch.ones(1)).item()
        2.0
    """
    expected, ties = network.state_dict(), _ties(network)
    groups, fits = _fits(network, path, prefix)
    below = (prefix or "").strip(".")
    whole = list[_Fit]()
    for fit in fits:
        if (not fit.differences or fit.is_beside(fits)) and not any(fit.is_copy_of(other) for other in whole):
            whole.append(fit)
    if prefix is not None and not below:
        whole = [fit for fit in whole if fit.name == _ROOT] or whole
    if len(whole) > 1:
        listed = ", ".join(f"{fit.name} ({len(fit.found)} tensors)" for fit in whole)
        raise Refusal(
            f"`path` should hold one network that fits this {type(bare(network)).__name__}, or a prefix should name one. Got "
            f"`path = {path}` with {len(whole)}: {listed}. Pick one with --model.weights_prefix {whole[-1].name}."
        )
    if not whole:
        held = f" It holds several groups of tensors: {', '.join(groups)}." if len(groups) > 1 else ""
        # the first among equals: the shortest prefix
        differing = min(fits, key=lambda fit: fit.differences).differs_in(expected)
        raise Refusal(
            f"`path` should hold weights of this {type(bare(network)).__name__}. Got `path = {path}`, in which {differing}. "
            f"Build the network that these weights were trained with, or name its own.{held}"
        )
    (fit,) = whole
    _refuse_other_values(expected, ties, fit, path)
    network.load_state_dict({**expected, **fit.found})
    # a file that holds one alone, plain or in wrappers, leaves no choice
    plain = fit.group in ("", "state_dict") and len(groups) == 1 and fit.start in _prefixes_of(f"{fit.start}x")
    if prefix is not None or plain:
        return []
    choice = f"The weights are those under {fit.name} in {path}, the only ones there that fit;"
    return [f"{choice} --model.weights_prefix names others."]


def outputs_in(path: str | os.PathLike[str], network: nn.Module, prefix: str | None = None) -> int | None:
    """Number of outputs of a network whose weights a file holds, if `network` has another one and differs in nothing else."""
    expected = network.state_dict()
    fit = min(_fits(network, path, prefix)[1], key=lambda fit: fit.differences)
    sizes = {(len(expected[name]), len(fit.found[name])) for name in fit.reshaped}
    alike = all(fit.found[name].shape[1:] == expected[name].shape[1:] for name in fit.reshaped)
    return sizes.pop()[1] if len(sizes) == 1 and alike and not (fit.missing or fit.unexpected) else None


def _fits(
    network: nn.Module, path: str | os.PathLike[str], prefix: str | None
) -> tuple[dict[str, dict[str, Tensor]], list["_Fit"]]:
    """Groups of tensors in a file, and each reading of their names."""
    expected, ties, groups = network.state_dict(), _ties(network), _groups(Path(path))
    if below := (prefix or "").strip("."):
        groups = {below: _below(groups, below, path)}
    starts = {group: _starts(tensors, expected, everywhere=not below) for group, tensors in groups.items()}
    return groups, [
        _compare(expected, ties, groups[group], group, start) for group in starts for start in starts[group]
    ]


class _LeftOut:
    """Stands in a file of weights for an object that is neither a tensor nor a plain container: nothing of it is built."""

    def __new__(cls, *args: object, **kwargs: object) -> Any:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None: ...


class _LeftOutDict(_LeftOut):
    """Stands for a subclass of dict, whose entries are kept."""

    def __new__(cls, *args: object, **kwargs: object) -> Any:
        return OrderedDict()


class _LeftOutList(_LeftOut):
    """Stands for a subclass of list, whose entries are kept."""

    def __new__(cls, *args: object, **kwargs: object) -> Any:
        return []


_ASKED = {  # what torch's reader says where it does not know a class, or finds entries for a stand-in
    r"Unsupported global: GLOBAL (\S+)": _LeftOut,
    r"Can only SETITEMS? for dict.* got <class 'left_out\.(\S+)'>": _LeftOutDict,
    r"Can only (?:append to|extend) lists, but got <class 'left_out\.(\S+)'>": _LeftOutList,
}


def _content(file: Path) -> Any:
    """Whatever tensors and plain containers a file holds; `_LeftOut` in place of anything else."""
    if not file.is_file():
        raise Refusal(
            f"`path` should be a file of weights. Got `path = {file}`, "
            f"{'a folder' if file.is_dir() else 'which does not exist'}. Name a .pt, .pth, .ckpt or .safetensors file."
        )
    left_out: dict[str, type[_LeftOut]] = {}
    try:
        if file.suffix.lower() != ".safetensors":
            found = _unpickled(file, left_out)
        else:
            found = safetensors.torch.load_file(file)
            with safetensors.safe_open(file, framework="pt") as opened:
                shared = opened.metadata() or {}  # names that `safetensors.torch.save_model` leaves out of tied weights
            found = {name: found[kept] for name, kept in shared.items() if kept in found} | found
    except Exception as error:  # arbitrary bytes make the readers raise IndexError, KeyError, UnicodeDecodeError, ...
        if blocked := re.search(r"GLOBAL (\S+)", str(error)):
            raise Refusal(
                "`path` should be a file of tensors, which loads without executing code. "
                f"Got `path = {file}`, which asks for Python's {blocked[1]}; nothing was executed. If you trust its "
                "source, load it there and save only `network.state_dict()`."
            ) from error
        # torch's advice, before what it says of its reader, would be to load unsafely
        said = str(error).rpartition("WeightsUnpickler error:")[2].strip().partition("\n")[0][:120]
        reason = f"cannot be read as one ({type(error).__name__}: {said}): it is truncated, or of another kind"
        start = file.read_bytes()[:300].decode("latin-1")
        if zipfile.is_zipfile(file):
            start = " ".join(["PK", *zipfile.ZipFile(file).namelist()])
        kinds = (kind for kind, pattern in _OTHER_KINDS.items() if re.match(pattern, start, re.IGNORECASE))
        reason = next(kinds, reason)
        raise Refusal(
            f"`path` should be a file of weights. Got `path = {file}`, which {reason}; nothing in it was executed. Copy it "
            "again, or save `network.state_dict()` with `torch.save`."
        ) from error
    if isinstance(found, _LeftOut):
        raise Refusal(
            f"`path` should be a file of tensors, which loads without executing code. Got `path = {file}`, which asks for "
            f"Python's {type(found).__name__}; nothing was executed. If you trust its source, load it there and save only "
            "`network.state_dict()`."
        )
    if left_out:
        say_once(f"{file}: left out all but tensors and plain values, as none of {', '.join(left_out)} is built.")
    return found


def _unpickled(file: Path, left_out: dict[str, type[_LeftOut]]) -> Any:
    """What torch's own reader of weights makes of a file; `left_out` gets a stand-in for each class that it does not build."""
    while True:
        stand_ins: list[Any] = [(kind, name) for name, kind in left_out.items()]
        try:
            with warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins):
                warnings.simplefilter("ignore")  # of foreign files, before torch raises; the refusal says it better
                return torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:  # it names one class, or one use of a stand-in, at a time
            asked = [(base, found) for words, base in _ASKED.items() if (found := re.search(words, str(error)))]
            if not asked:
                raise
            ((base, match),) = asked
            name = match[1] if "." in match[1] else f"builtins.{match[1]}"
            if (name in left_out and left_out[name].__base__ is base) or len(left_out) == _MOST_LEFT_OUT:
                raise
            left_out[name] = type(name, (base,), {"__module__": "left_out"})


def _groups(path: Path) -> dict[str, dict[str, Tensor]]:
    """Every group of named tensors in a file, such as `model` and `model_ema`, by the dotted name of its entry.

    The name is empty for a plain file of tensors.
    """
    content = _content(path)
    if isinstance(content, Mapping) and "pytorch-lightning_version" in content and "state_dict" in content:
        content = {"state_dict": content["state_dict"]}  # what else it holds is the optimizer's and the callbacks'
    groups = dict(_groups_in(content, "", 3))
    if not groups:
        raise Refusal(
            f"`path` should be a file of named tensors. Got `path = {path}`, which holds {type(content).__name__} without "
            "such a group. Save `network.state_dict()`, alone or under the key 'state_dict'."
        )
    return groups


def _groups_in(content: Any, name: str, depth: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
    if not isinstance(content, Mapping) or not content or not all(isinstance(key, str) for key in content):
        return
    if all(isinstance(value, Tensor) for value in content.values()):
        yield name, {key: part if part.layout == torch.strided else part.to_dense() for key, part in content.items()}
    elif depth:
        for key, value in content.items():
            yield from _groups_in(value, f"{name}.{key}" if name else key, depth - 1)


def _ties(network: nn.Module) -> list[list[str]]:
    names: dict[int, list[str]] = {}  # of tensors that are one and the same
    for name, tensor in network.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor):
            names.setdefault(id(tensor), []).append(name)
    return [same for same in names.values() if len(same) > 1]


def _below(groups: Mapping[str, dict[str, Tensor]], prefix: str, path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors whose name in the file starts with a prefix, without it; `state_dict.` need not be typed."""
    named = {
        f"{group}.{key}".strip("."): tensor for group, tensors in groups.items() for key, tensor in tensors.items()
    }
    for start in (f"{prefix}.", f"state_dict.{prefix}."):
        if found := {name.removeprefix(start): tensor for name, tensor in named.items() if name.startswith(start)}:
            return found
    first = list(dict.fromkeys(name.removeprefix("state_dict.").partition(".")[0] for name in named))
    raise Refusal(
        f"`model.weights_prefix` should be what names of tensors in the file start with. Got `model.weights_prefix = {prefix}` "
        f"for `path = {path}`, whose names start with {', '.join(first[:8])}{', …' if len(first) > 8 else ''}. Write one."
    )


def _starts(stored: Mapping[str, Tensor], expected: Mapping[str, Tensor], everywhere: bool) -> list[str]:
    """Prefixes under which the network may lie: chains of wrappers, and others with its first or last tensor."""
    own, found = _shared_prefix(expected), {prefix for key in stored for prefix in _prefixes_of(key)}
    for name in [key.removeprefix(own) for key in (list(expected)[:1] + list(expected)[-1:]) if everywhere]:
        found |= {key.removesuffix(name) for key in stored if key.endswith(f".{name}")}
    return sorted(found, key=lambda prefix: (len(prefix), prefix))


def _shared_prefix(keys: Collection[str]) -> str:
    shared = set.intersection(*(set(_prefixes_of(key)) for key in keys)) if keys else {""}
    return max(shared, key=len)


def _prefixes_of(key: str) -> list[str]:
    """List the chains of wrappers that start `key`: "network.model.fc.bias" has "", "network." and "network.model."."""
    wrappers = itertools.takewhile(_WRAPPERS.__contains__, key.split(".")[:-1])
    return list(itertools.accumulate((f"{wrapper}." for wrapper in wrappers), initial=""))


@dataclass(frozen=True)
class _Fit:
    """One reading of the stored names, and how it differs from the network's."""

    group: str  # the entry of the file
    start: str  # prefix of the names in it
    found: dict[str, Tensor]  # under the network's names, as are `missing` and `reshaped`; `unexpected` as in the file
    missing: list[str]
    unexpected: list[str]
    reshaped: list[str]

    @property
    def differences(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.reshaped)

    @property
    def name(self) -> str:
        """The prefix that picks it, without the dot at the end."""
        return f"{self.group}.{self.start}".strip(".").removeprefix("state_dict.") or _ROOT

    def is_beside(self, others: Iterable["_Fit"]) -> bool:
        """Whether it is complete, and all that is unexpected under its prefix belongs to other networks that fit."""
        inner = [one for one in others if one.group == self.group and len(one.start) > len(self.start)]
        starts = tuple(one.start for one in inner if not one.differences)
        return not (self.missing or self.reshaped) and all(key.startswith(starts) for key in self.unexpected)

    def is_copy_of(self, other: "_Fit") -> bool:
        return all(name in other.found and torch.equal(part, other.found[name]) for name, part in self.found.items())

    def differs_in(self, expected: Mapping[str, Tensor]) -> str:
        parts = []
        if self.missing:
            first = ", ".join(self.missing[:3])
            parts.append(f"{len(self.missing)} of its {len(expected)} tensors are missing (first {first})")
        if self.unexpected:
            parts.append(f"{len(self.unexpected)} are unexpected (first {', '.join(self.unexpected[:3])})")
        for key in self.reshaped[:1]:
            shapes = f"{list(self.found[key].shape)} in the file, {list(expected[key].shape)} in the network"
            parts.append(f"{len(self.reshaped)} differ in shape (first {key}: {shapes})")
        return ", ".join(parts)


def _compare(
    expected: Mapping[str, Tensor],
    ties: Iterable[Collection[str]],
    stored: Mapping[str, Tensor],
    group: str,
    start: str,
) -> _Fit:
    """Read the stored names under a prefix, exchanged for the prefix that all the network's own names share."""
    own = _shared_prefix(expected)
    names = {key: _own_name(own + key[len(start) :], expected) for key in stored if key.startswith(start)}
    found = {name: stored[key] for key, name in names.items()}
    for same in ties:
        kept = [found[name] for name in same if name in found]
        found |= {name: kept[0] for name in same if kept and name not in found}
    return _Fit(
        group=group,
        start=start,
        found={name: part for name, part in found.items() if name in expected},
        missing=[key for key in expected if key not in found and not key.endswith(_COUNTER)],
        unexpected=[key for key, name in names.items() if name not in expected and not key.endswith(_PROFILED)],
        reshaped=[key for key, value in expected.items() if key in found and found[key].shape != value.shape],
    )


def _own_name(name: str, expected: Collection[str]) -> str:
    """A stored name as torchvision's ResNets have it, where only so it is the network's."""
    other = name.replace(".shortcut.", ".downsample.")
    return other if name not in expected and other in expected else name


def _refuse_other_values(
    expected: Mapping[str, Tensor], ties: Iterable[Collection[str]], fit: _Fit, path: str | os.PathLike[str]
) -> None:
    """Refuse integers for floating-point weights and the reverse, as of quantised networks, and two values of one weight."""
    for name, stored in fit.found.items():
        own, kinds = expected[name], (Tensor.is_floating_point, Tensor.is_complex)
        differs = stored.is_quantized or any(is_kind(stored) != is_kind(own) for is_kind in kinds)
        if differs and not name.endswith(_COUNTER):
            raise Refusal(
                f"`path` should hold numbers of the network's type, {own.dtype} for `{name}`. Got `path = {path}` with "
                f"{stored.dtype}, which cannot be cast to it. Save the weights before the network is quantised."
            )
    for first, other in ((first, other) for first, *others in ties for other in others):
        if first in fit.found and not torch.equal(fit.found[first], fit.found[other]):
            raise Refusal(
                f"`path` should hold one value of `{first}` and `{other}`, which this network shares. Got two, "
                f"in `path = {path}`. Build the network without sharing them, or name weights in which they are the same."
            )
