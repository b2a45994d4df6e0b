"""The cache entries that an experiment needs, one for each source and probe, and what each depends on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from lightning_gradood.data import ImageDataModule
from lightning_gradood.networks import architecture, state_digest
from lightning_gradood.probes import Probe
from lightning_gradood.records import NORMAL, RecordCache, Records, entry_key


@dataclass(frozen=True)
class Entry:
    """One cache entry: one probe on one source.

    Args:
        source: the source's name.
        origin: the source whose images are loaded: itself, or that which an attack or corruption is made of.
        probe: the probe's name.
        key: digest of the description.
        description: JSON-able text of everything the entry depends on.
    """

    source: str
    origin: str
    probe: str
    key: str
    description: dict[str, object]


def entries_of(network: nn.Module, datamodule: ImageDataModule, probes: Sequence[Probe]) -> list[Entry]:
    """Name the entries of every source and probe.

    The key covers the weights and buffers, the network's structure and plain settings, the images as the
    network sees them with their ids, the attack with its settings, the probe with its version and settings, and the
    dtype; for a probe that is prepared on the training images, those too.
    """
    weights, structure = state_digest(network), architecture(network)
    entries = []
    for source, origin, perturbation in _sources(datamodule):
        for probe in probes:
            description: dict[str, object] = {
                "source": source,
                "images": datamodule.detection_sources[origin].digest(),
                "attack": perturbation,
                "probe": probe.describe(),
                "weights": weights,
                "network": structure,
                "dtype": "float32",
                "columns": 2,  # raised when the columns of a record change
            }
            if probe.needs_preparation:
                description["training_images"] = datamodule.train_source.digest()
            entries.append(Entry(source, origin, probe.name, entry_key(description), description))
    return entries


def read_records(cache: RecordCache, entries: Sequence[Entry], source: str) -> Records:
    """Read all probes of one source, joined."""
    first, *others = [cache.read(entry.key) for entry in entries if entry.source == source]
    for other in others:
        first = first.join(other)
    return first


def ids_of(datamodule: ImageDataModule, source: str) -> list[str]:
    """The ids of a source's records, whether its images are loaded or made."""
    twins = datamodule.twins.get(source)
    return datamodule.detection_sources[source].ids if twins is None else twins.ids


def rows_of(datamodule: ImageDataModule, source: str) -> list[int]:
    """For each of these ids the row of the loaded image."""
    twins = datamodule.twins.get(source)
    return list(range(len(datamodule.detection_sources[source]))) if twins is None else twins.rows


def _sources(datamodule: ImageDataModule) -> Iterator[tuple[str, str, dict[str, object] | None]]:
    """Name, origin and perturbation of every source."""
    for name in datamodule.detection_sources:
        yield name, name, None
    for name, twins in datamodule.twins.items():
        yield name, NORMAL, twins.describe() | {"eight_bit": datamodule.eight_bit}
