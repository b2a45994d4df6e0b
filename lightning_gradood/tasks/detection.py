"""The task that trains the paper's MLP detector: all of a process side by side, by one Trainer."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import Refusal
from lightning_gradood.metrics import auroc
from lightning_gradood.networks import MLPSettings, RepresentationMLP, Standardisation


@dataclass(frozen=True, eq=False)
class Member:
    """An MLP to be trained.

    Args:
        standardisation: of its training split.
        train, val: inputs float32 [n, L], which `standardisation` has made, and labels [n], 0 normal, 1 anomalous.
        settings: width, optimizer and stopping.
        seed: fixes first weights, order of records and dropout, whatever is trained beside it.
    """

    standardisation: Standardisation
    train: tuple[Tensor, Tensor]
    val: tuple[Tensor, Tensor]
    settings: MLPSettings
    seed: int

    @classmethod
    def of(cls, train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor], settings: MLPSettings, seed: int) -> Member:
        """Standardise `train` and `val`, each representations float64 [n, L] and labels."""
        inputs = Standardisation.of(train[0], settings)
        return cls(inputs, (inputs(train[0]).float(), train[1]), (inputs(val[0]).float(), val[1]), settings, seed)


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained MLP, with the weights of the first epoch with the lowest validation loss.

    `curves` are `epoch`, `train/loss`, `val/loss` (means over records) and `val/auroc` of every epoch.
    """

    network: RepresentationMLP
    curves: list[dict[str, float]]


def train_detection(members: Sequence[Member]) -> list[Trained | Refusal]:
    """Train MLPs side by side on the CPU of this process; each ends as it would alone, to rounding.

    The refusal of a member whose validation has no AUROC (one class, logits that are not finite) stands in its place.
    """
    if not members:
        return []
    task, said = DetectionTask(members), logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level = said.level
    with warnings.catch_warnings():  # what Lightning says of every Trainer is left out; a user knows of one only
        warnings.filterwarnings("ignore", module=r"lightning\.")
        said.setLevel(logging.ERROR)
        try:
            trainer = Trainer(
                accelerator="cpu",
                devices=1,
                plugins=[LightningEnvironment()],  # this process alone; SLURM's would requeue the job on a signal
                max_epochs=max(member.settings.max_epochs for member in members),
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
                reload_dataloaders_every_n_epochs=1,  # an epoch has as many steps as its longest MLP
            )
            trainer.fit(task)
        finally:
            said.setLevel(level)
    return [learner.refusal or Trained(learner.best, learner.curves) for learner in task.learners]


class DetectionTask(LightningModule):
    """Train 2-layer MLPs to tell normal (0) from anomalous (1) representations with binary cross entropy.

    A batch is the number of a step, which every MLP takes that has records left in the epoch. MLPs of one shape are
    multiplied together. They do not influence each other: losses are summed, and AdamW treats each weight by itself and
    leaves out those without a gradient. An MLP that has stopped takes no further steps.

    Reference:
        Lee, Prabhushankar, AlRegib 2022, section 3.2.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        super().__init__()
        self.learners = [_Learner(member) for member in members]
        self.networks = nn.ModuleList(learner.network for learner in self.learners)  # whose weights are the task's

    @property
    def learning(self) -> list[_Learner]:
        """Those that have not stopped."""
        return [learner for learner in self.learners if not learner.stopped]

    @override
    def train_dataloader(self) -> range:
        return range(max(learner.steps for learner in self.learning))

    @override
    def val_dataloader(self) -> range:
        return range(1)

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for learner in self.learners:
            rates = learner.settings.learning_rate, learner.settings.weight_decay
            groups.setdefault(rates, []).extend(learner.network.parameters())
        parts = [{"params": part, "lr": rate, "weight_decay": decay} for (rate, decay), part in groups.items()]
        return torch.optim.AdamW(parts, fused=True)

    @override
    def on_train_epoch_start(self) -> None:
        for learner in self.learning:
            learner.start_epoch()

    @override
    def training_step(self, batch: int, batch_idx: int) -> Tensor:
        shapes: dict[tuple[int, ...], list[_Learner]] = {}
        for learner in self.learning:
            if batch < len(learner.batches):
                shape = learner.values, learner.settings.width, len(learner.batches[batch])
                shapes.setdefault(shape, []).append(learner)
        return torch.stack([_loss(same, batch) for same in shapes.values()]).sum()

    @override
    def validation_step(self, batch: int, batch_idx: int) -> None:
        for learner in self.learning:
            learner.end_epoch()
        self.trainer.should_stop = not self.learning


class _Learner:
    """A member in training: its network, its random numbers, its best epoch so far."""

    def __init__(self, member: Member) -> None:
        self.standardisation, self.settings = member.standardisation, member.settings
        self.train, self.val, self.values = member.train, member.val, member.train[0].shape[1]
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
            torch.default_generator.manual_seed(member.seed)  # of the CPU alone; torch.manual_seed sets those of GPUs
            width = self.settings.width
            self.network = nn.Sequential(nn.Linear(self.values, width), nn.ReLU(), nn.Linear(width, 1))
            self.random = torch.default_generator.clone_state()
        self.steps = math.ceil(len(self.train[0]) / self.settings.batch_size)
        self.batches: Sequence[Tensor] = []  # rows of each step of the epoch
        self.loss, self.lowest, self.waited, self.stopped = 0.0, math.inf, 0, False
        self.best, self.curves = self._trained(), list[dict[str, float]]()
        self.refusal: Refusal | None = None

    def start_epoch(self) -> None:
        rows = torch.randperm(len(self.train[0]), generator=self.random)
        self.loss, self.batches = 0.0, torch.split(rows, self.settings.batch_size)

    def end_epoch(self) -> None:
        inputs, labels = self.val
        logits = self.network(inputs).squeeze(1)
        val_loss = float(binary_cross_entropy_with_logits(logits, labels.float()))
        losses = {"epoch": float(len(self.curves)), "train/loss": self.loss / len(self.train[0]), "val/loss": val_loss}
        try:
            self.curves.append(losses | {"val/auroc": auroc(logits.double().numpy(), labels.numpy())})
        except Refusal as refusal:
            self.refusal, self.stopped = refusal, True
            return
        self.waited += 1
        if val_loss < self.lowest:
            self.best, self.lowest, self.waited = self._trained(), val_loss, 0
        spent = self.waited >= self.settings.patience or len(self.curves) >= self.settings.max_epochs
        self.stopped = spent or not math.isfinite(val_loss)

    def kept(self, shape: torch.Size) -> Tensor:
        """Draw the factors of dropout for values of a step: 0 for those left out, else 1 / the share that is kept."""
        share = 1 - self.settings.dropout
        return torch.empty(shape).bernoulli_(share, generator=self.random) / share if share < 1 else torch.ones(shape)

    def _trained(self) -> RepresentationMLP:
        weights = (weight.detach().clone() for weight in self.network.parameters())
        return RepresentationMLP(self.standardisation, *weights)


def _loss(learners: Sequence[_Learner], step: int) -> Tensor:
    """Sum of the mean losses of learners of one shape, whose products are the same bits in any company."""
    rows = [learner.batches[step] for learner in learners]
    inputs, labels = (
        torch.stack([learner.train[part][own] for learner, own in zip(learners, rows, strict=True)]) for part in (0, 1)
    )
    inputs = inputs * torch.stack([learner.kept(inputs.shape[1:]) for learner in learners])
    first, first_bias, second, second_bias = (
        torch.stack(same) for same in zip(*(learner.network.parameters() for learner in learners), strict=True)
    )
    hidden = torch.baddbmm(first_bias[:, None], inputs, first.mT).relu()
    hidden = hidden * torch.stack([learner.kept(hidden.shape[1:]) for learner in learners])
    logits = (hidden * second).sum(2) + second_bias  # a batched product of one learner alone would round differently
    losses = binary_cross_entropy_with_logits(logits, labels.float(), reduction="none").mean(1)
    for learner, own, loss in zip(learners, rows, losses.tolist(), strict=True):
        learner.loss += len(own) * loss
    return losses.sum()
