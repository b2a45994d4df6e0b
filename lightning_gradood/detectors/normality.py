"""What is usual: gradient representations of normal images, brought to one scale and seen by predicted class."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.covariance import LedoitWolf
from torch import Tensor

from lightning_gradood.detectors.pool import normal_side
from lightning_gradood.errors import Refusal
from lightning_gradood.gradients import LabelDesign
from lightning_gradood.records import Records

_SMALLEST = 1e-30  # the MLP's own: log(value + 1e-30)


def log_norms(records: Records, label_designs: Sequence[LabelDesign]) -> np.ndarray:
    """Logarithms of the squared norms of all designs side by side, float64 [n, designs · L]."""
    values = [records.probe(f"gradients/{design.name}") for design in label_designs]
    return np.log(np.concatenate(values, axis=1) + _SMALLEST)


def normal_training(records: Records) -> Records:
    """The records a label-free detector may be fitted on.

    Raises:
        Refusal: if there are fewer than two.
    """
    train = records.where(split="train")
    normal = normal_side(train)
    if len(normal) < 2:
        raise Refusal(
            f"`records` should hold at least 2 normal ones in `train` for a label-free detector. Got {len(normal)}. "
            "Take more normal images."
        )
    return normal


@dataclass(frozen=True)
class Normality:
    """Log norms of normal images: how they vary, and around what for each predicted class.

    The norms follow the predicted class, so what varies between classes would hide what varies with the image. Directions
    of the within-class covariance (Ledoit and Wolf's) are scaled by their eigenvalue to the power −whitening/2: 0 leaves
    each parameter's norm at unit variance, 1 gives every direction the same weight, and with it the many in which normal
    images hardly differ, which drown the few in which anomalous ones stand out.

    Args:
        label_designs: whose norms.
        mean: of the log norms, float64 [D].
        scale: their standard deviation, 1 where a norm never changes, float64 [D].
        classes: the predicted classes that occur, int64 [C].
        centres: of each of them, standardised, float64 [C, D].
        directions: scales a centred row along the eigenvectors when it is multiplied by them, float64 [D, D].
    """

    label_designs: Sequence[LabelDesign]
    mean: np.ndarray
    scale: np.ndarray
    classes: np.ndarray
    centres: np.ndarray
    directions: np.ndarray

    @classmethod
    def of(cls, normal: Records, label_designs: Sequence[LabelDesign], whitening: float) -> "Normality":
        """Learn from normal records, at least two of them."""
        values = log_norms(normal, label_designs)
        deviation = values.std(axis=0)
        mean, scale = values.mean(axis=0), np.where(deviation > 1e-12, deviation, 1.0)
        standardised = (values - mean) / scale
        classes, numbers = np.unique(normal.column("prediction"), return_inverse=True)
        centres = np.stack([standardised[numbers == number].mean(axis=0) for number in range(len(classes))])
        covariance = LedoitWolf(assume_centered=True).fit(standardised - centres[numbers]).covariance_
        eigenvalues, vectors = np.linalg.eigh(covariance)
        directions = (vectors / np.maximum(eigenvalues, 1e-12) ** (whitening / 2)) @ vectors.T
        return cls(label_designs, mean, scale, classes, centres, directions)

    def of_images(self, records: Records) -> np.ndarray:
        """What is left of each image's log norms without its predicted class, float64 [n, D].

        A class that was never predicted for the normal images has the mean of all as its centre.
        """
        predictions = records.column("prediction")
        places = np.minimum(np.searchsorted(self.classes, predictions), len(self.classes) - 1)
        known = self.classes[places] == predictions
        centres = np.where(known[:, None], self.centres[places], 0.0)
        standardised = (log_norms(records, self.label_designs) - self.mean) / self.scale
        return np.asarray((standardised - centres) @ self.directions)

    def state(self) -> dict[str, Tensor]:
        """All of it as tensors."""
        names = ("mean", "scale", "classes", "centres", "directions")
        return {name: torch.from_numpy(np.ascontiguousarray(getattr(self, name))) for name in names}
