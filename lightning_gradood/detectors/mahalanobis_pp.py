"""Mahalanobis++: the distance of unit-length features to the mean of the predicted class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.detectors.class_gaussian import ClassGaussian
from lightning_gradood.detectors.detector import Detector, normal_training_records
from lightning_gradood.probes import FeatureProbe, PenultimateProbe, Probe, columns_by_layer
from lightning_gradood.records import Records


class MahalanobisPP(Detector):
    """Log squared Mahalanobis distance of features, divided by their length, to the mean of the predicted class.

    With `all_layers` it is the mean over the feature layers of the network, each with its own length as one more value.
    It needs no anomalies: means and covariances are of normal `train` records, not of the classifier's training images.

    Args:
        all_layers: whether all feature layers are read, or the penultimate features alone.
        layers: modules to read with `all_layers`, as for `FeatureProbe`.

    Reference:
        Müller and Hein 2025, "Mahalanobis++", which takes the closest class rather than the predicted one.
    """

    name = "mahalanobis_pp"
    needs_anomalies = False

    def __init__(self, all_layers: bool = False, layers: list[str] | None = None, name: str | None = None) -> None:
        self.all_layers, self.layers = all_layers, layers
        self._probe: Probe = FeatureProbe(layers) if all_layers else PenultimateProbe()
        self.name = name or ("mahalanobis_pp_layers" if all_layers else "mahalanobis_pp")
        self._columns: list[list[int]] = []
        self._gaussians: list[ClassGaussian] | None = None

    @property
    @override
    def probes(self) -> Sequence[Probe]:
        return [self._probe]

    @override
    def fit(self, records: Records, seed: int) -> list[dict[str, float]]:
        normal = normal_training_records(records)
        width = normal.probe(self._probe.name).shape[1]
        named = columns_by_layer(normal.names(self._probe.name)) if self.all_layers else {}
        self._columns = list(named.values()) or [list(range(width))]
        predictions = normal.column("prediction")
        self._gaussians = [ClassGaussian.of(values, predictions) for values in self._values(normal)]
        return []

    @override
    def score(self, records: Records) -> np.ndarray:
        gaussians, predictions = self._fitted(self._gaussians), records.column("prediction")
        pairs = zip(gaussians, self._values(records), strict=True)
        return np.asarray(np.mean([gaussian.log_distance(values, predictions) for gaussian, values in pairs], axis=0))

    @override
    def state_dict(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for number, gaussian in enumerate(self._fitted(self._gaussians)):
            found |= gaussian.state_dict(f"{number}/") | {f"{number}/columns": torch.tensor(self._columns[number])}
        return found

    @override
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        count = len({name.partition("/")[0] for name in state})
        self._columns = [state[f"{number}/columns"].tolist() for number in range(count)]
        self._gaussians = [ClassGaussian.from_state_dict(state, f"{number}/") for number in range(count)]

    def _values(self, records: Records) -> list[np.ndarray]:
        """Unit-length features of each layer; with `all_layers` also the logarithm of their length."""
        features = records.probe(self._probe.name).astype(np.float64, copy=False)
        parts = []
        for columns in self._columns:
            part = features[:, columns]
            length = np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12)
            unit = part / length
            parts.append(np.concatenate([unit, np.log(length)], axis=1) if self.all_layers else unit)
        return parts
