"""Gaussians with one mean a class and one covariance for all, fitted batch by batch."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_gradood.core import float64_device, to_float64


@dataclass(frozen=True)
class TiedGaussians:
    """One mean for each class and a shared covariance Σ, kept as W with W·Wᵀ = Σ⁺.

    Args:
        means: float64 [C, D].
        whitening: W, float64 [D, rank of Σ].
    """

    means: Tensor
    whitening: Tensor

    def confidence(self, features: Tensor) -> Tensor:
        """Return −½·d² to the closest mean, float64 [N], for features [N, D]; gradients flow to the features.

        Reference:
            Lee et al. 2018, Eq. 2, with the factor ½ of their code.
        """
        centre = self.means.mean(dim=0)  # nearer to 0, products lose less
        white = (to_float64(features) - centre) @ self.whitening
        means = (self.means - centre) @ self.whitening
        with torch.no_grad():
            distances = torch.cdist(white, means, compute_mode="donot_use_mm_for_euclid_dist")
            closest = means[distances.argmin(dim=1)]
        return -0.5 * (white - closest).square().sum(dim=1)

    def to(self, device: torch.device) -> "TiedGaussians":
        """Return the same on a device, or on the CPU for one that has no float64."""
        return TiedGaussians(self.means.to(float64_device(device)), self.whitening.to(float64_device(device)))


class Moments:
    """What tied Gaussians are made of, gathered batch by batch in float64: memory does not grow with the images.

    Args:
        classes: how many there may be.
    """

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self._counts = torch.zeros(classes, dtype=torch.float64)
        self._origin = self._sums = self._scatter = torch.zeros(0, dtype=torch.float64)

    def add(self, features: Tensor, labels: Tensor) -> None:
        """Take a batch in.

        Args:
            features: [N, D], any floating dtype.
            labels: classes, int64 [N], below `classes`.
        """
        features = to_float64(features.detach())
        labels = labels.to(features.device)
        if not len(self._sums):
            self._origin = features.mean(dim=0)  # moments about a point nearby lose no digits
            self._counts = self._counts.to(features.device)
            self._sums = features.new_zeros(self._classes, features.shape[1])
            self._scatter = features.new_zeros(features.shape[1], features.shape[1])
        features = features - self._origin
        self._counts += torch.bincount(labels, minlength=self._classes)
        self._sums += torch.nn.functional.one_hot(labels, self._classes).double().T @ features
        self._scatter += features.T @ features

    def gaussians(self) -> TiedGaussians:
        """Return the Gaussians of the classes seen, on the CPU.

        The covariance is that of the features about their classes' means, divided by their number; directions without
        variance are left out, as by a pseudo-inverse.

        Reference:
            scikit-learn's EmpiricalCovariance, which deep_Mahalanobis fits on class-centred features.
        """
        counts, sums = self._counts.cpu(), self._sums.cpu()
        seen = counts > 0
        means = sums[seen] / counts[seen, None]
        covariance = (self._scatter.cpu() - (means * counts[seen, None]).T @ means) / counts.sum()
        variances, directions = torch.linalg.eigh(covariance)
        kept = variances > variances.abs().amax() * len(variances) * torch.finfo(torch.float64).eps
        return TiedGaussians(means + self._origin.cpu(), directions[:, kept] / variances[kept].sqrt())
