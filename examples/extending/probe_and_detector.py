"""A probe and a detector of your own: the gap between the two largest logits, and how unusual it is for the predicted class."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from lightning_gradood.core import evaluating
from lightning_gradood.detectors import Detector, normal_training_records
from lightning_gradood.probes import Probe
from lightning_gradood.records import Records


class GapProbe(Probe):
    """Largest logit minus the second largest."""

    @property
    def name(self) -> str:
        """The column in the records."""
        return "logit_gap"

    def names(self, network: nn.Module) -> list[str]:
        """The entries of a row."""
        return ["gap"]

    def __call__(self, network: nn.Module, images: Tensor) -> Tensor:
        """Gaps [N, 1]; row n depends on image n only."""
        with torch.no_grad(), evaluating(network):
            best = network(images).topk(2, dim=1).values
        return best[:, :1] - best[:, 1:]


class UnusualGap(Detector):
    """How far the gap lies below the mean of normal images, in standard deviations; it needs no anomalies."""

    def __init__(self) -> None:
        self._moments: np.ndarray | None = None

    @property
    def name(self) -> str:
        """In tables, files and W&B keys."""
        return "unusual_gap"

    @property
    def needs_anomalies(self) -> bool:
        """Whether it is fitted on anomalous images, too."""
        return False

    @property
    def probes(self) -> Sequence[Probe]:
        """What is read from the network for it."""
        return [GapProbe()]

    def fit(self, records: Records, seed: int) -> list[dict[str, float]]:
        """Learn from the normal records of `train`."""
        gaps = normal_training_records(records).probe("logit_gap")
        self._moments = np.array([gaps.mean(), gaps.std()])
        return []

    def score(self, records: Records) -> np.ndarray:
        """Higher = more anomalous, always."""
        mean, deviation = self._fitted(self._moments)
        return np.asarray((mean - records.probe("logit_gap")[:, 0]) / deviation, dtype=np.float64)

    def state_dict(self) -> dict[str, Tensor]:
        """All that was learnt, as tensors: a guard is made of it."""
        return {"moments": torch.from_numpy(self._fitted(self._moments))}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take what `state_dict` returned."""
        self._moments = state["moments"].numpy()
