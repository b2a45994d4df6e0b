"""Reading the probes of an experiment batch by batch, and writing records as they come, without a Lightning loop."""

import time
from collections.abc import Sequence
from contextlib import suppress

import lightning.pytorch as pl
from lightning.pytorch.profilers import PassThroughProfiler
from torch import nn

from lightning_gradood.core import LOG, Portions, Profiler, Refusal, as_float, gathered
from lightning_gradood.data import ImageBatch, ImageDataModule
from lightning_gradood.extraction.images import ImageMaker, SourceImages
from lightning_gradood.extraction.plan import Plan, Work, ids_of, make_plan, wanted_ids
from lightning_gradood.extraction.preparation import prepare, refuse_without_training_images, with_two_logits
from lightning_gradood.extraction.reading import ImageReader, OnBadImage
from lightning_gradood.probes import Probe
from lightning_gradood.records import RecordCache, Records, StateStore
from lightning_gradood.tasks import check_network

_SHARD = 4096  # records kept in memory before they are written,
_SHARD_BYTES = 2**26  # their size, as pixels may be large,
_SECONDS = 60.0  # and how long they are kept at most: what a kill costs


class ProbeReader:
    """Reads what the cache does not hold yet, on any number of processes.

    The first process plans, so that all agree; each process writes the records it computed, keyed by image id; entries
    become visible when all have finished. Probes are read on the bare network in float32 and without collectives.

    Call `start`, `prepare`, `read` for each batch, then `finish`; `abandon` instead after an error.

    Args:
        network: what is probed; `start` wraps one with a single logit in `TwoLogits`.
        on_bad_image: `refuse` images for which the network is not finite, or `skip` them: their records hold NaN.
    """

    def __init__(
        self,
        network: nn.Module,
        data: ImageDataModule,
        probes: Sequence[Probe],
        cache: RecordCache,
        on_bad_image: OnBadImage = "refuse",
    ) -> None:
        self.network, self.data, self.probes, self.cache = network, data, list(probes), cache
        self.on_bad_image: OnBadImage = on_bad_image
        self.work = Work()
        self._profiler: Profiler = PassThroughProfiler()
        self._tools: tuple[ImageMaker, ImageReader] | None = None
        self.plan = Plan([], {}, "", None, "", {})
        self._buffer: dict[str, list[Records]] = {}
        self._written = time.monotonic()

    def start(self, trainer: pl.Trainer) -> None:
        """Plan on the first process, and send the plan to all.

        Raises:
            Refusal: a probe needs training images and none are named, or the disk has no room for what is missing.
        """
        refuse_without_training_images(self.probes, self.data)
        known = trainer.strategy.broadcast(self.data.outputs)
        self.data.fit_outputs(self._count_outputs() if known is None else known)
        if self.data.outputs == 1:
            self.network = with_two_logits(self.network)
        if trainer.is_global_zero:
            self.plan = make_plan(self.network, self.data, self.probes, self.cache)
            if self.cache.mend(wanted_ids(self.plan, self.data)):
                self.plan = make_plan(self.network, self.data, self.probes, self.cache)
        self.plan = trainer.strategy.broadcast(self.plan)
        self._profiler = trainer.profiler  # type: ignore[attr-defined]
        self.work.plan(self.plan, self.data, self.probes, trainer.world_size)
        LOG.info("network: weights %s", self.plan.weights)
        for name, digest in dict.fromkeys((one.origin, one.description["images"]) for one in self.plan.entries):
            LOG.info("images of `%s`: %s", name, digest)
        if self.plan.missing:
            self.cache.check_writable(self._least_bytes())

    def _count_outputs(self) -> int:
        image = as_float(self.data.normal_source.images([0]))
        device = next((one.device for one in self.network.parameters()), image.device)
        return check_network(self.network, image.to(device), None if self.data.output_names else self.data.num_classes)

    def prepare(self, trainer: pl.Trainer) -> None:
        """Prepare the probes that learn from the training images."""
        wanted = {entry.probe for entry in self.plan.missing}
        needy = [probe for probe in self.probes if probe.needs_preparation and probe.name in wanted]
        prepare(needy, self.network, self.data, self.plan, StateStore(self.cache.folder), trainer)

    def read(self, source: str, batch: ImageBatch) -> None:
        """Read what the plan asks of a batch of this source, unchanged and perturbed.

        `batch` holds images float32 [N, C, H, W] in [0, 1] on the network's device, labels and rows.
        """
        begun = time.perf_counter()
        self.work.begin()
        if self._tools is None:
            portions, profiler = Portions(), self._profiler
            maker = ImageMaker(self.data, self.network, self.plan, self.cache, portions, profiler)
            self._tools = maker, ImageReader(self.network, portions, self.on_bad_image)
        maker, reader = self._tools
        for images in maker.of_batch(source, batch):
            with self._profiler.profile("gradood: reading probes"):
                self._probe(reader, images)
        self.work.seconds += time.perf_counter() - begun
        if time.monotonic() > self._written + _SECONDS:
            self._write_all()

    def finish(self, trainer: pl.Trainer) -> None:
        """Write what is left; once every process has, make the entries visible."""
        self._write_all()
        trainer.strategy.barrier("records written")
        for rank, (images, seconds) in enumerate(gathered((self.work.images, self.work.seconds))):
            if images:
                LOG.info(
                    "process %d: %d images in %.1f s, %.1f images/s", rank, images, seconds, images / max(seconds, 1e-9)
                )
        if trainer.is_global_zero:
            for entry in self.plan.missing:
                self.cache.commit(entry.key, ids_of(self.data, entry.source), entry.description)
        trainer.strategy.barrier("records visible")

    def abandon(self) -> None:
        """Write what was read so far, for the next run."""
        with suppress(Refusal, OSError):  # a full disk may be what was raised
            self._write_all()
        self._buffer.clear()

    def _least_bytes(self) -> int:
        """Lower bound of the size of missing records: numbers of 8 bytes are compressed to half at best."""
        width = {probe.name: 1 if probe.needs_preparation else len(probe.names(self.network)) for probe in self.probes}
        return sum(4 * len(self.plan.rows[entry.key]) * max(width[entry.probe], 1) for entry in self.plan.missing)

    def _probe(self, reader: ImageReader, images: SourceImages) -> None:
        wanted = {entry.probe: entry.key for entry in self.plan.missing if entry.source == images.source}
        probes = [probe for probe in self.probes if probe.name in wanted]
        for name, record in reader.records(probes, images):
            self._add(wanted[name], record)
        self.work.advance(images.source, len(images.ids))

    def _add(self, key: str, records: Records) -> None:
        self._buffer.setdefault(key, []).append(records)
        kept = self._buffer[key]
        if sum(map(len, kept)) >= _SHARD or sum(one.table.nbytes for one in kept) >= _SHARD_BYTES:
            self._write(key)

    def _write_all(self) -> None:
        for key in list(self._buffer):
            self._write(key)
        self._written = time.monotonic()

    def _write(self, key: str) -> None:
        self.cache.write_shard(key, Records.concatenate(self._buffer.pop(key)))
