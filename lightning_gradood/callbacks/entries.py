"""Which cache entries an experiment needs, and what each depends on."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from lightning_gradood.data import ImageDataModule
from lightning_gradood.networks import architecture, state_digest
from lightning_gradood.probes import Probe
from lightning_gradood.records import entry_key


@dataclass(frozen=True)
class Entry:
    """One cache entry: one probe on one source.

    Args:
        source: the source's name.
        probe: the probe's name.
        key: digest of the description.
        description: JSON-able text of everything the entry depends on.
    """

    source: str
    probe: str
    key: str
    description: dict[str, object]


def entries_of(network: nn.Module, datamodule: ImageDataModule, probes: Sequence[Probe]) -> list[Entry]:
    """Name the entries of every source and probe.

    The key covers the weights and buffers, the network's structure and plain settings, the images as the
    network sees them with their ids, the attack, the probe with its version and settings, and the dtype.
    """
    weights, structure = state_digest(network), architecture(network)
    entries = []
    for name, source in datamodule.detection_sources.items():
        for probe in probes:
            description: dict[str, object] = {
                "source": name,
                "images": source.digest(),
                "attack": None,
                "probe": probe.describe(),
                "weights": weights,
                "network": structure,
                "dtype": "float32",
            }
            entries.append(Entry(name, probe.name, entry_key(description), description))
    return entries
