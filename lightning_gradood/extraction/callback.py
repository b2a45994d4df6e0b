"""The callback that reads the probes in the predict loop and writes records."""

import hashlib
import itertools
import json
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from lightning_gradood import __version__
from lightning_gradood.core import Refusal
from lightning_gradood.data import ImageBatch, ImageDataModule
from lightning_gradood.extraction.perturbed import KeptImages, Version, versions
from lightning_gradood.extraction.plan import Entry, entries_of, ids_of, rows_of
from lightning_gradood.extraction.preparation import prepare, refuse_without_training_images
from lightning_gradood.gradients import adopt_proofs, proofs_of
from lightning_gradood.networks import architecture, state_digest
from lightning_gradood.probes import Probe, ProbeReadings, read_probes
from lightning_gradood.records import NORMAL, RecordCache, Records, StateStore
from lightning_gradood.tasks import ClassificationTask

_SHARD = 4096  # records kept in memory before they are written,
_SECONDS = 60.0  # and how long they are kept at most: what a kill costs


class ProbeCallback(Callback):
    """Probe every image of the predict loop that the cache does not hold yet.

    Rank zero decides what is missing, so that all processes agree; each process writes the records it computed, keyed by
    image id; the entries become visible when all have finished. Probes that need it are prepared on the classifier's
    training images first. Probes run on the bare network in float32 and without
    collectives, whatever the trainer's precision and strategy.

    Args:
        probes: what to read.
        cache: where the records go.
    """

    def __init__(self, probes: Sequence[Probe], cache: RecordCache) -> None:
        self.probes = list(probes)
        self.cache = cache
        self.entries: list[Entry] = []
        self.missing: list[Entry] = []
        self._todo: dict[str, set[int]] = {}  # rows of the loaded source, by the name of the source that is probed
        self._buffer: dict[str, list[Records]] = {}
        self._written = time.monotonic()
        self._leaving = ExitStack()  # what to undo at the end
        self._proofs: ProofStore | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find out which entries and which rows of each source are missing."""
        data = _datamodule(trainer)
        refuse_without_training_images(self.probes, data)
        if isinstance(pl_module, ClassificationTask):
            pl_module.load_initial_weights()  # Lightning sets callbacks up first, and the keys name the weights
        entries = entries_of(pl_module.network, data, self.probes) if trainer.is_global_zero else []  # type: ignore[arg-type]
        rows = {entry.key: self._rows_to_do(entry, data) for entry in entries if not self.cache.has(entry.key)}
        self.entries, rows = trainer.strategy.broadcast((entries, rows))
        self.missing = [entry for entry in self.entries if entry.key in rows]
        self._todo = {}
        loaded: dict[str, set[int]] = {}
        for entry in self.missing:
            for asked in (self._todo.setdefault(entry.source, set()), loaded.setdefault(entry.origin, set())):
                asked.update(rows[entry.key])
        restriction = {source: self._enough(rows, source, trainer) for source, rows in loaded.items() if rows}
        self._leaving.enter_context(data.only(restriction))
        if isinstance(pl_module, ClassificationTask):
            self._leaving.enter_context(pl_module.without_logits())  # the probes' own forward gives them

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse weights other than those that the keys name; prepare the probes that are still to be read.

        Raises:
            Refusal: if they were loaded or converted after `setup`.
        """
        weights = {entry.description["weights"] for entry in self.entries}
        if weights - {state_digest(pl_module.network)}:  # type: ignore[arg-type]
            raise Refusal(
                "The network should keep its weights once `predict` has begun. Got others, read from its `ckpt_path` or "
                f"converted to `precision = {trainer.precision}`. Load them before, as `Trainer.extract` does, and use "
                "32-true or a mixed precision."
            )
        wanted = {entry.probe for entry in self.missing}
        needy = [probe for probe in self.probes if probe.needs_preparation and probe.name in wanted]
        prepare(needy, pl_module.network, trainer, StateStore(self.cache.folder))  # type: ignore[arg-type]
        self._kept = KeptImages(pl_module.network, _datamodule(trainer), self.cache)  # type: ignore[arg-type]
        self._proofs = ProofStore(pl_module.network, StateStore(self.cache.folder / "proofs")) if self.missing else None  # type: ignore[arg-type]

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Probe the batch and what attacks and corruptions make of it."""
        data = _datamodule(trainer)
        source = data.predict_sources[dataloader_idx]
        network: nn.Module = pl_module.network  # type: ignore[assignment]
        for version in versions(data, network, source, ImageBatch(*batch), self._todo, self._kept):
            self._probe(version, pl_module)
        if time.monotonic() > self._written + _SECONDS:
            self._write_all()

    def _probe(self, version: Version, task: pl.LightningModule) -> None:
        wanted = {entry.probe: entry.key for entry in self.missing if entry.source == version.source}
        probes = [probe for probe in self.probes if probe.name in wanted]
        reading = self._read(probes, task, version.images, version.ids)
        columns = version.columns(reading.logits)
        for probe in probes:
            record = Records.build(
                version.ids,
                source=version.source if version.twins is None else NORMAL,
                values={probe.name: _array(reading.values[probe.name])},
                names={probe.name: probe.names(task.network)},  # type: ignore[arg-type]
                **columns,
            )
            self._keep(wanted[probe.name], record)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write what is left; once every process has, make the entries visible."""
        self._leaving.close()
        self._write_all()
        trainer.strategy.barrier("records written")
        if trainer.is_global_zero:
            if self._proofs is not None:
                self._proofs.keep()
            for entry in self.missing:
                self.cache.commit(entry.key, ids_of(_datamodule(trainer), entry.source), entry.description)
        trainer.strategy.barrier("records visible")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave the data as they were, and what was read so far on disk for the next run."""
        self._leaving.close()
        with suppress(Refusal, OSError):  # a full disk may be the exception itself
            self._write_all()
        self._buffer.clear()

    def _enough(self, rows: set[int], source: str, trainer: pl.Trainer) -> list[int]:
        """Add rows that are done already until every process has one; rows that are written twice are read once."""
        done = (row for row in range(len(_datamodule(trainer).detection_sources[source])) if row not in rows)
        extra = itertools.islice(done, max(trainer.world_size - len(rows), 0))
        return sorted([*rows, *extra])

    def _rows_to_do(self, entry: Entry, data: ImageDataModule) -> list[int]:
        done = self.cache.done(entry.key)
        ids, rows = ids_of(data, entry.source), rows_of(data, entry.source)
        return [row for row, name in zip(rows, ids, strict=True) if name not in done]

    def _read(self, probes: list[Probe], task: pl.LightningModule, images: Tensor, ids: list[str]) -> ProbeReadings:
        try:
            return read_probes(probes, task.network, images)  # type: ignore[arg-type]
        except Refusal as refusal:
            raise Refusal(f"{refusal} The batch holds {ids[0]} to {ids[-1]}.") from refusal

    def _keep(self, key: str, records: Records) -> None:
        self._buffer.setdefault(key, []).append(records)
        if sum(map(len, self._buffer[key])) >= _SHARD:
            self._write(key)

    def _write_all(self) -> None:
        for key in list(self._buffer):
            self._write(key)
        self._written = time.monotonic()

    def _write(self, key: str) -> None:
        self.cache.write_shard(key, Records.concatenate(self._buffer.pop(key)))


class ProofStore:
    """A network's proofs in a store of tensors, under a key of its weights, structure and the versions of the code.

    Made while the network is in the state that is probed, it adopts what an earlier run left.

    Args:
        network: whose gradients are read.
        store: beside the records.
    """

    def __init__(self, network: nn.Module, store: StateStore) -> None:
        self.network, self.store = network, store
        about = [state_digest(network), architecture(network), torch.__version__, __version__]
        self.key = hashlib.sha256(json.dumps(about).encode()).hexdigest()
        if store.has(self.key):
            with suppress(Refusal, KeyError, UnicodeDecodeError):  # damaged: it will be proved anew
                self._adopt(bytes(store.read(self.key)["json"].tolist()))

    def keep(self) -> None:
        """Write what is proved by now, if anything is."""
        text = proofs_of(self.network)
        if text is not None:
            self.store.write(self.key, {"json": torch.tensor(list(text.encode()), dtype=torch.uint8)})

    def _adopt(self, text: bytes) -> None:
        adopt_proofs(self.network, text.decode())


def _datamodule(trainer: pl.Trainer) -> ImageDataModule:
    data = trainer.datamodule  # type: ignore[attr-defined]  # set by the data connector
    if not isinstance(data, ImageDataModule):
        raise Refusal(f"`datamodule` should be an ImageDataModule. Got `datamodule = {type(data).__name__}`.")
    return data


def _array(values: Tensor) -> np.ndarray:
    return np.asarray(values.detach().cpu().numpy())
