"""What probes learnt from the training images, on disk beside the records."""

import os
import uuid
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from lightning_gradood.errors import Refusal
from lightning_gradood.records.cache import disk_full_refused


class StateStore:
    """Tensors by key: `<folder>/<key>.safetensors`, each file whole or not there.

    Args:
        folder: the cache's; made when first written to.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def has(self, key: str) -> bool:
        """Whether there is a state of that key."""
        return self._path(key).is_file()

    def read(self, key: str) -> dict[str, Tensor]:
        """Read a state, on the CPU.

        Raises:
            Refusal: if the file was damaged.
        """
        path = self._path(key)
        try:
            return dict(load_file(path))
        except (SafetensorError, OSError) as error:
            raise Refusal(
                f"{path} should be a readable safetensors file. Got: {error}. Delete it; it will be made again from the "
                "training images."
            ) from error

    def write(self, key: str, state: dict[str, Tensor]) -> None:
        """Keep a state; one of the same key is replaced.

        Raises:
            Refusal: if the disk is full.
        """
        path = self._path(key)
        temporary = path.with_name(f"{uuid.uuid4().hex}.tmp")
        with disk_full_refused(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                temporary.write_bytes(save({name: tensor.cpu().contiguous() for name, tensor in state.items()}))
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"
