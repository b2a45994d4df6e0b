"""Reading files of weights without executing code, and the networks that one file may hold."""

import os
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from lightning_gradood.core import Refusal


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read a plain state dict, a Lightning checkpoint's `state_dict`, or a .safetensors file, without executing code.

    Args:
        path: A file that `torch.save` or Lightning wrote (any ending), or one that ends in .safetensors.

    Returns:
        Names and tensors as stored, on the CPU, in the file's dtypes.

    Raises:
        Refusal: If the file is missing, damaged, of another kind, holds no named tensors, or would execute code.

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
    content = read_content(path)
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]  # a Lightning checkpoint
    _check_content(content, Path(path))
    return dict(content)


def read_networks(path: str | os.PathLike[str]) -> dict[str, dict[str, Tensor]]:
    """Every group of named tensors in a file, such as `model` and `model_ema`, by the dotted name of its entry.

    The name is empty for a plain file of tensors. Refuses as `read_state_dict`.
    """
    content = read_content(path)
    if isinstance(content, Mapping) and "pytorch-lightning_version" in content and "state_dict" in content:
        content = {"state_dict": content["state_dict"]}  # what else it holds is the optimizer's and the callbacks'
    groups = dict(_groups(content, "", 3))
    if not groups:
        _check_content(content, Path(path))
    return groups


def _groups(content: Any, name: str, depth: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
    if not isinstance(content, Mapping) or not content or not all(isinstance(key, str) for key in content):
        return
    if all(isinstance(value, Tensor) for value in content.values()):
        yield name, dict(content)
    elif depth:
        for key, value in content.items():
            yield from _groups(value, f"{name}.{key}" if name else key, depth - 1)


def read_content(path: str | os.PathLike[str]) -> Any:
    """Read whatever tensors and plain containers a file holds; refuses as `read_state_dict`."""
    file = Path(path)
    if not file.is_file():
        raise Refusal(
            f"`path` should be a file of weights. Got `path = {file}`, "
            f"{'a folder' if file.is_dir() else 'which does not exist'}. Name a .pt, .pth, .ckpt or .safetensors file."
        )
    return _read(file)


def _read(file: Path) -> Any:
    try:
        if file.suffix.lower() == ".safetensors":
            return _with_shared_tensors(safetensors.torch.load_file(file), file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of foreign files before it raises; the refusal says it better
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # arbitrary bytes make the readers raise IndexError, KeyError, UnicodeDecodeError, ...
        raise _refusal(file, error) from error


def _with_shared_tensors(found: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    """Add the names that `safetensors.torch.save_model` leaves out of tied weights, which the file's metadata has."""
    with safetensors.safe_open(file, framework="pt") as opened:
        shared = dict(opened.metadata() or {})
    return found | {
        left_out: found[kept] for left_out, kept in shared.items() if kept in found and left_out not in found
    }


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
