"""Reading weights from files without executing code, and loading them into a network completely or not at all."""

import itertools
import os
import re
import warnings
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from lightning_gradood.core import Refusal


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read a plain state dict, a Lightning checkpoint's `state_dict`, or a .safetensors file.

    Args:
        path: A file that `torch.save` or Lightning wrote (any ending), or one that ends in .safetensors.

    Returns:
        Names and tensors as stored, on the CPU, in the file's dtypes.

    Raises:
        Refusal: If the file is missing, damaged, of another kind, holds no named tensors, or would execute code.
            Nothing in it has been executed then.

    Reference:
        `torch.load(weights_only=True)` reads tensors and plain containers only; safetensors files hold nothing else.

    Example:
        >>> import tempfile
        >>> from torch import nn
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save(nn.Linear(2, 3).state_dict(), f"{folder}/linear.pt")
        ...     list(read_state_dict(f"{folder}/linear.pt"))
        ['weight', 'bias']
    """
    file = Path(path)
    if not file.is_file():
        raise Refusal(
            f"`path` should be a file of weights. Got `path = {file}`, "
            f"{'a folder' if file.is_dir() else 'which does not exist'}. Name a .pt, .pth, .ckpt or .safetensors file."
        )
    content = _read(file)
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]  # a Lightning checkpoint
    _check_content(content, file)
    return dict(content)


def _read(file: Path) -> Any:
    try:
        if file.suffix.lower() == ".safetensors":
            return safetensors.torch.load_file(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of foreign files before it raises; the refusal says it better
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # arbitrary bytes make the readers raise IndexError, KeyError, UnicodeDecodeError, ...
        raise _refusal(file, error) from error


def _refusal(file: Path, error: Exception) -> Refusal:
    blocked = re.search(r"GLOBAL (\S+)", str(error))
    if blocked:
        return Refusal(
            "`path` should be a file of tensors, which loads without executing code. "
            f"Got `path = {file}`, which asks for Python's {blocked[1]}; nothing was executed. If you trust its "
            "source, load it there and save only `network.state_dict()`."
        )
    return Refusal(
        f"`path` should be a file of weights. Got `path = {file}`, which cannot be read as one ({_reason(error)}): it "
        "is truncated, or of another kind; nothing in it was executed. Copy it again, or save `network.state_dict()` "
        "with `torch.save`."
    )


def _reason(error: Exception) -> str:
    unpickler = re.search(r"WeightsUnpickler error:\s*(.+)", str(error))  # torch's advice before it would load unsafely
    lines = (unpickler[1] if unpickler else str(error)).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:120]}" if lines else type(error).__name__


def _check_content(content: Any, file: Path) -> None:
    if not isinstance(content, dict) or not content:
        raise Refusal(
            f"`path` should be a file of named tensors. Got `path = {file}`, which holds "
            f"{'an empty dict' if content == {} else type(content).__name__}. Save `network.state_dict()`."
        )
    foreign = [key for key, value in content.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if foreign:
        raise Refusal(
            f"`path` should be a file of named tensors. Got `path = {file}`, in which {len(foreign)} of {len(content)} "
            f"entries are something else, the first {foreign[0]!r} ({type(content[foreign[0]]).__name__}). Save "
            "`network.state_dict()`, alone or under the key 'state_dict'."
        )


# The attribute names under which wrappers keep the network they wrap: DistributedDataParallel, our own `Normalized` and
# `ClassificationTask`, other people's tasks, torch.compile.
_WRAPPERS = frozenset({"module", "network", "model", "net", "_orig_mod"})
_COUNTER = "num_batches_tracked"  # BatchNorm's, unused with a fixed momentum, absent from files before torch 0.4.1


def load_weights(network: nn.Module, path: str | os.PathLike[str]) -> None:
    """Load weights into `network` in place, whatever wrapped either of them when they were saved.

    Names fit when they are the same after the wrappers' prefixes ("module.", "network.", "model.", "net.", "_orig_mod."
    and chains of them) are taken from both. So a plain network's file loads into a `Normalized` one, and so does a
    Lightning checkpoint of a task; what the checkpoint holds beside the network is not read. Values are cast to the
    network's dtype.

    Args:
        network: The network to fill.
        path: A state dict, a Lightning checkpoint or a .safetensors file, see `read_state_dict`.

    Raises:
        Refusal: If the file cannot be read, or is not of this architecture: names are missing or unexpected, or shapes
            differ. The network is unchanged then.

    Example:
        >>> import tempfile
        >>> import torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"module.weight": torch.ones(1, 1), "module.bias": torch.ones(1)}, f"{folder}/layer.pt")
        ...     layer = nn.Linear(1, 1)
        ...     load_weights(layer, f"{folder}/layer.pt")
        >>> layer(torch.ones(1)).item()
        2.0
    """
    stored = read_state_dict(path)
    expected = network.state_dict()
    fits = [_compare(expected, stored, prefix) for prefix in _wrapper_prefixes(stored)]
    best = min(fits, key=lambda fit: fit.differences)  # the first among equals, so the shortest prefix
    if best.differences:
        wording = _class_count_sentence(expected, best) or _architecture_sentence(expected, best)
        raise Refusal(f"`path` should hold weights of this {type(network).__name__}. Got `path = {path}`{wording}")
    network.load_state_dict({**expected, **best.found})


@dataclass(frozen=True)
class _Fit:
    """One reading of the stored names, and how it differs from the network's."""

    found: dict[str, Tensor]  # under the network's names, as are `missing` and `reshaped`; `unexpected` as in the file
    missing: list[str]
    unexpected: list[str]
    reshaped: list[str]

    @property
    def differences(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.reshaped)


def _compare(expected: dict[str, Tensor], stored: dict[str, Tensor], prefix: str) -> _Fit:
    """Read the stored names under `prefix`, exchanged for the prefix that all the network's own names share."""
    own = _shared_prefix(expected)
    names = {key: own + key[len(prefix) :] for key in stored if key.startswith(prefix)}
    found = {name: stored[key] for key, name in names.items()}
    return _Fit(
        found=found,
        missing=[key for key in expected if key not in found and not key.endswith(_COUNTER)],
        unexpected=[key for key, name in names.items() if name not in expected],
        reshaped=[key for key, value in expected.items() if key in found and found[key].shape != value.shape],
    )


def _wrapper_prefixes(keys: Iterable[str]) -> list[str]:
    prefixes = {prefix for key in keys for prefix in _prefixes_of(key)}
    return sorted(prefixes, key=lambda prefix: (len(prefix), prefix))


def _shared_prefix(keys: Collection[str]) -> str:
    shared = set.intersection(*(set(_prefixes_of(key)) for key in keys)) if keys else {""}
    return max(shared, key=len)


def _prefixes_of(key: str) -> list[str]:
    """List the chains of wrappers that start `key`: "network.model.fc.bias" has "", "network." and "network.model."."""
    wrappers = itertools.takewhile(_WRAPPERS.__contains__, key.split(".")[:-1])
    return list(itertools.accumulate((f"{wrapper}." for wrapper in wrappers), initial=""))


def _class_count_sentence(expected: dict[str, Tensor], fit: _Fit) -> str | None:
    """Word the one difference that a user meets most: all fits but the number of rows of the last layer."""
    if fit.missing or fit.unexpected:
        return None
    last_layer = list(expected)[-1].rpartition(".")[0]
    rows_only = all(
        key.rpartition(".")[0] == last_layer and fit.found[key].shape[1:] == expected[key].shape[1:]
        for key in fit.reshaped
    )
    if not rows_only:
        return None
    key = fit.reshaped[0]
    stored, own = fit.found[key].shape[0], expected[key].shape[0]
    return (
        f", which holds weights for {stored} classes, the network has {own}. Build the network with "
        f"`num_classes = {stored}`, or name weights for {own} classes."
    )


def _architecture_sentence(expected: dict[str, Tensor], fit: _Fit) -> str:
    parts = []
    if fit.missing:
        parts.append(f"{len(fit.missing)} of its {len(expected)} tensors are missing ({_first(fit.missing)})")
    if fit.unexpected:
        parts.append(f"{len(fit.unexpected)} are unexpected ({_first(fit.unexpected)})")
    if fit.reshaped:
        key = fit.reshaped[0]
        shapes = f"{list(fit.found[key].shape)} in the file, {list(expected[key].shape)} in the network"
        parts.append(f"{len(fit.reshaped)} differ in shape (first {key}: {shapes})")
    return f", in which {', '.join(parts)}. Build the network that these weights were trained with, or name its own."


def _first(keys: list[str]) -> str:
    return f"first {', '.join(keys[:3])}"
