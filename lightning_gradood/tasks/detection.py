"""The task that trains the paper's MLP detector, and AUROC as a torchmetrics metric."""

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import to_float64
from lightning_gradood.metrics import auroc
from lightning_gradood.networks import MLPSettings, RepresentationMLP


class RawBinaryAUROC(Metric):
    """AUROC over all batches, on scores of any range, higher = more anomalous; equal to `auroc` of all scores.

    torchmetrics' own `BinaryAUROC` sends a batch with any score outside [0, 1] through a float32 sigmoid, which ties
    what differs. This one keeps the scores as float64 and sorts once, in `compute`. Call `update(scores, labels)` on
    each batch, labels 0 (normal) or 1 (anomalous), and `compute` at the end; calling the object itself asks for the
    AUROC of one batch, which may hold a single class.

    Args:
        sync_on_compute: Whether `compute` gathers the scores of all processes first. Give False where each process
            evaluates its own detector while a process group is alive.

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

    @override
    def update(self, scores: Tensor, labels: Tensor) -> None:
        self.scores.append(to_float64(scores.detach()))
        self.labels.append(labels.detach())

    @override
    def compute(self) -> Tensor:
        scores, labels = dim_zero_cat(self.scores), dim_zero_cat(self.labels)
        area = auroc(scores.cpu().double().numpy(), labels.cpu().numpy())
        return torch.tensor(area, dtype=torch.float64, device=scores.device)


class DetectionTask(RepresentationMLP, LightningModule):
    """Train a 2-layer MLP to tell normal (0) from anomalous (1) representations with binary cross entropy.

    Network, arguments and reference are those of `RepresentationMLP`. Logs `train/loss`, `val/loss` (means over
    records) and `val/auroc`.
    """

    def __init__(self, representations: Tensor, settings: MLPSettings) -> None:
        super().__init__(representations, settings)
        self.auroc = RawBinaryAUROC(sync_on_compute=False)  # each process trains detectors of its own

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        representations, anomalous = batch
        loss = binary_cross_entropy_with_logits(self(representations), anomalous.float())
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(anomalous))
        return loss

    @override
    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        representations, anomalous = batch
        logits = self(representations)
        loss = binary_cross_entropy_with_logits(logits, anomalous.float())
        self.auroc.update(logits, anomalous)
        self.log("val/loss", loss, on_step=False, on_epoch=True, batch_size=len(anomalous))
        self.log("val/auroc", self.auroc, on_step=False, on_epoch=True)

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer()
