"""The callback that reads probes in Lightning's predict loop, on any number of processes."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import override

from lightning_gradood.core import LOG, Refusal, as_float, gathered
from lightning_gradood.data import ImageBatch, ImageDataModule, RowChooser
from lightning_gradood.extraction.batch_records import BatchReader, OnBadImage, SourceImages
from lightning_gradood.extraction.entries import (
    CacheEntry,
    Plan,
    ids_of,
    make_plan,
    prepare,
    read_records,
    refuse_without_training_images,
)
from lightning_gradood.networks import TwoLogits
from lightning_gradood.probes import GradientProbe, Probe
from lightning_gradood.records import RecordCache, Records
from lightning_gradood.tasks import ClassificationTask, check_network

_FLOAT32_WEIGHTS = ("32-true", "16-mixed", "bf16-mixed")


class ProbeCallback(RowChooser):
    """Read the probes of every image of a predict loop that the cache does not hold yet.

    Add it to any Lightning Trainer and call `trainer.predict(task, datamodule=...)`, with an `ImageDataModule` and a
    task that has its classifier as `network`. The first process plans, so that all agree; each process perturbs and
    reads its images on the bare network, in float32 and without collectives, and writes records keyed by image id;
    entries become visible when all have finished.

    Reading comes before the task's `predict_step`, and its forward pass serves both: `logits` are those of the batch,
    and `ClassificationTask` returns them. A `predict_step` of your own may do the same.

    Args:
        probes: what is read.
        cache: where the records go.
        on_bad_image: `refuse` images for which the network is not finite, or `skip` them: their records hold NaN.
        only_missing: load only images whose records are missing, and predict no others. By default all images are
            loaded and predicted, also those whose records are there.
    """

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
        self.work = Work()
        self._prepared: list[Probe] = []
        self._waiting = WaitingRecords(cache)
        self._reader: BatchReader | None = None

    @property
    def reader(self) -> BatchReader:
        """The network and images of the `predict` that has begun, with the plan that was made then."""
        if self._reader is None:
            raise RuntimeError("ProbeCallback has a plan and records once its Trainer's `predict` has begun.")
        return self._reader

    @property
    def plan(self) -> Plan:
        """The plan made when `predict` began."""
        return self.reader.plan

    @property
    def entries(self) -> list[CacheEntry]:
        """The cache entries that hold the records."""
        return self.plan.entries

    def records(self, source: str) -> Records:
        """Read the records, with all probes and without splits, of a detection or perturbed source of `datamodule`."""
        return read_records(self.cache, self.entries, source)

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "predict":
            refuse_unfit_trainer(trainer)
            data = getattr(trainer, "datamodule", None)
            if not isinstance(data, ImageDataModule):
                raise Refusal(
                    f"`datamodule` should be an ImageDataModule. Got `datamodule = {type(data).__name__}`. "
                    "Call trainer.predict(task, datamodule=ImageDataModule(...))."
                )
            refuse_without_training_images(self.probes, data)

    @override
    def choose_rows(
        self, trainer: pl.Trainer, data: ImageDataModule
    ) -> Mapping[str, Sequence[int] | NDArray[np.int64]]:
        network = _network(trainer, data)
        plan = Plan([], {}, {})
        if trainer.is_global_zero:
            plan = make_plan(network, data, self.probes, self.cache)
        plan = trainer.strategy.broadcast(plan)
        profiler = trainer.profiler  # type: ignore[attr-defined]
        self._reader = BatchReader(network, data, plan, self.cache, self.on_bad_image, profiler)
        for weights in dict.fromkeys(one.description["weights"] for one in plan.entries):
            LOG.info("network: weights %s", weights)
        for name, digest in dict.fromkeys((one.origin, one.description["images"]) for one in plan.entries):
            LOG.info("images of `%s`: %s", name, digest)
        if plan.missing:
            self.cache.check_writable(_least_bytes(plan, self.probes, network))
        self.work = Work.of(plan, data, self.probes, trainer.world_size)
        sizes = {name: len(source) for name, source in data.sources.clean.items()}
        if self.only_missing:
            return plan.rows_to_load(sizes, trainer.world_size)
        return {name: range(size) for name, size in sizes.items()}

    @override
    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        wanted = {entry.probe for entry in self.plan.missing}
        probes, reader = [probe for probe in self.probes if probe.name in wanted], self.reader
        self._prepared = prepare(probes, reader.network, reader.data, self.entries, self.cache, trainer)

    @override
    def on_predict_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        begun, batch, reader = time.perf_counter(), ImageBatch(*batch), self.reader
        self.work.begin()
        self.logits = None
        with torch.autocast(batch.images.device.type, enabled=False):
            for images in reader.images_of(reader.data.predict_sources[dataloader_idx], batch):
                self._read(images, len(batch.images))
        self.work.seconds += time.perf_counter() - begun
        self._waiting.write_old()
        if isinstance(pl_module, ClassificationTask):
            unread = batch.images.new_empty(0) if self.only_missing else None
            pl_module.logits_read = unread if self.logits is None else self.logits

    def _read(self, images: SourceImages, in_batch: int) -> None:
        reader = self.reader
        wanted = {entry.probe: entry.key for entry in self.plan.missing if entry.source == images.source}
        probes = [probe for probe in self._prepared if probe.name in wanted]
        with reader.profiler.profile("gradood: reading probes"):
            parts = reader.read(probes, images)
            for part, readings in parts:
                for probe in probes:
                    self._waiting.add(wanted[probe.name], reader.record(probe, part, readings))
        self.work.advance(images.source, len(images.ids))
        logits = [readings.logits for _, readings in parts if readings is not None]
        if images.spec is None and len(logits) == len(parts) and len(images.ids) == in_batch:
            self.logits = torch.cat(logits)

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "predict":
            return
        self._waiting.write()
        trainer.strategy.barrier("records written")
        for rank, (images, seconds) in enumerate(gathered((self.work.images, self.work.seconds))):
            if images:
                rate = images / max(seconds, 1e-9)
                LOG.info("process %d: %d images in %.1f s, %.1f images/s", rank, images, seconds, rate)
        if trainer.is_global_zero:
            for entry in self.plan.missing:
                self.cache.commit(entry.key, ids_of(self.reader.data, entry.source), entry.description)
        trainer.strategy.barrier("records visible")

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        with suppress(Refusal, OSError):  # a full disk may be what was raised
            self._waiting.write()
        self._waiting.clear()


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
        raise Refusal(
            f"The task should have its classifier as the attribute `network`. Got a {type(task).__name__} without. "
            "Use a ClassificationTask, or name the attribute so."
        )
    outputs = trainer.strategy.broadcast(data.sources.outputs)
    if outputs is None:
        image = as_float(data.sources.normal.images([0])).to(task.device)
        outputs = check_network(network, image, None if data.sources.output_names else data.sources.num_classes)
    data.sources.fit_outputs(outputs)
    return TwoLogits(network) if outputs == 1 and not isinstance(network, TwoLogits) else network


def _least_bytes(plan: Plan, probes: Sequence[Probe], network: nn.Module) -> int:
    """Lower bound of the size of missing records: numbers of 8 bytes are compressed to half at best."""
    width = {probe.name: 1 if probe.needs_preparation else len(probe.names(network)) for probe in probes}
    return sum(4 * len(plan.rows[entry.key]) * max(width[entry.probe], 1) for entry in plan.missing)


_SHARD = 4096  # records kept in memory before they are written,
_SHARD_BYTES = 2**26  # their size, as pixels may be large,
_SECONDS = 60.0  # and how long they are kept at most: what a kill costs


class WaitingRecords:
    """Records that were read, by key of their entry, until they are many, large or old enough for a shard."""

    def __init__(self, cache: RecordCache) -> None:
        self.cache = cache
        self._parts: dict[str, list[Records]] = {}
        self._written = time.monotonic()

    def add(self, key: str, records: Records) -> None:
        """Keep records of an entry."""
        kept = self._parts.setdefault(key, [])
        kept.append(records)
        if sum(map(len, kept)) >= _SHARD or sum(one.table.nbytes for one in kept) >= _SHARD_BYTES:
            self.cache.write_shard(key, Records.concatenate(self._parts.pop(key)))

    def write_old(self) -> None:
        """Write all records once a minute."""
        if time.monotonic() > self._written + _SECONDS:
            self.write()

    def write(self) -> None:
        """Write all records, a shard for each entry."""
        for key in list(self._parts):
            self.cache.write_shard(key, Records.concatenate(self._parts.pop(key)))
        self._written = time.monotonic()

    def clear(self) -> None:
        """Forget records that could not be written."""
        self._parts.clear()


_GRADIENTS = 2  # passes of a label design, beside the forward pass that all share


class Work:
    """Passes of images that one process has to read, including those of attacks, and how many are done.

    Args:
        passes: of an image, by the name of the source that is read.
        total: passes of this process.
    """

    def __init__(self, passes: Mapping[str, float] | None = None, total: float = 0.0) -> None:
        self.total, self.done, self.seconds, self.images = total, 0.0, 0.0, 0
        self._passes = dict(passes or {})
        self._start: float | None = None

    @classmethod
    def of(cls, plan: Plan, data: ImageDataModule, probes: Sequence[Probe], processes: int) -> "Work":
        """Count the passes of one of so many processes."""
        made, passes, total = data.sources.perturbed, {}, 0.0
        wanted = {(entry.source, entry.probe) for entry in plan.missing}
        for source, rows in plan.rows_of_source.items():
            designs = [one for one in probes if isinstance(one, GradientProbe) and (source, one.name) in wanted]
            crafting = made[source].attack.passes if source in made and source not in plan.pixels else 0
            passes[source] = 1.0 + _GRADIENTS * len(designs) + crafting
            total += passes[source] * len(rows) / processes
        return cls(passes, total)

    def begin(self) -> None:
        """Start the clock, once."""
        self._start = self._start or time.perf_counter()

    def advance(self, source: str, number: int) -> None:
        """Add images of a source that were read."""
        self.done += self._passes.get(source, 0.0) * number
        self.images += number

    @property
    def left(self) -> str:
        """Estimated time left, in words; empty where nothing is done yet."""
        if self._start is None or self.done <= 0:
            return ""
        passed = time.perf_counter() - self._start
        seconds = passed * max(self.total - self.done, 0.0) / self.done
        if seconds < 90:
            return f"{seconds:.0f} s left"
        return f"{seconds / 60:.0f} min left" if seconds < 5400 else f"{seconds / 3600:.1f} h left"
