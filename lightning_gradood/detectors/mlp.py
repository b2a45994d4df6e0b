"""The paper's detector: a 2-layer MLP on gradient representations."""

import copy
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping
from torch import Tensor

from lightning_gradood.detectors.detector import Detector
from lightning_gradood.gradients import LabelDesign
from lightning_gradood.probes import GradientProbe, Probe
from lightning_gradood.records import Records
from lightning_gradood.tasks import DetectionTask, MLPSettings


class MLP(Detector):
    """Binary cross entropy on the representation, early stopping on the validation loss, weights of the best epoch.

    Args:
        label_designs: the representation is their norms side by side.
        settings: width, optimizer and stopping.
        name: in tables, files and W&B keys.

    Reference:
        Lee, Prabhushankar, AlRegib 2022, section 3.2.
    """

    zero_is_even_odds = True

    def __init__(self, label_designs: Sequence[LabelDesign], settings: MLPSettings, name: str = "mlp") -> None:
        self.label_designs = list(label_designs)
        self.settings = settings
        self._name = name
        self.task: DetectionTask | None = None

    @property
    def name(self) -> str:
        """`mlp`, unless it was given another."""
        return self._name

    @property
    def probes(self) -> Sequence[Probe]:
        """One gradient probe per label design."""
        return [GradientProbe(design) for design in self.label_designs]

    def fit(self, records: Records, seed: int) -> list[dict[str, float]]:
        """Train on `train`, stop on `val`; see `Detector.fit`."""
        train, val = (self._tensors(records.where(split=split)) for split in ("train", "val"))
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
            torch.default_generator.manual_seed(seed)  # of the CPU alone; torch.manual_seed sets those of GPUs too
            self.task = DetectionTask(train[0], self.settings)
            keeper = _BestEpoch()
            stopper = EarlyStopping("val/loss", patience=self.settings.patience, verbose=False)
            with _quietly():
                _trainer(self.settings.max_epochs, [keeper, stopper]).fit(
                    self.task,
                    _Batches(*train, size=self.settings.batch_size, shuffle=True),
                    _Batches(*val, size=4096, shuffle=False),
                )
        self.task.load_state_dict(keeper.weights)
        return keeper.curves

    def score(self, records: Records) -> np.ndarray:
        """Logits of the MLP, float64 [n]."""
        representations, _ = self._tensors(records)
        task = self._fitted()
        task.eval()
        with torch.no_grad():
            return task(representations).double().numpy()  # type: ignore[no-any-return]  # untyped __call__

    def state(self) -> dict[str, Tensor]:
        """Weights and standardisation of the best epoch."""
        return dict(self._fitted().state_dict())

    def _fitted(self) -> DetectionTask:
        if self.task is None:
            raise RuntimeError("MLP.fit comes before score and state.")
        return self.task

    def _tensors(self, records: Records) -> tuple[Tensor, Tensor]:
        values = np.concatenate([records.probe(probe.name) for probe in self.probes], axis=1)
        return torch.from_numpy(values), torch.from_numpy(records.anomalous)


class _Batches:
    """Tensors in memory, cut into batches; a DataLoader would cost more than the step itself."""

    def __init__(self, inputs: Tensor, targets: Tensor, size: int, shuffle: bool) -> None:
        self.inputs, self.targets, self.size, self.shuffle = inputs, targets, size, shuffle

    def __len__(self) -> int:
        return -(-len(self.inputs) // self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.inputs)) if self.shuffle else torch.arange(len(self.inputs))
        for start in range(0, len(order), self.size):
            rows = order[start : start + self.size]
            yield self.inputs[rows], self.targets[rows]


class _BestEpoch(Callback):
    """Keep the metrics of every epoch and the weights of the one with the lowest validation loss."""

    def __init__(self) -> None:
        self.curves: list[dict[str, float]] = []
        self.weights: dict[str, Tensor] = {}
        self.lowest = float("inf")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Metrics of training and validation are both there by now."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.curves.append({"epoch": float(trainer.current_epoch), **metrics})
        if metrics["val/loss"] < self.lowest:
            self.lowest = metrics["val/loss"]
            self.weights = copy.deepcopy(dict(pl_module.state_dict()))


def _trainer(max_epochs: int, callbacks: list[Callback]) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",  # a step on 128 records takes longer to launch on a GPU than to compute here
        devices=1,
        max_epochs=max_epochs,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        inference_mode=False,
    )


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep Lightning from naming the machine's devices again for every detector, and from advising on processes."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():  # the process group it sees is that of the classifier's Trainer
            warnings.filterwarnings("ignore", "It is recommended to use .*sync_dist=True")
            yield
    finally:
        logger.setLevel(level)
