"""A Gaussian for each predicted class with one covariance for all, and the log distance of values to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_SMALLEST = 1e-12  # of standard deviations, eigenvalues and squared distances


@dataclass(frozen=True)
class ClassGaussian:
    """Values of normal images: how they vary about the mean of their predicted class.

    Values are standardised, the mean of the predicted class is subtracted, and what is left is measured with the inverse of its
    covariance, shrunk as Ledoit and Wolf do. A class that was never predicted has the mean of all.

    Args:
        mean: float64 [D].
        scale: standard deviation, 1 where a value never changes, float64 [D].
        classes: predicted classes that occur, int64 [C].
        centres: their means after standardisation, float64 [C, D].
        whitening: W with W·Wᵀ the inverse covariance, float64 [D, D].

    Reference:
        Lee et al. 2018, Eq. 1 and 2; Müller and Hein 2025, "Mahalanobis++"; Ledoit and Wolf 2004 for the shrinkage.
    """

    mean: np.ndarray
    scale: np.ndarray
    classes: np.ndarray
    centres: np.ndarray
    whitening: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, predictions: np.ndarray) -> ClassGaussian:
        """Learn from normal images.

        Args:
            values: float64 [n, D], n ≥ 2.
            predictions: the classifier's, int [n].
        """
        from sklearn.covariance import LedoitWolf  # takes half a second, which refusals and most runs do without

        deviation = values.std(axis=0)
        mean, scale = values.mean(axis=0), np.where(deviation > _SMALLEST, deviation, 1.0)
        standardised = (values - mean) / scale
        classes, numbers = np.unique(predictions, return_inverse=True)
        centres = np.stack([standardised[numbers == number].mean(axis=0) for number in range(len(classes))])
        covariance = LedoitWolf(assume_centered=True).fit(standardised - centres[numbers]).covariance_
        eigenvalues, vectors = np.linalg.eigh(covariance)
        whitening = vectors / np.sqrt(np.maximum(eigenvalues, _SMALLEST))
        # in the order in which it is saved: products of other layouts are summed in another order
        return cls(mean, scale, classes, centres, np.ascontiguousarray(whitening))

    def log_distance(self, values: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        """Logarithm of the squared Mahalanobis distance to the mean of the predicted class, float64 [n].

        Args:
            values: float64 [n, D].
            predictions: int [n].
        """
        places = np.minimum(np.searchsorted(self.classes, predictions), len(self.classes) - 1)
        known = self.classes[places] == predictions
        centres = np.where(known[:, None], self.centres[places], 0.0)
        white = ((values - self.mean) / self.scale - centres) @ self.whitening
        return np.asarray(np.log(np.square(white).sum(axis=1) + _SMALLEST))

    def state_dict(self, prefix: str = "") -> dict[str, Tensor]:
        """All fields as tensors."""
        return {f"{prefix}{name}": torch.from_numpy(np.array(value, order="C")) for name, value in vars(self).items()}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor], prefix: str = "") -> ClassGaussian:
        """Rebuild it; other entries of `state` are ignored."""
        return cls(*(state[f"{prefix}{name}"].numpy() for name in cls.__dataclass_fields__))
