"""AUROC of raw scores as a torchmetrics metric, for training and validation loops."""

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_gradood.core import widest_float_dtype
from lightning_gradood.metrics.detection import auroc


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
