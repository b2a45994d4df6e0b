"""Scores as operations on tensors, which torch.export traces for an ONNX file, and what their formulas share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import final

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import Refusal
from lightning_gradood.detectors.detector import Fitted
from lightning_gradood.probes import LogitsProbe, PenultimateProbe
from lightning_gradood.records import Records

_MOST = 256  # rows whose distances to all rows of a bank are in memory together
_SMALLEST = 1e-12  # length


@dataclass(frozen=True)
class TensorReadings:
    """What probes have read of N images: float64 [N, width] by a probe's name, and the predicted classes, int64 [N]."""

    probe: Callable[[str], Tensor]
    predictions: Tensor

    @staticmethod
    def of(records: Records) -> TensorReadings:
        """Read records; a probe they do not hold is refused when it is asked for."""

        @cache  # a score may read it more than once
        def probe(name: str) -> Tensor:
            return torch.from_numpy(np.array(records.stored(name), np.float64))

        return _OfRecords(probe, torch.from_numpy(np.array(records.column("prediction"), np.int64)), records)

    @property
    def logits(self) -> Tensor:
        """Of every class."""
        return self.probe(LogitsProbe.name)

    @property
    def features(self) -> Tensor:
        """Penultimate ones."""
        return self.probe(PenultimateProbe.name)

    def score(self, fitted: Fitted) -> Tensor:
        """Scores float64 [N] of what a part of a detector has learnt; without records it has to be a `TensorFitted`."""
        if not isinstance(fitted, TensorFitted):
            raise Refusal(
                "The detector's score should be written as operations on tensors. Got that of "
                f"{type(fitted).__name__}. Derive it from `lightning_gradood.detectors.TensorFitted`."
            )
        return fitted.tensor_score(self)


@dataclass(frozen=True)
class _OfRecords(TensorReadings):
    records: Records

    @override
    def score(self, fitted: Fitted) -> Tensor:
        return torch.from_numpy(fitted.score(self.records))


class TensorFitted(Fitted):
    """A `Fitted` whose score is written as operations on tensors, which torch.export traces for an ONNX file."""

    @abstractmethod
    def tensor_score(self, read: TensorReadings) -> Tensor:
        """Scores float64 [N], any range, higher = more anomalous."""

    @final
    @override
    def score(self, records: Records) -> np.ndarray:
        starts = range(0, len(records), _MOST)
        parts = [records] if len(starts) == 1 else (Records(records.table.slice(start, _MOST)) for start in starts)
        return np.concatenate([np.empty(0), *(self.tensor_score(TensorReadings.of(part)).numpy() for part in parts)])


def product(values: Tensor, matrix: np.ndarray) -> Tensor:
    """`values @ matrix`, where a row has the same bits wherever it stands in its block: NumPy's product, not torch's."""
    if torch.compiler.is_compiling() or values.requires_grad:
        return values @ torch.from_numpy(matrix)
    return torch.from_numpy(np.asarray(values.numpy() @ matrix))


def of_class(predictions: Tensor, classes: np.ndarray, rows: np.ndarray, other: Tensor | float = 0.0) -> Tensor:
    """Rows [C, D] of the predicted classes, those int64 [C] that are known, and `other` for the rest, [N, D]."""
    place_of = np.full(max(int(classes.max()), 0) + 2, -1)
    place_of[classes] = np.arange(len(classes))
    places = torch.from_numpy(place_of)[predictions.clamp_max(len(place_of) - 1)]
    return torch.where((places >= 0)[:, None], torch.from_numpy(rows)[places.clamp_min(0)], other)


def length(values: Tensor) -> Tensor:
    """L2 norm of each row, [n, 1]."""
    return values.square().sum(dim=1, keepdim=True).sqrt()


def unit_length(values: Tensor) -> Tensor:
    """Rows of unit length, float64 [n, D], those of zeros as they are."""
    return values / length(values).clamp_min(_SMALLEST)
