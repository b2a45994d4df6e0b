"""The task that trains the paper's detector, an MLP on gradient representations, and its AUROC as a torchmetrics metric."""

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_gradood.core import to_float64
from lightning_gradood.metrics import auroc
from lightning_gradood.networks import MLPSettings, RepresentationMLP


class RawBinaryAUROC(Metric):
    """AUROC over all batches, on scores of any range, equal to `auroc` of the concatenated scores.

    torchmetrics' own `BinaryAUROC` sends a batch with any score outside [0, 1] through a float32 sigmoid, which ties
    what differs. This one keeps the scores as float64 and sorts once, in
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
        self.scores.append(to_float64(scores.detach()))
        self.labels.append(labels.detach())

    def compute(self) -> Tensor:
        """Return the AUROC of all scores so far as a float64 scalar."""
        scores, labels = dim_zero_cat(self.scores), dim_zero_cat(self.labels)
        area = auroc(scores.cpu().double().numpy(), labels.cpu().numpy())
        return torch.tensor(area, dtype=torch.float64, device=scores.device)


class DetectionTask(RepresentationMLP, LightningModule):
    """Train a 2-layer MLP to tell normal (0) from anomalous (1) representations with binary cross entropy.

    The network and the statistics of its inputs are those of `RepresentationMLP`. Logs `train/loss`, `val/loss` (means over
    records) and `val/auroc`.

    Args:
        representations: those of the training split, float64 [n, L]; give the statistics and the input width.
        settings: width, optimizer and stopping.

    Reference:
        Lee, Prabhushankar, AlRegib 2022, section 3.2.
    """

    def __init__(self, representations: Tensor, settings: MLPSettings) -> None:
        super().__init__(representations, settings)
        self.auroc = RawBinaryAUROC(sync_on_compute=False)  # each process trains detectors of its own

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Mean loss of a batch of (representations, 0/1)."""
        representations, anomalous = batch
        loss = binary_cross_entropy_with_logits(self(representations), anomalous.float())
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(anomalous))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log loss and AUROC."""
        representations, anomalous = batch
        logits = self(representations)
        loss = binary_cross_entropy_with_logits(logits, anomalous.float())
        self.auroc.update(logits, anomalous)
        self.log("val/loss", loss, on_step=False, on_epoch=True, batch_size=len(anomalous))
        self.log("val/auroc", self.auroc, on_step=False, on_epoch=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW on all weights."""
        return self.optimizer()
