"""Counts at every threshold: the one sort from which all metrics of a set of scores follow."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lightning_gradood.metrics.checked import Floats, Integers, checked


@dataclass(frozen=True)
class Sweep:
    """How many images score at least as high as each distinct score.

    Attributes:
        values: The k distinct scores, ascending; float64 `[k]`.
        true_positives: Anomalous images with score ≥ `values[i]`, then 0 for the threshold above all; int64 `[k + 1]`.
        false_positives: Normal images with score ≥ `values[i]`, then 0; int64 `[k + 1]`.
    """

    values: Floats
    true_positives: Integers
    false_positives: Integers

    @property
    def anomalous(self) -> int:
        """Number of anomalous images."""
        return int(self.true_positives[0])

    @property
    def normal(self) -> int:
        """Number of normal images."""
        return int(self.false_positives[0])

    @property
    def advantage(self) -> Integers:
        """TPR − FPR at each threshold times `anomalous * normal`: in integers, so that equal is equal; `[k + 1]`."""
        return self.true_positives * self.normal - self.false_positives * self.anomalous

    def mirrored(self) -> "Sweep":
        """Return the sweep of negated scores with the classes exchanged: normal images become the ones to find."""
        return Sweep(
            values=-self.values[::-1],
            true_positives=self.normal - self.false_positives[::-1],
            false_positives=self.anomalous - self.true_positives[::-1],
        )


def sweep(scores: ArrayLike, labels: ArrayLike) -> Sweep:
    """Sort the scores once and count both classes from above; refuses what `checked` refuses."""
    values, classes = checked(scores, labels)
    order = np.argsort(values, kind="stable")
    values, classes = values[order], classes[order]
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))  # tied scores stand together
    below = np.concatenate([[0], np.cumsum(classes)])  # anomalous among the lowest i
    anomalous = below[-1] - below[np.append(starts, len(values))]
    at_least = len(values) - np.append(starts, len(values))
    return Sweep(values[starts], anomalous, at_least - anomalous)
