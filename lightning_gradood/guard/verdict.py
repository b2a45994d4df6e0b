"""What a guard says of a batch of images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Verdict:
    """What a guard says of N images.

    `scores` float64, higher = more anomalous; `p_values` float64 in (0, 1], the share of normal images, the calibration
    images and the image itself, that score at least as high; `flagged` bool, whether the score is above the threshold;
    `predictions` int64, the classifier's; `probabilities` float64, the largest of the softmax; `classes` the names of all
    classes, or none.
    """

    scores: np.ndarray
    p_values: np.ndarray
    flagged: np.ndarray
    predictions: np.ndarray
    probabilities: np.ndarray
    classes: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.scores)

    def rows(self) -> list[dict[str, Any]]:
        """A row for each image in plain Python values, e.g. for JSON or a data frame, with the columns of `score`'s tables."""
        names = [self.classes[one] if self.classes else str(one) for one in self.predictions.tolist()]
        arrays = (self.probabilities, self.scores, self.p_values, self.flagged)
        columns = ("prediction", "probability", "score", "p_value", "flagged")
        return [
            dict(zip(columns, row, strict=True)) for row in zip(names, *(one.tolist() for one in arrays), strict=True)
        ]
