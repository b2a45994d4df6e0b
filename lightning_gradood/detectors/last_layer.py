"""Methods that read penultimate features beside the network's linear last layer: ViM, fDBD, NNGuide, NCI."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from scipy.spatial.distance import cdist
from torch import Tensor
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import ClosedUnitInterval, FiniteNonNegative, PositiveInt, Refusal
from lightning_gradood.detectors.detector import Detector, Fitted, drawn, float64_blocks, normal_training_records
from lightning_gradood.detectors.tensor_scores import TensorFitted, TensorReadings, length, product, unit_length
from lightning_gradood.probes import PenultimateProbe, Probe
from lightning_gradood.records import LinearHead, Records

_SMALLEST = 1e-12  # lengths that are divided by


def head_logits(head: LinearHead, features: Tensor) -> Tensor:
    """Logits float64 [n, classes] that a head gives to features float64 [n, D]."""
    return product(features, head.weight.T) + torch.from_numpy(head.bias)


def energy(head: LinearHead, features: Tensor) -> Tensor:
    """−logsumexp of these logits, float64 [n]."""
    return -head_logits(head, features).logsumexp(1)


@dataclass(frozen=True)
class LastLayerDetector(Detector):
    """Base of methods that are fitted on penultimate features of normal `train` records and on the last layer."""

    needs_anomalies: ClassVar[bool] = False
    needs_head: ClassVar[bool] = True
    probes: ClassVar[Sequence[Probe]] = (PenultimateProbe(),)


@dataclass(frozen=True)
class ViM(LastLayerDetector):
    """α·‖residual‖ − logsumexp(z): the energy, and how far features lie from the principal subspace of normal ones.

    The residual is what a projection on the first `dim` principal directions about −W⁺·b leaves of the features, W and b
    the last layer's; α is the mean largest logit over the mean length of a residual.

    Args:
        dim: of the subspace, fewer than features and than normal records; by default OpenOOD's 256, or half of the
            features or records where these are fewer than 512. The paper has 1000 for 2048 features or more, else 512.

    Reference:
        Wang, Li, Feng, Zhang 2022, "ViM: Out-Of-Distribution with Virtual-logit Matching", section 4;
        OpenOOD, `vim_postprocessor.py`.
    """

    dim: PositiveInt | None = None
    name: str = "vim"

    @override
    def fit(self, records: Records, seed: int) -> Fitted:
        features, head = normal_training_records(records).stored(PenultimateProbe.name), records.head
        count, width = features.shape
        dim = self.dim or min(256, width // 2, count // 2)
        if dim >= min(count, width):
            raise Refusal(
                f"`dim` of ViM should be below the numbers of features and of normal records in `train`. Got {dim} for "
                f"{width} features of {count} records. Give a smaller one, or more normal images."
            )
        origin = -np.linalg.pinv(head.weight) @ head.bias
        scatter, lengths, largest = np.zeros((width, width)), 0.0, 0.0
        for _, block in float64_blocks(features):
            scatter += (block - origin).T @ (block - origin)
            largest += head.logits(block).max(axis=1).sum()
        fitted = FittedViM(head, origin, np.linalg.eigh(scatter)[1][:, width - dim :], 1.0)
        for _, block in float64_blocks(features):
            lengths += float(fitted.residual(torch.from_numpy(block)).sum())
        return FittedViM(head, origin, fitted.principal, float(largest / max(lengths, _SMALLEST)))


@dataclass(frozen=True, eq=False)
class FittedViM(TensorFitted):
    """The principal directions [D, dim] about the origin [D], and α."""

    head: LinearHead
    origin: np.ndarray
    principal: np.ndarray
    alpha: float

    def residual(self, features: Tensor) -> Tensor:
        """Lengths of what lies outside of the subspace, float64 [n]."""
        centred = features - torch.from_numpy(self.origin)
        return length(centred - product(product(centred, self.principal), self.principal.T))[:, 0]

    @override
    def tensor_score(self, read: TensorReadings) -> Tensor:
        return self.alpha * self.residual(read.features) + energy(self.head, read.features)


@dataclass(frozen=True)
class FDBD(LastLayerDetector):
    """Minus the summed distances of features to the decision boundaries, over their distance to the mean of normal ones.

    The distance to the boundary with class c is |z_ŷ − z_c| / ‖w_ŷ − w_c‖, z the logits, w the rows of the last layer.
    The paper takes the mean over the other classes, OpenOOD the sum, as here; neither changes the order.

    Reference:
        Liu, Qin 2024, "Fast Decision Boundary based Out-of-Distribution Detector"; OpenOOD,
        `fdbd_postprocessor.py`, with its default normaliser.
    """

    name: str = "fdbd"

    @override
    def fit(self, records: Records, seed: int) -> Fitted:
        head = records.head
        apart = cdist(head.weight, head.weight)
        return FittedFDBD(head, _mean(normal_training_records(records)), np.where(apart > 0, apart, 1.0))


@dataclass(frozen=True, eq=False)
class FittedFDBD(TensorFitted):
    """The mean of normal features [D], and distances between the weights of all classes [C, C]."""

    head: LinearHead
    mean: np.ndarray
    apart: np.ndarray

    @override
    def tensor_score(self, read: TensorReadings) -> Tensor:
        logits = head_logits(self.head, read.features)
        gaps = (logits.amax(dim=1, keepdim=True) - logits) / torch.from_numpy(self.apart)[logits.argmax(dim=1)]
        return -gaps.sum(dim=1) / length(read.features - torch.from_numpy(self.mean))[:, 0].clamp_min(_SMALLEST)


@dataclass(frozen=True)
class NCI(LastLayerDetector):
    """Minus the alignment of centred features with the predicted class' weights, and minus α times their L1 norm.

    That is −(h − μ)·w_ŷ / ‖h − μ‖ − α·‖h‖₁, μ the mean of normal features h.

    Args:
        alpha: OpenOOD's default; the paper and OpenOOD choose it on validation data with anomalies.

    Reference:
        Liu, Qin 2025, "Detecting Out-of-Distribution through the Lens of Neural Collapse"; OpenOOD,
        `nci_postprocessor.py`.
    """

    alpha: FiniteNonNegative = 0.0001
    name: str = "nci"

    @override
    def fit(self, records: Records, seed: int) -> Fitted:
        head = records.head
        if not head.weight.any(axis=1).all():  # those of a single logit, which is the difference of two
            head = LinearHead(head.weight - head.weight.mean(axis=0), head.bias - head.bias.mean())
        return FittedNCI(self.alpha, head, _mean(normal_training_records(records)))


@dataclass(frozen=True, eq=False)
class FittedNCI(TensorFitted):
    """The mean of normal features [D]."""

    alpha: float
    head: LinearHead
    mean: np.ndarray

    @override
    def tensor_score(self, read: TensorReadings) -> Tensor:
        weights = torch.from_numpy(self.head.weight)[head_logits(self.head, read.features).argmax(dim=1)]
        aligned = (unit_length(read.features - torch.from_numpy(self.mean)) * weights).sum(dim=1)
        return -aligned - self.alpha * read.features.abs().sum(dim=1)


@dataclass(frozen=True)
class NNGuide(LastLayerDetector):
    """Minus the energy of an image times its mean similarity to the most similar normal images in a bank.

    Similarities are cosines of features, each times logsumexp(z) of the bank's image; energies are logsumexp(z).

    Args:
        k: most similar ones that count, a tenth of the bank where that is less.
        share: of the normal `train` records that the bank holds, drawn by the seed, and at least ten times k of them.

    Reference:
        Park, Jung, Teoh 2023, "Nearest Neighbor Guidance"; OpenOOD, `nnguide_postprocessor.py`, whose bank is
        the first 1 % of the training images.
    """

    k: PositiveInt = 100
    share: ClosedUnitInterval = 0.01
    name: str = "nnguide"

    @override
    def fit(self, records: Records, seed: int) -> Fitted:
        features, head = normal_training_records(records).stored(PenultimateProbe.name), records.head
        size = max(round(self.share * len(features)), 10 * self.k)
        bank = torch.from_numpy(features[drawn(len(features), size, seed)].astype(np.float64))
        guides = (-unit_length(bank) * energy(head, bank)[:, None]).numpy().astype(features.dtype)
        return FittedNNGuide(min(self.k, max(len(bank) // 10, 1)), head, guides)


@dataclass(frozen=True, eq=False)
class FittedNNGuide(TensorFitted):
    """Directions of the bank's features times their energy, float [m, D]."""

    k: int
    head: LinearHead
    guides: np.ndarray

    @cached_property
    def _guides(self) -> np.ndarray:
        return self.guides.astype(np.float64).T

    @override
    def tensor_score(self, read: TensorReadings) -> Tensor:
        similar = product(unit_length(read.features), self._guides)
        return similar.topk(self.k).values.mean(dim=1) * energy(self.head, read.features)


def _mean(records: Records) -> np.ndarray:
    blocks = float64_blocks(records.stored(PenultimateProbe.name))
    return np.asarray(sum(block.sum(axis=0) for _, block in blocks) / len(records))
