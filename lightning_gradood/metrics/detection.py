"""Metrics that need no threshold (AUROC, AUPR, FPR95, best accuracy of any), and AUROC as a torchmetrics metric."""

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_gradood.core import widest_float_dtype
from lightning_gradood.metrics.curves import ThresholdCounts, threshold_counts


def detection_metrics(scores: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Measure how well `scores` separate anomalous from normal images, in every convention that tables use.

    Args:
        scores: Finite real numbers `[n]`, higher = more anomalous; used as given, in float64.
        labels: 0 (normal) or 1 (anomalous), `[n]`.

    Returns:
        Six fractions in [0, 1]:

        - `auroc`: probability that an anomalous image scores above a normal one, ties counting half.
        - `aupr_out`: average precision with anomalous images as the positives.
        - `aupr_in`: average precision with normal images as the positives, scores negated.
        - `fpr95_out`: smallest false positive rate at which at least 95 % of the anomalous images are found.
        - `fpr95_in`: the same with normal images as the positives, scores negated.
        - `detection_accuracy`: maximum over thresholds of (TPR + 1 − FPR) / 2; an oracle chooses the threshold.

    Raises:
        Refusal: If scores are NaN or infinite, labels are not 0 and 1, a class is absent, or lengths differ.

    Reference:
        scikit-learn's `roc_auc_score` and `average_precision_score`; Lee et al.'s deep_Mahalanobis, `calculate_log.py`,
        for the detection accuracy (1 − ODIN's minimum error).

    Example:
        >>> detection_metrics([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])["auroc"]
        0.75
    """
    counts = threshold_counts(scores, labels)
    return {
        "auroc": _auroc(counts),
        "aupr_out": _average_precision(counts),
        "aupr_in": _average_precision(counts.mirrored()),
        "fpr95_out": _fpr95(counts),
        "fpr95_in": _fpr95(counts.mirrored()),
        "detection_accuracy": _detection_accuracy(counts),
    }


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Return the area under the ROC curve: the probability that an anomalous image scores above a normal one.

    Args:
        scores: Finite real numbers `[n]`, higher = more anomalous.
        labels: 0 (normal) or 1 (anomalous), `[n]`.

    Returns:
        A fraction in [0, 1], ties counting half; exact up to its last division.

    Raises:
        Refusal: As `detection_metrics`.

    Example:
        >>> auroc([7.0, 7.0], [0, 1])
        0.5
    """
    return _auroc(threshold_counts(scores, labels))


def detection_accuracy(scores: ArrayLike, labels: ArrayLike) -> float:
    """Return the balanced accuracy at the threshold that is best on these very images, an oracle's.

    Args:
        scores: Finite real numbers `[n]`, higher = more anomalous.
        labels: 0 (normal) or 1 (anomalous), `[n]`.

    Returns:
        Maximum over thresholds of (TPR + 1 − FPR) / 2, in [0.5, 1].

    Raises:
        Refusal: As `detection_metrics`.

    Reference:
        Lee et al.'s deep_Mahalanobis, `calculate_log.py`.

    Example:
        >>> detection_accuracy([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
        0.75
    """
    return _detection_accuracy(threshold_counts(scores, labels))


def _auroc(counts: ThresholdCounts) -> float:
    # Twice the Mann-Whitney statistic, in integers: 2 for each normal image below an anomalous one, 1 for each tie.
    anomalous_at = -np.diff(counts.true_positives)
    not_above = counts.normal - counts.false_positives[1:]
    below = counts.normal - counts.false_positives[:-1]
    return int((anomalous_at * (below + not_above)).sum()) / (2 * counts.anomalous * counts.normal)


def _average_precision(counts: ThresholdCounts) -> float:
    found_at = -np.diff(counts.true_positives)
    precision = counts.true_positives[:-1] / (counts.true_positives + counts.false_positives)[:-1]
    return float((found_at * precision).sum() / counts.anomalous)


def _fpr95(counts: ThresholdCounts) -> float:
    enough = 20 * counts.true_positives >= 19 * counts.anomalous  # TPR ≥ .95 in integers
    return float(counts.false_positives[enough].min() / counts.normal)


def _detection_accuracy(counts: ThresholdCounts) -> float:
    return 0.5 + int(counts.advantage.max()) / (2 * counts.anomalous * counts.normal)


class RawBinaryAUROC(Metric):
    """AUROC over all batches, on scores of any range, equal to `auroc` of the concatenated scores.

    torchmetrics' own `BinaryAUROC` sends a batch with any score outside [0, 1] through a float32 sigmoid, which ties
    what differs. This one keeps the scores as float64 (float32 on a device that has no more) and sorts once, in
    `compute`. Call `update` on each batch and `compute` at the end; calling the object itself would ask for the AUROC of
    one batch, which may hold a single class.

    Args:
        sync_on_compute: Whether `compute` gathers the scores of all processes first. Give False where each process
            evaluates its own detector while a process group is alive.

    Raises:
        Refusal: On `compute`, as `detection_metrics`.

    Example:
        >>> metric = RawBinaryAUROC()
        >>> metric.update(torch.tensor([-900.0, 1e6]), torch.tensor([0, 1]))
        >>> metric.update(torch.tensor([5.0]), torch.tensor([1]))
        >>> metric.compute().item()
        1.0
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    scores: list[Tensor]
    labels: list[Tensor]

    def __init__(self, sync_on_compute: bool = True) -> None:
        super().__init__(sync_on_compute=sync_on_compute)
        self.add_state("scores", default=[], dist_reduce_fx="cat")
        self.add_state("labels", default=[], dist_reduce_fx="cat")

    def update(self, scores: Tensor, labels: Tensor) -> None:
        """Keep one batch.

        Args:
            scores: Real numbers `[n]`, higher = more anomalous, any floating dtype.
            labels: 0 (normal) or 1 (anomalous), `[n]`.
        """
        self.scores.append(scores.detach().to(widest_float_dtype(scores.device)))
        self.labels.append(labels.detach())

    def compute(self) -> Tensor:
        """Return the AUROC of all scores so far as a scalar, float64 or, on a device that has none, float32."""
        scores, labels = dim_zero_cat(self.scores), dim_zero_cat(self.labels)
        area = auroc(scores.cpu().double().numpy(), labels.cpu().numpy())
        return torch.tensor(area, dtype=widest_float_dtype(scores.device), device=scores.device)
