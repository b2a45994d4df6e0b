"""Read the tensors of a weights file of any of the three common kinds, without ever executing code."""

import os
import re
import warnings
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from lightning_gradood.errors import Refusal


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
