"""ODIN: is the classifier less sure of the image after a small step towards its own prediction?"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lightning_gradood.detectors.detector import Detector
from lightning_gradood.metrics import auroc
from lightning_gradood.probes import OdinProbe, Probe
from lightning_gradood.records import Records


class ODIN(Detector):
    """Minus the largest softmax probability at temperature T after a step of ε towards the predicted class.

    The pair with the highest AUROC on `val` is taken, the first of equals. Reading the whole grid is what costs: see
    `OdinProbe`; shorter grids are cheaper in proportion.

    Args:
        temperatures: T, positive.
        magnitudes: ε, at least 0, in units of pixels in [0, 1].
        name: in tables, files and W&B keys.

    Reference:
        Liang et al. 2018, section 3; the grid of deep_Mahalanobis (Lee et al. 2018), `OOD_Baseline_and_ODIN.py`.
    """

    def __init__(
        self,
        temperatures: Sequence[float] = OdinProbe.TEMPERATURES,
        magnitudes: Sequence[float] = OdinProbe.MAGNITUDES,
        name: str = "odin",
    ) -> None:
        self._probe = OdinProbe(temperatures, magnitudes)
        self._name = name
        self._column: int | None = None

    @property
    def name(self) -> str:
        """`odin`, unless it was given another."""
        return self._name

    @property
    def probes(self) -> Sequence[Probe]:
        """The softmax over the whole grid."""
        return [self._probe]

    def fit(self, records: Records, seed: int) -> list[dict[str, float]]:
        """Choose temperature and magnitude on `val`; see `Detector.fit`."""
        val = records.where(split="val")
        values, labels = val.probe(self._probe.name), val.anomalous
        self._column = int(np.argmax([auroc(-column, labels) for column in values.T]))
        return []

    def score(self, records: Records) -> np.ndarray:
        """Minus the probability, float64 [n], in [−1, 0)."""
        return -records.probe(self._probe.name)[:, self._fitted()]

    def state(self) -> dict[str, Tensor]:
        """The temperature and the magnitude that were chosen."""
        chosen = self._probe.grid[self._fitted()]
        return {name: torch.tensor(value) for name, value in zip(("temperature", "magnitude"), chosen, strict=True)}

    def _fitted(self) -> int:
        if self._column is None:
            raise RuntimeError("ODIN.fit comes before score and state.")
        return self._column
