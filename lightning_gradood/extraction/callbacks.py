"""Callbacks of Lightning's loops: reading probes, showing images per second, writing the classifier's predictions."""

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import BasePredictionWriter, TQDMProgressBar
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import override

from lightning_gradood.core import LOG, ProgressLines, Refusal, as_float, check_writable, gathered, give_back_memory
from lightning_gradood.data import ImageBatch, ImageDataModule, class_name
from lightning_gradood.extraction.batch_records import BatchReader, OnBadImage, SourceImages
from lightning_gradood.extraction.entries import CacheEntry, Plan, ids_of, make_plan, prepare, read_records
from lightning_gradood.extraction.estimates import say_estimate
from lightning_gradood.gradients import way_taken
from lightning_gradood.networks import TwoLogits
from lightning_gradood.probes import Probe
from lightning_gradood.records import RecordCache, Records, write_rows
from lightning_gradood.tasks import ClassificationTask, check_network

_FLOAT32_WEIGHTS = ("32-true", "16-mixed", "bf16-mixed")
_BATCHES, _BYTES = 64, 2**26  # of records of one entry that are kept before they are written,
_SECONDS = 60.0  # and how long any are kept at most: what a kill costs
_COLUMNS = {
    "id": str,
    "path": str,
    "source": str,
    "label": str,
    "prediction": str,
    "probability": float,
}  # of predictions


class ProbeCallback(pl.Callback):
    """Read the probes of every image of a predict loop that the cache does not hold yet.

    Add it to any Lightning Trainer and call `trainer.predict(task, datamodule=...)`, with an `ImageDataModule` and a
    task that has its classifier as `network`. The first process plans, so that all agree; each process perturbs and
    reads its images on the bare network, in float32 and without collectives, and writes records keyed by image id.
    Once `predict` has begun, `reader` holds the network and the plan.

    Reading comes before the task's `predict_step`, which may return its `logits`, as that of `ClassificationTask` does.

    Args:
        probes: what is read.
        cache: where the records go.
        on_bad_image: `refuse` images for which the network is not finite, or `skip` them: their records hold NaN.
        only_missing: load only images whose records are missing, and predict no others. By default all images are
            loaded and predicted, also those whose records are there.
    """

    reader: BatchReader

    def __init__(
        self,
        probes: Sequence[Probe],
        cache: RecordCache,
        on_bad_image: OnBadImage = "refuse",
        only_missing: bool = False,
    ) -> None:
        self.probes, self.cache = list(probes), cache
        self.on_bad_image: OnBadImage = on_bad_image
        self.only_missing = only_missing
        self.logits: Tensor | None = None
        """Logits [N, classes] of the batch that was just read; None where not all of its images were."""
        self.prepared: list[Probe] = []
        """The probes that are read, with what they have learnt."""
        self._waiting: dict[str, list[Records]] = {}  # by key of their entry, until they are written
        self._written = time.monotonic()
        self._way = ""  # how gradient norms are computed, as it was logged
        self._images, self._seconds = 0, 0.0  # that this process has read, and how long it took

    @property
    def entries(self) -> list[CacheEntry]:
        """The cache entries that hold the records."""
        return self.reader.plan.entries

    def records(self, source: str) -> Records:
        """Read the records, with all probes and without splits, of a detection or perturbed source of `datamodule`."""
        return read_records(self.cache, self.entries, source, ids_of(self.reader.data, source))

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "predict":
            refuse_unfit_trainer(trainer)
            data = getattr(trainer, "datamodule", None)
            if not isinstance(data, ImageDataModule):
                raise Refusal(f"`datamodule` should be an ImageDataModule. Got `datamodule = {type(data).__name__}`.")
            needy = [probe.name for probe in self.probes if probe.needs_preparation]
            if (
                needy and not data.sources.has_train and trainer.is_global_zero
            ):  # others may know of probes that are left out
                raise Refusal(
                    f"`data.train` should name the classifier's training images, as {', '.join(needy)} must be fitted on "
                    "them. Got `data.train = None`. Give `data.train`, or leave out the detectors that read this."
                )

    def choose_rows(
        self, trainer: pl.Trainer, data: ImageDataModule
    ) -> Mapping[str, Sequence[int] | NDArray[np.int64]]:
        """Return the rows that `data` loads, by clean source; it asks on every process before the loop begins."""
        network = _network(trainer, data)
        plan = Plan([], {}, {})
        if trainer.is_global_zero:
            plan = make_plan(network, data, self.probes, self.cache)
        plan = trainer.strategy.broadcast(plan)
        profiler = trainer.profiler  # type: ignore[attr-defined]
        self.reader = BatchReader(network, data, plan, self.cache, self.on_bad_image, profiler)
        told = [f"network: weights {one.description['weights']}" for one in plan.entries]
        told += [f"images of `{one.origin}`: {one.description['images']}" for one in plan.entries]
        for line in dict.fromkeys(told):
            LOG.info(line)
        if plan.missing:
            check_writable(self.cache.folder, "--cache_dir")
        if self.only_missing:
            return plan.rows_to_load(trainer.world_size)
        return {name: range(len(source)) for name, source in data.sources.loaded.items()}

    @override
    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        wanted = {entry.probe for entry in self.reader.plan.missing}
        probes, reader = [probe for probe in self.probes if probe.name in wanted], self.reader
        self.prepared = prepare(probes, reader.network, reader.data, self.entries, self.cache, trainer)
        if trainer.is_global_zero:
            say_estimate(reader, self.prepared, trainer)

    @override
    def on_predict_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        begun, batch, reader = time.perf_counter(), ImageBatch(*batch), self.reader
        bars = [one for one in trainer.callbacks if isinstance(one, ImageProgressBar)]  # type: ignore[attr-defined]
        source, logits = reader.data.predict_sources[dataloader_idx], list[Tensor]()
        if batch_idx == 0 and (number := reader.number_of(source)):
            for bar in bars:
                bar.begin(source, number, "images")
        with torch.autocast(batch.images.device.type, enabled=False):
            for part in reader.parts(batch):
                for images in reader.images_of(source, part):
                    logits += self._read(images)
                    for bar in bars:
                        bar.count(images.source, len(images.ids))
                    give_back_memory()  # attacks and probes leave blocks of many sizes
        self.logits = torch.cat(logits) if sum(map(len, logits)) == len(batch.images) else None
        if (way := way_taken(reader.network, batch.images)) != self._way:
            LOG.info("gradient norms: %s", way)
        self._way = way
        self._seconds += time.perf_counter() - begun
        if time.monotonic() > self._written + _SECONDS:
            self._write()
        if isinstance(pl_module, ClassificationTask):
            unread = batch.images.new_empty(0) if self.only_missing else None
            pl_module.logits_read = unread if self.logits is None else self.logits

    def _read(self, images: SourceImages) -> list[Tensor]:
        """Read the probes that are missing, and return the logits of unchanged images."""
        reader, wanted = self.reader, self.reader.plan.keys_of(images.source)
        probes = [probe for probe in self.prepared if probe.name in wanted]
        with reader.profiler.profile("gradood: reading probes"):
            parts = reader.read(probes, images)
            for part, readings in parts:
                for probe in probes:
                    kept = self._waiting.setdefault(wanted[probe.name], [])
                    kept.append(reader.record(probe, part, readings))
                    if len(kept) >= _BATCHES or sum(one.table.nbytes for one in kept) >= _BYTES:
                        self._write(wanted[probe.name])
        self._images += len(images.ids)
        return [] if images.spec is not None else [readings.logits for _, readings in parts if readings is not None]

    def _write(self, *keys: str) -> None:
        """Write what waits for these entries, by default for all, a shard for each."""
        for key in keys or list(self._waiting):
            self.cache.write_shard(key, Records.concatenate(self._waiting.pop(key)))
        if not keys:
            self._written = time.monotonic()

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "predict":
            return
        self._write()
        trainer.strategy.barrier("records written")
        for rank, (images, seconds) in enumerate(gathered((self._images, self._seconds))):
            if images:
                LOG.info("process %d: %d images in %.1f s, %.1f images/s", rank, images, seconds, images / seconds)

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        with suppress(Refusal, OSError):  # a full disk may be what was raised
            self._write()


def refuse_unfit_trainer(trainer: pl.Trainer) -> None:
    """Refuse a Trainer that leaves out images or probes weights that are not float32."""
    limit = trainer.limit_predict_batches
    if limit != 1.0 and not trainer.fast_dev_run:  # type: ignore[attr-defined]
        raise Refusal(
            "`trainer.limit_predict_batches` should be 1.0 without `fast_dev_run`, as every image needs its record. "
            f"Got {limit}. Use `--data.limits.images` to take fewer images."
        )
    if trainer.precision not in _FLOAT32_WEIGHTS:
        raise Refusal(
            "`trainer.precision` should leave the weights in float32, in which every image is probed. "
            f"Got `precision = {trainer.precision}`. Use one of {', '.join(_FLOAT32_WEIGHTS)}."
        )


def _network(trainer: pl.Trainer, data: ImageDataModule) -> nn.Module:
    """The classifier that a task holds, one with a single logit as `TwoLogits`; tells `data` how many outputs it has."""
    task = trainer.lightning_module
    network = getattr(task, "network", None)
    if not isinstance(network, nn.Module):
        raise Refusal(f"The task should have its classifier as `network`. Got a {type(task).__name__} without.")
    outputs = trainer.strategy.broadcast(data.sources.outputs)
    if outputs is None:
        image = as_float(data.sources.normal.images([0])).to(task.device)
        outputs = check_network(network, image, None if data.sources.output_names else data.sources.num_classes)
    data.sources.fit_outputs(outputs)
    return TwoLogits(network) if outputs == 1 and not isinstance(network, TwoLogits) else network


class ImageProgressBar(TQDMProgressBar):
    """Show images per second, and in the predict loop which source is being probed.

    Where standard output is no terminal, write a line for each epoch of training, and one for each source and percent;
    a `ProbeCallback` then counts the images of each part of a batch, those of attacks and synthetic outliers too.

    Args:
        refresh_rate: batches between two updates; 0 switches the bar off.
    """

    def __init__(self, refresh_rate: int = 1) -> None:
        super().__init__(refresh_rate=refresh_rate)
        self._images, self._start, self._plain, self._source = 0, 0.0, False, ""
        self._lines = ProgressLines("", 0, "", sys.stdout)

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self._plain = self.refresh_rate > 0 and not self.is_disabled and not sys.stdout.isatty()
        if self._plain:
            self.disable()

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().teardown(trainer, pl_module, stage)
        if self._plain:
            self.enable()

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        super().on_train_epoch_start(trainer, *args)
        self._images, self._start = 0, time.perf_counter()

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        self._images += len(batch[0]) * trainer.world_size
        super().on_train_batch_end(trainer, pl_module, outputs, batch, *args)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        if self._plain:
            found = "".join(f"{name} {float(value):.3f}, " for name, value in trainer.callback_metrics.items())
            epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
            sys.stdout.write(f"{epoch}: {found}{self._rate()} images/s\n")
            sys.stdout.flush()

    @override
    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        metrics = dict(super().get_metrics(trainer, pl_module))
        metrics.pop("v_num", None)
        return metrics | {"images/s": self._rate()}

    @override
    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_predict_start(trainer, pl_module)
        self._source = ""

    @override
    def on_predict_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        super().on_predict_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)
        source = _source_name(trainer, dataloader_idx)
        if batch_idx == 0 and source != self._source:
            self.begin(source, int(trainer.num_predict_batches[dataloader_idx]), "batches")
        if not self.is_disabled:
            self.predict_progress_bar.set_description(source)

    @override
    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        own = self._lines.unit == "batches"  # else `count` is told of each part
        self._images += len(batch[0]) * trainer.world_size if own else 0
        note = f"{self._rate()} images/s"
        if self._plain and own:
            self._lines.advance(note=note)
        elif not self.is_disabled:
            self.predict_progress_bar.set_postfix_str(note, refresh=False)
        super().on_predict_batch_end(trainer, pl_module, outputs, batch, *args)

    def begin(self, source: str, total: int, unit: str) -> None:
        """Begin to count the images of a source, in batches or by `count`."""
        self._source, self._images, self._start = source, 0, time.perf_counter()
        self._lines = ProgressLines(f"reading {source}", total, unit, sys.stdout)

    def count(self, source: str, number: int) -> None:
        """Count images of a source, one of the batch or made of it, that were read within a batch."""
        number *= self.trainer.world_size
        self._images += number
        if self._plain:
            self._lines.advance(number, f"{self._rate()} images/s")
        elif not self.is_disabled:
            self.predict_progress_bar.set_description(source)

    def _rate(self) -> str:
        return f"{self._images / max(time.perf_counter() - self._start, 1e-9):.0f}"


def _source_name(trainer: pl.Trainer, dataloader_idx: int) -> str:
    data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]  # set by Lightning's data connector
    return data.predict_sources[dataloader_idx]


class PredictionWriter(BasePredictionWriter):
    """Write `id`, `path`, `source`, `label`, `prediction` and `probability` of every image to a Parquet file.

    `path` is empty where images are no files, `label` where it is unknown; classes are named where they have names.

    Args:
        path: of the file, which the first process writes when all have finished.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(write_interval="batch")
        self.path = path
        self._rows: dict[tuple[int, str], tuple[Any, ...]] = {}  # by loader and id

    @override
    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        prediction: Tensor,
        batch_indices: Sequence[int] | None,
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        name, sources = _source_name(trainer, dataloader_idx), trainer.datamodule.sources  # type: ignore[attr-defined]
        source = sources.loaded[name]
        values, predicted = prediction.float().softmax(dim=1).max(dim=1)
        _, labels, rows = batch
        columns = (part.tolist() for part in (rows, labels, predicted, values))
        for row, label, index, value in zip(*columns, strict=True):
            one, names = source.ids[row], (class_name(label, source.classes), class_name(index, sources.classes))
            self._rows[dataloader_idx, one] = (one, source.path(row), name, *names, value)

    @override
    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_predict_end(trainer, pl_module)
        parts = gathered(self._rows)
        if trainer.is_global_zero:
            rows = (row for _, row in sorted(pair for part in parts for pair in part.items()))
            write_rows((dict(zip(_COLUMNS, row, strict=True)) for row in rows), _COLUMNS, self.path, "--run_dir")
        self._rows = {}
