"""The cache entries that an experiment needs: their keys, the rows that are missing, what probes learn beforehand."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import reduce

import lightning.pytorch as pl
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_gradood.core import as_float, encode, packages_of, progress
from lightning_gradood.data import ImageDataModule
from lightning_gradood.networks import architecture, state_digest
from lightning_gradood.probes import PixelProbe, Probe
from lightning_gradood.records import NORMAL, RecordCache, Records, entry_key

PIXELS = PixelProbe("float32")  # read again instead of remade: rounded ones may be beyond the decision boundary


@dataclass(frozen=True)
class CacheEntry:
    """One cache entry: one probe on one source.

    Args:
        origin: the source whose images are loaded: itself, or that whose images are perturbed.
        key: digest of the description.
        description: JSON-able text of everything the entry depends on.
        learnt: key of what the probe learns from the training images; empty where it learns nothing.
    """

    source: str
    origin: str
    probe: str
    key: str
    description: dict[str, object]
    learnt: str = ""


@dataclass(frozen=True, eq=False)
class Plan:
    """The records that are missing; made by the first process and sent to the others.

    Args:
        entries: all that the experiment needs.
        rows: key of each incomplete entry to the rows of its origin that are to be read, ascending; at least one.
        pixels: perturbed source to the key of its images, where an earlier run has stored them in float32.
    """

    entries: list[CacheEntry]
    rows: Mapping[str, NDArray[np.int64]]
    pixels: Mapping[str, str]

    @property
    def missing(self) -> list[CacheEntry]:
        """Entries that are not complete."""
        return [entry for entry in self.entries if entry.key in self.rows]

    def keys_of(self, source: str) -> dict[str, str]:
        """Names of the probes that are to be read of a source, each with the key of its entry."""
        return {entry.probe: entry.key for entry in self.missing if entry.source == source}

    @property
    def rows_of_source(self) -> dict[str, NDArray[np.int64]]:
        """Rows of the origin to read, ascending, by the name of the source that is read."""
        return _union((entry.source, self.rows[entry.key]) for entry in self.missing)

    def rows_to_load(self, processes: int) -> dict[str, NDArray[np.int64]]:
        """Rows that the loader of each origin gives, at least one for each process.

        Where fewer are missing than there are processes, the first is repeated: what is read twice is equal.
        """
        wanted = _union((entry.origin, self.rows[entry.key]) for entry in self.missing)
        return {
            origin: np.concatenate([rows, rows[:1].repeat(max(processes - len(rows), 0))])
            for origin, rows in wanted.items()
        }


def _union(named: Iterator[tuple[str, NDArray[np.int64]]]) -> dict[str, NDArray[np.int64]]:
    found: dict[str, NDArray[np.int64]] = {}
    for name, rows in named:
        found[name] = np.union1d(found.get(name, rows[:0]), rows)
    return found


def make_plan(network: nn.Module, data: ImageDataModule, probes: Sequence[Probe], cache: RecordCache) -> Plan:
    """Find out what is missing, after damaged files are removed; weights and images are hashed once.

    The key of an entry covers weights and buffers, the network's structure and plain settings, all images of the
    source as the network sees them with their ids, however few are read, the perturbation with its settings, the probe
    with its version and settings, and the dtype; for a probe that is prepared on the training images, those too.
    """
    network_key: dict[str, object] = {"weights": state_digest(network), "network": architecture(network)}
    images = {name: source.digest() for name, source in data.sources.loaded.items()}
    training = data.sources.train.digest() if any(probe.needs_preparation for probe in probes) else ""
    made = data.sources.perturbed

    def entry(source: str, probe: Probe) -> CacheEntry:
        origin, told = NORMAL if source in made else source, encode(probe) | {"version": probe.version}
        description: dict[str, object] = {
            "source": source,
            "images": images[origin],
            "attack": made[source].recipe() if source in made else None,
            "probe": told,
            **network_key,
            "dtype": "float32",
            "columns": 3,  # raised when the columns of a record or their types change
        }
        learnt = ""
        if probe.needs_preparation:
            description["training_images"] = training
            kept = {name: value for name, value in told["init_args"].items() if name not in probe.unprepared}
            learnt = entry_key({"prepared": told | {"init_args": kept}, "images": training, **network_key})
        return CacheEntry(source, origin, probe.name, entry_key(description), description, learnt)

    read = {name: one.probes for name, one in made.items() if one.probes is not None}
    read["train"] = data.sources.training_probes
    entries = [
        entry(source, probe)
        for source in (*images, *made)
        for probe in probes
        if probe.name in read.get(source, {probe.name})
    ]
    pixels = {source: entry(source, PIXELS).key for source in made}
    cache.mend([*(one.key for one in entries), *pixels.values()])
    rows = {one.key: found for one in entries if len(found := _rows_to_read(one, data, cache))}
    kept = {source: key for source, key in pixels.items() if cache.done(key).issuperset(ids_of(data, source))}
    return Plan(entries, rows, kept)


def _rows_to_read(entry: CacheEntry, data: ImageDataModule, cache: RecordCache) -> NDArray[np.int64]:
    done, ids, made = cache.done(entry.key), ids_of(data, entry.source), data.sources.perturbed.get(entry.source)
    rows = data.sources.rows_of(entry.source) if made is None else made.rows
    return np.fromiter((row for row, name in zip(rows, ids, strict=True) if name not in done), dtype=np.int64)


def ids_of(data: ImageDataModule, source: str) -> list[str]:
    """Ids of a source's records, whether its images are loaded or made."""
    if made := data.sources.perturbed.get(source):
        return made.ids
    return [data.sources.loaded[source].ids[row] for row in data.sources.rows_of(source)]


def read_records(cache: RecordCache, entries: Sequence[CacheEntry], source: str, ids: Sequence[str]) -> Records:
    """Read all probes of these images of one source, joined."""
    return reduce(Records.join, (cache.read(entry.key, ids) for entry in entries if entry.source == source))


def prepare(
    probes: Sequence[Probe],
    network: nn.Module,
    data: ImageDataModule,
    entries: Sequence[CacheEntry],
    cache: RecordCache,
    trainer: pl.Trainer,
) -> list[Probe]:
    """Return the probes as they read; the first process learns from the training images what is not stored."""
    keys = {entry.probe: entry.learnt for entry in entries}

    def prepared(probe: Probe) -> Probe:
        key = keys[probe.name]
        if trainer.is_global_zero:
            cache.mend([key])
            if not cache.has_state(key):
                with closing(_batches(data, network, probe.name)) as batches:  # ends the bar's line before a refusal
                    cache.write_state(key, probe.prepare(network, batches))
        trainer.strategy.barrier(f"prepared {probe.name}")
        kept = {name: getattr(probe, name) for name in probe.unprepared}
        ready: Probe = replace(cache.read_state(key, packages_of(encode(probe))), **kept)
        return ready

    return [prepared(probe) if probe.needs_preparation else probe for probe in probes]


def _batches(data: ImageDataModule, network: nn.Module, name: str) -> Generator[tuple[Tensor, Tensor]]:
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    loader = data.preparation_dataloader()
    for images, labels, _ in progress(loader, f"preparing {name}", len(loader), "batches"):
        yield as_float(images.to(device)), labels.to(device)
