"""A probe and a detector of your own: the gap between the two largest logits, and how unusual it is for the predicted class."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from lightning_gradood.core import evaluating
from lightning_gradood.detectors import Detector, Fitted, normal_training_records
from lightning_gradood.probes import Probe
from lightning_gradood.records import Records


@dataclass(frozen=True)
class GapProbe(Probe):
    """Largest logit minus the second largest."""

    name: ClassVar[str] = "logit_gap"  # the column in the records

    def __call__(self, network: nn.Module, images: Tensor) -> Tensor:
        """Gaps [N, 1]; row n depends on image n only."""
        with torch.no_grad(), evaluating(network):
            best = network(images).topk(2, dim=1).values
        return best[:, :1] - best[:, 1:]


@dataclass(frozen=True)
class UnusualGap(Detector):
    """How far the gap lies below the mean of normal images, in standard deviations; it needs no anomalies."""

    name: str = "unusual_gap"  # in tables, files and W&B keys
    needs_anomalies: ClassVar[bool] = False
    probes: ClassVar[Sequence[Probe]] = (GapProbe(),)

    def fit(self, records: Records, seed: int) -> "FittedGap":
        """Learn from the normal records of `train`."""
        gaps = normal_training_records(records).probe("logit_gap")
        return FittedGap(float(gaps.mean()), float(gaps.std()))


@dataclass(frozen=True)
class FittedGap(Fitted):
    """What was learnt: numbers, text, arrays, and other classes of this kind are saved, also in a guard."""

    mean: float
    deviation: float

    def score(self, records: Records) -> np.ndarray:
        """Higher = more anomalous, always."""
        gaps = records.probe("logit_gap")[:, 0]
        return np.asarray((self.mean - gaps) / self.deviation, dtype=np.float64)
