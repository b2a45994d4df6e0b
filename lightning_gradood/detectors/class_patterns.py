"""Comparison with what is typical of the predicted classes: of their features (SHE), of their probabilities (KL matching)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from scipy.special import log_softmax, logsumexp
from torch import Tensor
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.detectors.detector import Detector, Fitted, classes_of, float64_blocks, normal_training_records
from lightning_gradood.detectors.tensor_scores import TensorFitted, TensorReadings, of_class, product
from lightning_gradood.probes import LogitsProbe, PenultimateProbe, Probe
from lightning_gradood.records import Records


@dataclass(frozen=True)
class SHE(Detector):
    """Minus the inner product of penultimate features and the mean of those of the predicted class.

    Means are of the normal `train` images that are classified correctly; an image of a class without any is compared
    with the mean of all.

    Reference:
        Zhang, Fu, Chen et al. 2023 (simplified Hopfield energy); OpenOOD's `she`.
    """

    name: str = "she"
    needs_anomalies: ClassVar[bool] = False
    probes: ClassVar[Sequence[Probe]] = (PenultimateProbe(),)

    @override
    def fit(self, records: Records, seed: int) -> Fitted:
        normal = normal_training_records(records)
        features, classes = normal.stored(PenultimateProbe.name), classes_of(normal)
        correct = classes == normal.column("prediction")
        known = np.unique(classes[correct])
        means = [features[correct & (classes == one)].mean(axis=0, dtype=np.float64) for one in known]
        return FittedSHE(known, np.stack([*means, features.mean(axis=0, dtype=np.float64)]))


@dataclass(frozen=True, eq=False)
class FittedSHE(TensorFitted):
    """Classes int64 [C] in ascending order, and the means of their features, behind them that of all, float64 [C + 1, D]."""

    classes: np.ndarray
    means: np.ndarray

    @override
    def tensor_score(self, read: TensorReadings) -> Tensor:
        of_all = torch.from_numpy(self.means[-1])
        return -(read.features * of_class(read.predictions, self.classes, self.means[:-1], of_all)).sum(dim=1)


@dataclass(frozen=True)
class KLMatching(Detector):
    """Smallest KL divergence of an image's softmax probabilities p from the mean probabilities d of a predicted class.

    min over c of KL(p ‖ d_c), at least 0; the classes are those that are predicted for a normal `train` image.

    Reference:
        Hendrycks, Basart, Mazeika et al. 2022; pytorch-ood's `KLMatching`. OpenOOD's `klm` also has a one-hot d for every
        other class, whose divergence is infinite unless p is that very d.
    """

    name: str = "klm"
    needs_anomalies: ClassVar[bool] = False
    probes: ClassVar[Sequence[Probe]] = (LogitsProbe(),)

    @override
    def fit(self, records: Records, seed: int) -> Fitted:
        logits = normal_training_records(records).stored(LogitsProbe.name)
        predictions = np.concatenate([some.argmax(axis=1) for _, some in float64_blocks(logits)])  # of all copies them
        rows = (logits[predictions == one].astype(np.float64) for one in np.unique(predictions))  # of a class at a time
        means = [logsumexp(log_softmax(one, axis=1), axis=0) - np.log(len(one)) for one in rows]
        return FittedKLMatching(np.stack(means))


@dataclass(frozen=True, eq=False)
class FittedKLMatching(TensorFitted):
    """Logarithms of the mean probabilities of each class that is predicted, float64 [C, classes]."""

    log_means: np.ndarray

    @override
    def tensor_score(self, read: TensorReadings) -> Tensor:
        log_p = read.logits.log_softmax(dim=1)
        p = log_p.exp()
        return ((p * log_p).sum(dim=1, keepdim=True) - product(p, self.log_means.T)).amin(dim=1)
