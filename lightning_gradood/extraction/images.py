"""The images of one batch as each source has them: unchanged, perturbed now, or perturbed and stored by an earlier run."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_gradood.attacks import noise_like
from lightning_gradood.core import Crafted
from lightning_gradood.data import ImageBatch, ImageDataModule, PerturbedSource
from lightning_gradood.extraction.plan import PIXELS, Plan
from lightning_gradood.records import NORMAL, RecordCache, Records

_ACHIEVED = ("attack", "success", "target_hit", "l2", "linf")


@dataclass(frozen=True)
class SourceImages:
    """Images of one batch as one source has them.

    Args:
        source: the source's name.
        images: float [n, C, H, W].
        labels: class indices, -1 where unknown.
        ids: of their records.
        origins: ids of the images they are made of.
        spec: the perturbed source; None where the images are unchanged.
        made: the images beside the unchanged ones, for what is measured on them; an earlier run's records, if it stored the
            images; None where they are unchanged.
    """

    source: str
    images: Tensor
    labels: list[int]
    ids: list[str]
    origins: list[str]
    spec: PerturbedSource | None = None
    made: Crafted | Records | None = None

    def columns(self, logits: Tensor) -> dict[str, list[Any]]:
        """Columns of the records beside their probes, given the network's logits [n, classes] on the images."""
        columns: dict[str, list[Any]] = {
            "origin_id": self.origins,
            "label": self.labels,
            "prediction": logits.argmax(dim=1).tolist(),
        }
        if isinstance(self.made, Records):
            return columns | {name: self.made.column(name).tolist() for name in _ACHIEVED}
        if self.spec is None or self.made is None:
            return columns
        perturbed = self.made.judge(logits)
        columns |= {"l2": perturbed.l2.tolist(), "linf": perturbed.linf.tolist()}
        if not self.spec.noise:  # noise is on the normal side: no attack, and nothing to succeed in
            columns |= {"attack": [self.source] * len(self.ids), "success": perturbed.success.tolist()}
            if perturbed.target_hit is not None:
                columns["target_hit"] = perturbed.target_hit.tolist()
        return columns


def images_of_batch(
    data: ImageDataModule, network: nn.Module, source: str, batch: ImageBatch, plan: Plan, cache: RecordCache
) -> Iterator[SourceImages]:
    """Yield the images of a batch that the plan asks for, those of each source when its turn comes.

    Args:
        data: sources and perturbations.
        network: what attacks are aimed at.
        source: the source whose images the batch holds.
        batch: images, labels and rows of that source.
        plan: says which rows of which source are to be read.
        cache: where an earlier run may have stored perturbed images.
    """
    ids, rows = data.detection_sources[source].ids, plan.rows_of_source
    part = _chosen(batch, rows.get(source, ()))
    if part:
        names = [ids[row] for row in part.rows.tolist()]
        yield SourceImages(source, part.images, part.labels.tolist(), names, names)
    for spec in data.perturbed_sources.values() if source == NORMAL else ():
        part = _chosen(batch, rows.get(spec.name, ()))
        if part:
            yield _perturbed(spec, network, part, data.eight_bit, plan.pixels, cache)


def _perturbed(
    spec: PerturbedSource,
    network: nn.Module,
    batch: ImageBatch,
    eight_bit: bool,
    pixels: Mapping[str, str],
    cache: RecordCache,
) -> SourceImages:
    place, labels = {row: index for index, row in enumerate(spec.rows)}, batch.labels.tolist()
    places = [place[row] for row in batch.rows.tolist()]
    ids, origins = [spec.ids[index] for index in places], [spec.origins[index] for index in places]
    if spec.name in pixels:
        stored = cache.rows(pixels[spec.name], ids)
        values = torch.from_numpy(stored.probe(PIXELS.name).astype(np.float32))
        images = values.reshape(batch.images.shape).to(batch.images)
        return SourceImages(spec.name, images, labels, ids, origins, spec, stored)
    crafted = spec.attack.craft(network, batch.images, batch.labels, origins)
    if spec.noise:
        crafted = noise_like(crafted, origins)
    if eight_bit:
        crafted = crafted.eight_bit()
    return SourceImages(spec.name, crafted.images, labels, ids, origins, spec, crafted)


def _chosen(batch: ImageBatch, rows: Collection[int]) -> ImageBatch | None:
    """The part of a batch that lies in `rows`; None if there is none."""
    index = [place for place, row in enumerate(batch.rows.tolist()) if row in rows]
    if len(index) == len(batch.rows):
        return batch
    where = torch.tensor(index, dtype=torch.int64, device=batch.images.device)
    return ImageBatch(*(column[where.to(column.device)] for column in batch)) if index else None
