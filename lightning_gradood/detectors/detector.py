"""What every detector is.

Detectors that have nothing to learn: their score is a formula.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

import numpy as np
from torch import Tensor

from lightning_gradood.probes import Probe
from lightning_gradood.records import Records


class Detector(ABC):
    """Fits on records, scores records."""

    zero_is_even_odds: bool = False
    """Whether a score of 0 means that normal and anomalous are equally likely, as for an MLP's logit."""

    label_free: bool = False
    """Whether it is fitted on normal `train` records only, so that no anomalous image need be known: `fit` then looks at
    nothing else, and the threshold is the 95 % quantile of the scores of normal `val` records."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Name in tables, files and W&B keys."""

    @property
    @abstractmethod
    def probes(self) -> Sequence[Probe]:
        """What it reads from the network."""

    @abstractmethod
    def fit(self, records: Records, seed: int) -> list[dict[str, float]]:
        """Fit on the rows whose `split` is `train`, select on those whose split is `val`.

        Args:
            records: normal and anomalous records with a `split` column; rows of other splits are never looked at.
            seed: fixes everything random.

        Returns:
            One dict per epoch for training curves, with `epoch` and any number of metrics; empty if nothing is trained.
        """

    @abstractmethod
    def score(self, records: Records) -> np.ndarray:
        """Scores float64 [n], any range, higher = more anomalous."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Everything `fit` has learnt, as tensors, for saving."""


class FixedDetector(Detector):
    """Looks at no record before it scores; its threshold is a quantile of normal `val` scores."""

    label_free = True

    @final
    def fit(self, records: Records, seed: int) -> list[dict[str, float]]:
        """Do nothing."""
        return []

    @final
    def state(self) -> dict[str, Tensor]:
        """Empty."""
        return {}
