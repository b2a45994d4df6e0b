"""A Gaussian for each predicted class with one covariance for all: values whitened by it, and their log distance."""

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

    Values are standardised and the mean of the predicted class is subtracted; a class that was never predicted has the
    mean of all. Directions of the covariance of what is left, shrunk as Ledoit and Wolf do, are scaled by their
    eigenvalue to the power −whitening/2: 0 leaves each value at unit variance, 1 gives every direction the same weight.

    Args:
        mean: float64 [D].
        scale: standard deviation, 1 where a value never changes, float64 [D].
        classes: predicted classes that occur, int64 [C].
        centres: their means after standardisation, float64 [C, D].
        directions: scales a centred row along the eigenvectors when it is multiplied by them, float64 [D, D].

    Reference:
        Lee et al. 2018, Eq. 1 and 2; Müller and Hein 2025, "Mahalanobis++"; Ledoit and Wolf 2004 for the shrinkage.
    """

    mean: np.ndarray
    scale: np.ndarray
    classes: np.ndarray
    centres: np.ndarray
    directions: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, predictions: np.ndarray, whitening: float = 1.0) -> ClassGaussian:
        """Learn from values of normal images, float64 [n, D], n ≥ 2, and their predicted classes, int [n].

        `whitening` is from 0, standardised values, to 1, whose squares sum to the squared Mahalanobis distance.
        """
        from sklearn.covariance import LedoitWolf  # takes half a second, which refusals and most runs do without

        deviation = values.std(axis=0)
        mean, scale = values.mean(axis=0), np.where(deviation > _SMALLEST, deviation, 1.0)
        standardised = (values - mean) / scale
        classes, numbers = np.unique(predictions, return_inverse=True)
        centres = np.stack([standardised[numbers == number].mean(axis=0) for number in range(len(classes))])
        covariance = LedoitWolf(assume_centered=True).fit(standardised - centres[numbers]).covariance_
        eigenvalues, vectors = np.linalg.eigh(covariance)
        directions = (vectors / np.maximum(eigenvalues, _SMALLEST) ** (whitening / 2)) @ vectors.T
        return cls(mean, scale, classes, centres, directions)

    def whitened(self, values: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        """Values [n, D] relative to the mean of the predicted class, float64 [n, D]."""
        places = np.minimum(np.searchsorted(self.classes, predictions), len(self.classes) - 1)
        known = self.classes[places] == predictions
        centres = np.where(known[:, None], self.centres[places], 0.0)
        return np.asarray(((values - self.mean) / self.scale - centres) @ self.directions)

    def log_distance(self, values: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        """Logarithm of the squared length of the whitened values, float64 [n]; arguments as for `whitened`."""
        return np.asarray(np.log(np.square(self.whitened(values, predictions)).sum(axis=1) + _SMALLEST))

    def state_dict(self, prefix: str = "") -> dict[str, Tensor]:
        """All fields as tensors."""
        return {f"{prefix}{name}": torch.from_numpy(np.array(value, order="C")) for name, value in vars(self).items()}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor], prefix: str = "") -> ClassGaussian:
        """Rebuild it; other entries of `state` are ignored."""
        return cls(*(state[f"{prefix}{name}"].numpy() for name in cls.__dataclass_fields__))
