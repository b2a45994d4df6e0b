"""The plan of an extraction: the cache entries that an experiment needs, missing rows, and the time they take."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from lightning_gradood.data import ImageDataModule, PerturbedSource
from lightning_gradood.networks import architecture, state_digest
from lightning_gradood.probes import GradientProbe, PixelProbe, Probe
from lightning_gradood.records import NORMAL, RecordCache, Records, entry_key

PIXELS = PixelProbe("float32")  # read again instead of remade: rounded ones may be beyond the decision boundary


@dataclass(frozen=True)
class CacheEntry:
    """One cache entry: one probe on one source.

    Args:
        origin: the source whose images are loaded: itself, or that whose images are perturbed.
        key: digest of the description.
        description: JSON-able text of everything the entry depends on.
    """

    source: str
    origin: str
    probe: str
    key: str
    description: dict[str, object]


@dataclass(frozen=True, eq=False)
class Plan:
    """The records that are missing, and their keys; made by the first process and sent to the others.

    Args:
        entries: all that the experiment needs.
        rows: key of each incomplete entry to the rows of its origin that are to be read, ascending.
        weights: digest of the network's weights and buffers.
        structure: description of the network's modules and settings.
        training_images: digest of the classifier's training images; empty where no probe needs them.
        pixels: perturbed source to the key of its images, where an earlier run has stored them in float32.
    """

    entries: list[CacheEntry]
    rows: Mapping[str, NDArray[np.int64]]
    weights: str
    structure: object
    training_images: str
    pixels: Mapping[str, str]

    @property
    def missing(self) -> list[CacheEntry]:
        """Entries that are not complete."""
        return [entry for entry in self.entries if entry.key in self.rows]

    @property
    def rows_of_source(self) -> dict[str, NDArray[np.int64]]:
        """Rows of the origin to read, ascending, by the name of the source that is read."""
        sources = dict.fromkeys(entry.source for entry in self.missing)
        return {name: self._rows_where(lambda entry, name=name: entry.source == name) for name in sources}  # type: ignore[misc]

    def _rows_where(self, is_wanted: Callable[[CacheEntry], bool]) -> NDArray[np.int64]:
        found = [self.rows[entry.key] for entry in self.missing if is_wanted(entry)]
        return np.unique(np.concatenate(found))

    def rows_to_load(self, sizes: Mapping[str, int], processes: int) -> dict[str, NDArray[np.int64]]:
        """Rows that the loaders of each origin give; at least one for each process.

        Where fewer are missing than there are processes, finished rows are added, which are not read again; where the
        source is smaller (`sizes` are images of each loaded source), its first row is repeated at the end.
        """
        found: dict[str, NDArray[np.int64]] = {}
        for origin in dict.fromkeys(entry.origin for entry in self.missing):
            rows = self._rows_where(lambda entry, origin=origin: entry.origin == origin)  # type: ignore[misc]
            if len(rows):
                done = np.setdiff1d(np.arange(min(sizes[origin], len(rows) + processes)), rows)
                unique = np.sort(np.concatenate([rows, done[: max(processes - len(rows), 0)]]))
                found[origin] = np.concatenate([unique, unique[:1].repeat(max(processes - len(unique), 0))])
        return {origin: found[origin] for origin in sizes if origin in found}


def make_plan(network: nn.Module, data: ImageDataModule, probes: Sequence[Probe], cache: RecordCache) -> Plan:
    """Find out what is missing; weights and images are hashed once.

    The key of an entry covers weights and buffers, the network's structure and plain settings, the images as the
    network sees them with their ids, the perturbation with its settings, the probe with its version and settings, and
    the dtype; for a probe that is prepared on the training images, those too.
    """
    weights, structure = state_digest(network), architecture(network)
    images = {name: source.digest() for name, source in data.detection_sources.items()}
    training = data.train_source.digest() if any(probe.needs_preparation for probe in probes) else ""

    def entry(source: str, origin: str, perturbation: dict[str, object] | None, probe: Probe) -> CacheEntry:
        description: dict[str, object] = {
            "source": source,
            "images": images[origin],
            "attack": perturbation,
            "probe": probe.describe(),
            "weights": weights,
            "network": structure,
            "dtype": "float32",
            "columns": 2,  # raised when the columns of a record change
        }
        if probe.needs_preparation:
            description["training_images"] = training
        return CacheEntry(source, origin, probe.name, entry_key(description), description)

    made = data.perturbed_sources
    entries = [
        entry(*source, probe) for source in _sources(data) for probe in probes if _is_read(made.get(source[0]), probe)
    ]
    pixels = {source[0]: entry(*source, PIXELS).key for source in _sources(data) if source[2] is not None}
    rows = {one.key: _rows_to_read(one, data, cache) for one in entries if not cache.has(one.key)}
    stored = {source: key for source, key in pixels.items() if cache.has(key)}
    return Plan(entries, rows, weights, structure, training, stored)


def read_records(cache: RecordCache, entries: Sequence[CacheEntry], source: str) -> Records:
    """Read all probes of one source, joined."""
    first, *others = [cache.read(entry.key) for entry in entries if entry.source == source]
    for other in others:
        first = first.join(other)
    return first


def ids_of(data: ImageDataModule, source: str) -> list[str]:
    """Ids of a source's records, whether its images are loaded or made."""
    made = data.perturbed_sources.get(source)
    return data.detection_sources[source].ids if made is None else made.ids


def wanted_ids(plan: Plan, data: ImageDataModule) -> dict[str, list[str]]:
    """Ids that each entry of a plan should hold, by key, and those of the stored images that it reads."""
    found = {entry.key: ids_of(data, entry.source) for entry in plan.entries}
    return found | {key: ids_of(data, source) for source, key in plan.pixels.items()}


def _rows_to_read(entry: CacheEntry, data: ImageDataModule, cache: RecordCache) -> NDArray[np.int64]:
    done, made = cache.done(entry.key), data.perturbed_sources.get(entry.source)
    rows = range(len(data.detection_sources[entry.source])) if made is None else made.rows
    ids = ids_of(data, entry.source)
    return np.fromiter((row for row, name in zip(rows, ids, strict=True) if name not in done), dtype=np.int64)


def _is_read(made: PerturbedSource | None, probe: Probe) -> bool:
    return made is None or made.probes is None or probe.name in made.probes


def _sources(data: ImageDataModule) -> Iterator[tuple[str, str, dict[str, object] | None]]:
    for name in data.detection_sources:
        yield name, name, None
    for name, made in data.perturbed_sources.items():
        yield name, NORMAL, made.describe() | {"eight_bit": data.eight_bit}


_GRADIENTS = 2  # passes of a label design, beside the forward pass that all share


class Work:
    """Passes of images that one process has to read, including those of attacks, and how many are done."""

    def __init__(self) -> None:
        self.total = self.done = self.seconds = 0.0
        self.images = 0
        self._passes: dict[str, float] = {}
        self._start: float | None = None

    def plan(self, plan: Plan, data: ImageDataModule, probes: Sequence[Probe], processes: int) -> None:
        """Count the passes of this process."""
        made = data.perturbed_sources
        wanted = {(entry.source, entry.probe) for entry in plan.missing}
        for source, rows in plan.rows_of_source.items():
            read = [probe for probe in probes if (source, probe.name) in wanted]
            passes = 1.0 + _GRADIENTS * sum(isinstance(probe, GradientProbe) for probe in read)
            if source in made and source not in plan.pixels:
                passes += made[source].attack.passes
            self._passes[source] = passes
            self.total += passes * len(rows) / processes

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
