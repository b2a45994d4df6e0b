"""The refusals that every metric shares: what scores and labels must be before a number about them has a meaning."""

from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_gradood.errors import Refusal

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]


def checked(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, Integers]:
    """Return scores as float64 `[n]` and labels as int64 `[n]`, or refuse them with counts.

    Args:
        scores: One finite real number for each image, any range.
        labels: 0 (normal) or 1 (anomalous) for each image, both present; integers, floats or booleans.

    Raises:
        Refusal: If the two are not one-dimensional and of one length, are empty, hold NaN or infinite scores, labels
            other than 0 and 1, or a single class.
    """
    values, classes = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    _check_shapes(values, classes)
    _check_scores(values)
    _check_labels(classes)
    return values, classes.astype(np.int64)


def _check_shapes(scores: Floats, labels: NDArray[np.generic]) -> None:
    if scores.ndim != 1 or labels.ndim != 1:
        raise Refusal(
            "`scores` and `labels` should be one-dimensional, one value for each image. "
            f"Got `scores.shape = {scores.shape}` and `labels.shape = {labels.shape}`. Flatten them."
        )
    if len(scores) != len(labels):
        raise Refusal(
            "`scores` and `labels` should hold one value for each image. "
            f"Got {len(scores)} scores and {len(labels)} labels. Give both for the same images, in the same order."
        )
    if len(scores) == 0:
        raise Refusal(
            "`scores` should hold at least one normal and one anomalous image. Got no scores. "
            "Check that the source and the split hold images."
        )


def _check_scores(scores: Floats) -> None:
    if not np.isfinite(scores).all():
        nan, plus, minus = np.isnan(scores).sum(), np.isposinf(scores).sum(), np.isneginf(scores).sum()
        raise Refusal(
            f"`scores` should be finite. Got {nan} NaN, {plus} +inf and {minus} -inf among {len(scores)} scores. "
            "Look for a network or a detector that overflows."
        )


def _check_labels(labels: NDArray[np.generic]) -> None:
    anomalous, normal = labels == 1, labels == 0
    others = labels[~(anomalous | normal)]
    if len(others):
        raise Refusal(
            f"`labels` should be 0 (normal) or 1 (anomalous). Got {len(others)} other values among {len(labels)}, "
            f"the first is {others[0]}. Map the classes to 0 and 1."
        )
    if not (anomalous.any() and normal.any()):
        raise Refusal(
            "`labels` should hold both normal (0) and anomalous (1) images. "
            f"Got {normal.sum()} normal and {anomalous.sum()} anomalous. Give images of both kinds."
        )
