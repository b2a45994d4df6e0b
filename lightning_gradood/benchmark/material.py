"""What the page shows beyond a run's numbers: a few arrays in the run's folder."""

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

_FILE = "material.npz"
_INDEX = "index"  # of the file: JSON with the structure, arrays replaced by their numbers


@dataclass(frozen=True)
class Material:
    """Arrays of one run, as they are kept between processes and days.

    Args:
        weights: digest of the classifier's weights.
        scores: source to detector to `labels` int64 [n] and `scores` float64 [n] of `test`.
        norms: source to squared gradient norms, float64 [k, L], at most 1,000 images.
        layer_names: of the L columns.
        samples: source to uint8 images [k, H, W, C].
        first_layer: `name`, `weights` [filters, C, h, w] and, by source, `gradients` of the same shape and the `images`
            uint8 [H, W, C] they are of; empty if the network has no convolution.
        probes: probe to `milliseconds` an image, and `mebibytes` an image where the device counts them.
    """

    weights: str
    scores: dict[str, dict[str, dict[str, np.ndarray]]] = field(default_factory=dict)
    norms: dict[str, np.ndarray] = field(default_factory=dict)
    layer_names: list[str] = field(default_factory=list)
    samples: dict[str, np.ndarray] = field(default_factory=dict)
    first_layer: dict[str, Any] = field(default_factory=dict)
    probes: dict[str, dict[str, Any]] = field(default_factory=dict)

    @staticmethod
    def path(folder: Path) -> Path:
        """Where a run's folder has it."""
        return folder / _FILE

    @classmethod
    def read(cls, folder: Path) -> "Material":
        """Read that of a run's folder."""
        with np.load(cls.path(folder), allow_pickle=False) as arrays:
            index = json.loads(str(arrays[_INDEX]))
            return cls(**_filled(index, arrays))

    def to_bytes(self) -> bytes:
        """The file's content."""
        arrays: dict[str, np.ndarray] = {}
        index = _emptied(vars(self), arrays)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **{_INDEX: np.array(json.dumps(index))}, **arrays)  # type: ignore[arg-type]
        return buffer.getvalue()


def _emptied(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, dict):
        return {key: _emptied(item, arrays) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        name = f"array_{len(arrays)}"
        arrays[name] = value
        return {_INDEX: name}
    return value


def _filled(value: Any, arrays: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if set(value) == {_INDEX}:
        return arrays[value[_INDEX]]
    return {key: _filled(item, arrays) for key, item in value.items()}
