"""Reading the probes of an experiment batch by batch, and writing records as they come; no Lightning loop is assumed."""

import hashlib
import json
import time
from collections.abc import Sequence
from contextlib import suppress

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn

from lightning_gradood import __version__
from lightning_gradood.core import NotFinite, Refusal, as_float, generator_states, restore_generators
from lightning_gradood.data import ImageBatch, ImageDataModule
from lightning_gradood.extraction.images import SourceImages, images_of_batch
from lightning_gradood.extraction.plan import Plan, ids_of, make_plan, wanted_ids
from lightning_gradood.extraction.preparation import prepare, refuse_without_training_images
from lightning_gradood.gradients import adopt_proofs, proofs_of
from lightning_gradood.networks import TwoLogits
from lightning_gradood.probes import Probe, ProbeReadings, read_probes
from lightning_gradood.records import NORMAL, RecordCache, Records, StateStore
from lightning_gradood.tasks import check_network

_SHARD = 4096  # records kept in memory before they are written,
_SHARD_BYTES = 2**26  # their size, as pixels may be large,
_SECONDS = 60.0  # and how long they are kept at most: what a kill costs


class ProbeReader:
    """Reads what the cache does not hold yet, on any number of processes.

    The first process plans, so that all agree; each process writes the records it computed, keyed by image id; entries
    become visible when all have finished. Probes are read on the bare network in float32 and without collectives.

    Call `start`, `prepare`, `read` for each batch, then `finish`; `abandon` instead where something was raised.

    Args:
        network: what is probed; where it has one logit it becomes `TwoLogits` of it in `start`.
        data: sources and perturbations.
        probes: what is read.
        cache: where the records go.
    """

    def __init__(self, network: nn.Module, data: ImageDataModule, probes: Sequence[Probe], cache: RecordCache) -> None:
        self.network, self.data, self.probes, self.cache = network, data, list(probes), cache
        self.plan = Plan([], {}, "", None, "", {})
        self._buffer: dict[str, list[Records]] = {}
        self._written = time.monotonic()
        self._proofs: ProofStore | None = None

    def start(self, trainer: pl.Trainer) -> None:
        """Plan on the first process, and give the plan to all.

        Raises:
            Refusal: a probe needs training images and none are named; records are damaged and may not be read anew; or
                there is no place for what is missing.
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
        if self.plan.missing:
            self.cache.check_writable(self._least_bytes())

    def _count_outputs(self) -> int:
        """How many outputs the network has for one image."""
        image = as_float(self.data.normal_source.images([0]))
        device = next((one.device for one in self.network.parameters()), image.device)
        return check_network(self.network, image.to(device), None if self.data.output_names else self.data.num_classes)

    def prepare(self, trainer: pl.Trainer) -> None:
        """Prepare the probes that learn from the training images, and adopt what an earlier run proved of the network."""
        wanted = {entry.probe for entry in self.plan.missing}
        needy = [probe for probe in self.probes if probe.needs_preparation and probe.name in wanted]
        prepare(needy, self.network, self.data, self.plan, StateStore(self.cache.folder, self.cache.repair), trainer)
        if wanted:
            proofs = StateStore(self.cache.folder / "proofs", self.cache.repair)
            self._proofs = ProofStore(self.network, proofs, self.plan)

    def read(self, source: str, batch: ImageBatch) -> None:
        """Read what the plan asks of a batch, unchanged and perturbed.

        Args:
            source: whose images the batch holds.
            batch: images float32 [N, C, H, W] in [0, 1] on the network's device, labels and rows of that source.
        """
        for images in images_of_batch(self.data, self.network, source, batch, self.plan, self.cache):
            self._probe(images)
        if time.monotonic() > self._written + _SECONDS:
            self._write_all()

    def finish(self, trainer: pl.Trainer) -> None:
        """Write what is left; once every process has, make the entries visible."""
        self._write_all()
        trainer.strategy.barrier("records written")
        if trainer.is_global_zero:
            if self._proofs is not None:
                self._proofs.keep()
            for entry in self.plan.missing:
                self.cache.commit(entry.key, ids_of(self.data, entry.source), entry.description)
        trainer.strategy.barrier("records visible")

    def abandon(self) -> None:
        """Leave what was read so far on disk for the next run."""
        with suppress(Refusal, OSError):  # a full disk may be what was raised
            self._write_all()
        self._buffer.clear()

    def _least_bytes(self) -> int:
        """What the missing records will take at least: numbers of 8 bytes shrink to half at best."""
        width = {probe.name: 1 if probe.needs_preparation else len(probe.names(self.network)) for probe in self.probes}
        return sum(4 * len(self.plan.rows[entry.key]) * max(width[entry.probe], 1) for entry in self.plan.missing)

    def _probe(self, images: SourceImages) -> None:
        wanted = {entry.probe: entry.key for entry in self.plan.missing if entry.source == images.source}
        probes = [probe for probe in self.probes if probe.name in wanted]
        readings = self._readings(probes, images)
        columns = images.columns(readings.logits)
        for probe in probes:
            record = Records.build(
                images.ids,
                source=images.source if images.spec is None else NORMAL,
                values={probe.name: _array(readings.values[probe.name])},
                names={probe.name: probe.names(self.network)},
                **columns,
            )
            self._add(wanted[probe.name], record)

    def _readings(self, probes: list[Probe], images: SourceImages) -> ProbeReadings:
        try:
            return read_probes(probes, self.network, images.images)
        except Refusal as refusal:
            raise Refusal(f"{refusal} The batch holds {images.ids[0]} to {images.ids[-1]}.") from refusal

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


def with_two_logits(network: nn.Module) -> nn.Module:
    """A network with one logit as `TwoLogits`."""
    return network if isinstance(network, TwoLogits) else TwoLogits(network)


def try_probes(probes: Sequence[Probe], network: nn.Module, images: Tensor) -> None:
    """Read a few images and forget them, so that a network that cannot be read is refused before any long work.

    Network and random generators are as before afterwards.

    Args:
        probes: those that need no training images are tried.
        network: pixels in, logits out; a single logit is taken as `TwoLogits`.
        images: float [N, C, H, W].

    Raises:
        Refusal: a probe does not fit the network.
    """
    generators = generator_states()
    device = next((one.device for one in network.parameters()), images.device)
    try:
        ready = [probe for probe in probes if not probe.needs_preparation]
        if check_network(network, images.to(device), None) == 1:
            network = with_two_logits(network)
        with suppress(NotFinite):  # what to do with such images is decided where all are read
            read_probes(ready, network, images.to(device))
    finally:
        restore_generators(generators)


class ProofStore:
    """Stored plans of the gradient engine for a network, under a key of its weights, structure and the versions of the code.

    Made while the network is in the state that is probed, it adopts what an earlier run left.

    Args:
        network: whose gradients are read.
        store: beside the records.
        plan: digests of the network.
    """

    def __init__(self, network: nn.Module, store: StateStore, plan: Plan) -> None:
        self.network, self.store = network, store
        about = [plan.weights, plan.structure, torch.__version__, __version__]
        self.key = hashlib.sha256(json.dumps(about).encode()).hexdigest()
        store.mend(self.key)
        if store.has(self.key):
            with suppress(Refusal, KeyError, UnicodeDecodeError):  # damaged: it will be proved anew
                adopt_proofs(network, bytes(store.read(self.key)["json"].tolist()).decode())

    def keep(self) -> None:
        """Write what is proved by now, if anything is."""
        text = proofs_of(self.network)
        if text is not None:
            self.store.write(self.key, {"json": torch.tensor(list(text.encode()), dtype=torch.uint8)})


def _array(values: Tensor) -> np.ndarray:
    return np.asarray(values.detach().cpu().numpy())
