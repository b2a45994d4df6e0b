"""The images of one batch as each source has them: unchanged, or perturbed now or by an earlier run."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_gradood.attacks import noise_like
from lightning_gradood.core import Crafted
from lightning_gradood.data import ImageBatch, ImageDataModule, Twins
from lightning_gradood.extraction.plan import entries_of
from lightning_gradood.probes import PixelProbe
from lightning_gradood.records import NORMAL, RecordCache, Records

_PIXELS = PixelProbe("float32")  # a rounded image may lie on the other side of the boundary that its attack has crossed


class KeptImages:
    """What `--data.keep_pixels float32` has put into the cache, for the sources of one experiment.

    Args:
        network: what the attacks were aimed at.
        data: knows the sources.
        cache: where records are.
    """

    def __init__(self, network: nn.Module, data: ImageDataModule, cache: RecordCache) -> None:
        made = [entry for entry in entries_of(network, data, [_PIXELS]) if entry.source in data.twins]
        self._keys: Mapping[str, str] = {entry.source: entry.key for entry in made if cache.has(entry.key)}
        self._cache = cache

    def find(self, source: str, ids: Sequence[str]) -> Records | None:
        """The records that hold these images; None if that source was not kept."""
        return self._cache.rows(self._keys[source], ids) if source in self._keys else None


def pixels_of(kept: Records, like: Tensor) -> Tensor:
    """The images of records, in the shape and dtype and on the device of `like` [n, C, H, W]."""
    pixels = kept.probe(_PIXELS.name).astype(np.float32)
    return torch.from_numpy(pixels).reshape(like.shape).to(like)


_ACHIEVED = ("attack", "success", "target_hit", "l2", "linf")


@dataclass(frozen=True)
class Version:
    """Images of one batch as one source holds them.

    Args:
        source: the source.
        images: float [n, C, H, W].
        labels: class indices, -1 where unknown.
        ids: of their records.
        origins: ids of the clean images.
        twins: what was done to them; None if nothing was.
        crafted: the images beside the clean ones, for what is measured on them.
        kept: their records instead, if an earlier run crafted and measured them.
    """

    source: str
    images: Tensor
    labels: list[int]
    ids: list[str]
    origins: list[str]
    twins: Twins | None = None
    crafted: Crafted | None = None
    kept: Records | None = None

    def columns(self, logits: Tensor) -> dict[str, list[Any]]:
        """What a record says beside its probes, given the network's logits on the images."""
        columns: dict[str, list[Any]] = {
            "origin_id": self.origins,
            "label": self.labels,
            "prediction": logits.argmax(dim=1).tolist(),
        }
        if self.kept is not None:
            return columns | {name: self.kept.column(name).tolist() for name in _ACHIEVED}
        if self.twins is None or self.crafted is None:
            return columns
        perturbed = self.crafted.judge(logits)
        columns |= {"l2": perturbed.l2.tolist(), "linf": perturbed.linf.tolist()}
        if not self.twins.noise:  # noise is on the normal side: no attack, and nothing to succeed in
            columns |= {"attack": [self.source] * len(self.ids), "success": perturbed.success.tolist()}
            if perturbed.target_hit is not None:
                columns["target_hit"] = perturbed.target_hit.tolist()
        return columns


def versions(
    data: ImageDataModule,
    network: nn.Module,
    source: str,
    batch: ImageBatch,
    todo: Mapping[str, Collection[int]],
    kept: KeptImages,
) -> Iterator[Version]:
    """Yield the versions of a batch that are asked for, each made when its turn comes.

    Args:
        data: knows the sources.
        network: what attacks are aimed at.
        source: whose images the batch holds.
        batch: images, labels and rows of that source.
        todo: the rows asked for, by name of the version's source.
        kept: images that need not be crafted again.
    """
    ids = data.detection_sources[source].ids
    part = _chosen(batch, todo.get(source, ()))
    if part:
        names = [ids[row] for row in part.rows.tolist()]
        yield Version(source, part.images, part.labels.tolist(), names, names)
    for name in data.twins if source == NORMAL else ():
        part = _chosen(batch, todo.get(name, ()))
        if part:
            yield _crafted_version(name, network, part, data, kept)


def _crafted_version(
    name: str, network: nn.Module, batch: ImageBatch, data: ImageDataModule, kept: KeptImages
) -> Version:
    twins, labels = data.twins[name], batch.labels.tolist()
    place = {row: index for index, row in enumerate(twins.rows)}
    places = [place[row] for row in batch.rows.tolist()]
    ids, origins = [twins.ids[index] for index in places], [twins.origins[index] for index in places]
    found = kept.find(name, ids)
    if found is not None:
        return Version(name, pixels_of(found, batch.images), labels, ids, origins, twins, kept=found)
    crafted = twins.attack.craft(network, batch.images, batch.labels, origins)
    if twins.noise:
        crafted = noise_like(crafted, origins)
    if data.eight_bit:
        crafted = crafted.eight_bit()
    return Version(name, crafted.images, labels, ids, origins, twins, crafted)


def _chosen(batch: ImageBatch, rows: Collection[int]) -> ImageBatch | None:
    """The part of a batch that lies in `rows`; None if there is none."""
    index = [place for place, row in enumerate(batch.rows.tolist()) if row in rows]
    if len(index) == len(batch.rows):
        return batch
    where = torch.tensor(index, dtype=torch.int64, device=batch.images.device)
    return ImageBatch(*(column[where.to(column.device)] for column in batch)) if index else None
