"""Extraction in Lightning's predict loop: a task for our Trainer, and a callback for any other."""

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader
from typing_extensions import override

from lightning_gradood.core import Refusal, as_float
from lightning_gradood.data import ImageBatch, ImageDataModule
from lightning_gradood.extraction.plan import CacheEntry, Plan, read_records
from lightning_gradood.extraction.reader import ProbeReader
from lightning_gradood.extraction.reading import OnBadImage
from lightning_gradood.networks import state_digest
from lightning_gradood.probes import Probe
from lightning_gradood.records import RecordCache, Records
from lightning_gradood.tasks import ClassificationTask


class ProbeTask(pl.LightningModule):
    """Read the probes in `predict_step`, from loaders that hold only what is missing.

    Use it as `trainer.predict(ProbeTask(network, datamodule, probes, cache), return_predictions=False)`, without a
    datamodule: it makes the loaders itself.

    Args:
        network: pixels in [0, 1] in, logits out.
        data: sources and perturbations.
        probes: what is read.
        cache: where the records go.
        on_bad_image: what is done where the network is not finite, see `ProbeReader`.
    """

    def __init__(
        self,
        network: nn.Module,
        data: ImageDataModule,
        probes: Sequence[Probe],
        cache: RecordCache,
        on_bad_image: OnBadImage = "refuse",
    ) -> None:
        super().__init__()
        self.network = network
        self.reader = ProbeReader(network, data, probes, cache, on_bad_image)
        self._idle: set[str] = set()  # sources with fewer images than processes, whose rows others read
        self.sources: list[str] = []
        """Names of the sources of the predict loaders, in their order; known once the plan is made."""

    @override
    def prepare_data(self) -> None:
        _ = self.reader.data.detection_sources

    @override
    def setup(self, stage: str) -> None:
        self.reader.start(self.trainer)
        self.network = self.reader.network

    @override
    def predict_dataloader(self) -> list[DataLoader[ImageBatch]]:
        sizes = {name: len(source) for name, source in self.reader.data.detection_sources.items()}
        rows = self.reader.plan.rows_to_load(sizes, self.trainer.world_size)
        self.sources = list(rows)
        self._idle = {source for source, given in rows.items() if self.trainer.global_rank >= len(np.unique(given))}
        return self.reader.data.probe_dataloaders(rows, self.trainer.world_size)

    @override
    def on_after_batch_transfer(self, batch: ImageBatch, dataloader_idx: int) -> ImageBatch:
        return batch._replace(images=as_float(batch.images))

    @override
    def on_predict_start(self) -> None:
        self.reader.prepare(self.trainer)

    @override
    def predict_step(self, batch: ImageBatch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        source = self.sources[dataloader_idx]
        with torch.autocast(self.device.type, enabled=False):
            if source not in self._idle:
                self.reader.read(source, ImageBatch(*batch))
        return batch.images.new_empty(0)

    @override
    def teardown(self, stage: str) -> None:
        self.reader.finish(self.trainer)


class ProbeCallback(Callback):
    """Read the probes of every image of a predict loop, beside whatever the task's own `predict_step` does.

    For a Lightning Trainer of your own, with an `ImageDataModule` and a task that has a `network`, such as
    `ClassificationTask`. Images whose records are cached are loaded but not read again.
    """

    def __init__(self, probes: Sequence[Probe], cache: RecordCache) -> None:
        self.probes = list(probes)
        self.cache = cache
        self.reader: ProbeReader | None = None

    @property
    def plan(self) -> Plan:
        """The plan made when `predict` began."""
        return self._started().plan

    @property
    def entries(self) -> list[CacheEntry]:
        """The cache entries that hold the records."""
        return self.plan.entries

    def records(self, source: str) -> Records:
        """Read the records, with all probes and without splits, of a detection or perturbed source of `datamodule`."""
        return read_records(self.cache, self.entries, source)

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "predict":
            return
        if isinstance(pl_module, ClassificationTask):
            pl_module.load_initial_weights()  # Lightning sets callbacks up first, and the keys name the weights
        self.reader = ProbeReader(_network(pl_module), _datamodule(trainer), self.probes, self.cache)
        self.reader.start(trainer)

    @override
    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        reader = self._started()
        if reader.plan.weights != state_digest(reader.network):
            raise Refusal(
                "The network should keep its weights once `predict` has begun. Got others, read from its `ckpt_path` or "
                f"converted to `precision = {trainer.precision}`. Load them before, as `Trainer.extract` does, and use "
                "32-true or a mixed precision."
            )
        reader.prepare(trainer)

    @override
    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        reader = self._started()
        reader.read(reader.data.predict_sources[dataloader_idx], ImageBatch(*batch))

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "predict":
            self._started().finish(trainer)

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if self.reader is not None:
            self.reader.abandon()

    def _started(self) -> ProbeReader:
        if self.reader is None:
            raise RuntimeError("ProbeCallback has a plan and records once its Trainer's `predict` has begun.")
        return self.reader


def _datamodule(trainer: pl.Trainer) -> ImageDataModule:
    data = getattr(trainer, "datamodule", None)  # set by Lightning's data connector
    if not isinstance(data, ImageDataModule):
        raise Refusal(
            f"`datamodule` should be an ImageDataModule. Got `datamodule = {type(data).__name__}`. "
            "Call trainer.predict(task, datamodule=ImageDataModule(...))."
        )
    return data


def _network(task: pl.LightningModule) -> nn.Module:
    network = getattr(task, "network", None)
    if not isinstance(network, nn.Module):
        raise Refusal(
            f"The task should have its classifier as the attribute `network`. Got a {type(task).__name__} without. "
            "Use a ClassificationTask, or name the attribute so."
        )
    return network
