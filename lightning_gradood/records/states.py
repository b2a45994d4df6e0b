"""What probes learnt from the training images, on disk by key: safetensors files with a checksum."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lightning_gradood.core import atomic_write, writing_refused
from lightning_gradood.records.shards import CACHE_FLAG, Damaged, say_damaged

_DIGEST = "digest"


class StateStore:
    """Tensors by key: `<folder>/<key>.safetensors`, each file complete or absent, with a checksum that is verified."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def has(self, key: str) -> bool:
        """Whether there is a state of that key."""
        return self._path(key).is_file()

    def mend(self, key: str) -> None:
        """Name and delete a damaged state, so that it is made again."""
        if self.has(key):
            try:
                self.read(key)
            except Damaged as damaged:
                say_damaged([damaged])
                with writing_refused(damaged.path, CACHE_FLAG):
                    damaged.path.unlink(missing_ok=True)

    def read(self, key: str) -> dict[str, Tensor]:
        """Read a state, on the CPU; a missing or damaged file is refused."""
        path = self._path(key)
        try:
            with safe_open(path, framework="pt") as file:
                about = file.metadata() or {}
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        except (SafetensorError, OSError, ValueError, TypeError, RuntimeError) as error:
            raise Damaged(path, f"what cannot be read ({error})") from error
        if about.get(_DIGEST) != digest_of_tensors(state, key):
            raise Damaged(path, "content that differs from its checksum")
        return state

    def write(self, key: str, state: Mapping[str, Tensor]) -> None:
        """Write a state, replacing one of the same key."""
        tensors = {name: tensor.cpu().contiguous() for name, tensor in state.items()}
        with atomic_write(self._path(key), CACHE_FLAG) as file:
            file.write(save(tensors, {_DIGEST: digest_of_tensors(tensors, key)}))

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"


def digest_of_tensors(tensors: Mapping[str, Tensor], *others: str) -> str:
    """SHA-256 of tensors with their names, types and shapes, and of further text."""
    digest = hashlib.sha256(json.dumps(others).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
