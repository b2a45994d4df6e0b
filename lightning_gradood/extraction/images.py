"""The images of one batch as each source has them: unchanged, perturbed now, or stored by an earlier run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_gradood.core import Portions, Profiler
from lightning_gradood.data import ImageBatch, ImageDataModule, PerturbedSource
from lightning_gradood.extraction.plan import PIXELS, Plan
from lightning_gradood.perturbations import Crafted, noise_like
from lightning_gradood.records import NORMAL, RecordCache, Records

_ACHIEVED = ("attack", "success", "target_hit", "l2", "linf")


@dataclass(frozen=True)
class SourceImages:
    """Images float [n, C, H, W] of one batch as one source has them, with record ids and labels (-1 = unknown).

    `origins` are ids of the images they are made of. `spec` (the perturbed source) and `made` (images before and after,
    or an earlier run's records of them) are None where the images are unchanged.
    """

    source: str
    images: Tensor
    labels: list[int]
    ids: list[str]
    origins: list[str]
    spec: PerturbedSource | None = None
    made: Crafted | Records | None = None

    def at(self, rows: Sequence[int]) -> "SourceImages":
        """The images at these rows."""
        if len(rows) == len(self.ids):
            return self
        return replace(
            self,
            images=self.images[torch.tensor(list(rows), dtype=torch.int64, device=self.images.device)],
            labels=[self.labels[row] for row in rows],
            ids=[self.ids[row] for row in rows],
            origins=[self.origins[row] for row in rows],
            made=None if self.made is None else self.made.at(rows),
        )

    def columns(self, logits: Tensor | None) -> dict[str, list[Any]]:
        """Columns of records beside their probes; without `logits` (not finite there) no prediction and no success."""
        columns: dict[str, list[Any]] = {"origin_id": self.origins, "label": self.labels}
        if logits is None:
            if self.spec is not None and not self.spec.noise:
                columns |= {"attack": [self.source] * len(self.ids), "success": [False] * len(self.ids)}
            return columns
        columns["prediction"] = logits.argmax(dim=1).tolist()
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


@dataclass
class ImageMaker:
    """Makes the images that a plan asks for out of the loaders' batches, perturbed ones in memory-sized `portions`."""

    data: ImageDataModule
    network: nn.Module
    plan: Plan
    cache: RecordCache
    portions: Portions
    profiler: Profiler

    def __post_init__(self) -> None:
        self._rows = self.plan.rows_of_source
        made = self.data.perturbed_sources
        self._made_of = {name: np.asarray(made[name].rows) for name in self._rows if name in made}

    def of_batch(self, source: str, batch: ImageBatch) -> Iterator[SourceImages]:
        """Yield the images of a batch that the plan asks for, source by source."""
        ids = self.data.detection_sources[source].ids
        part = _chosen(batch, self._rows.get(source))
        if part:
            names = [ids[row] for row in part.rows.tolist()]
            yield SourceImages(source, part.images, part.labels.tolist(), names, names)
        for spec in self.data.perturbed_sources.values() if source == NORMAL else ():
            part = _chosen(batch, self._rows.get(spec.name))
            if part:
                with self.profiler.profile(f"gradood: making {spec.name}"):
                    perturbed = self._perturbed(spec, part)
                yield perturbed

    def _perturbed(self, spec: PerturbedSource, batch: ImageBatch) -> SourceImages:
        places = np.searchsorted(self._made_of[spec.name], batch.rows.cpu().numpy()).tolist()
        ids, origins = [spec.ids[index] for index in places], [spec.origins[index] for index in places]
        labels, key = batch.labels.tolist(), self.plan.pixels.get(spec.name)
        if key is not None:
            stored = self.cache.rows(key, ids)
            values = torch.from_numpy(stored.probe(PIXELS.name).astype(np.float32))
            images = values.reshape(batch.images.shape).to(batch.images)
            return SourceImages(spec.name, images, labels, ids, origins, spec, stored)

        def craft(rows: slice) -> Crafted:
            """Change a portion."""
            return spec.attack.craft(self.network, batch.images[rows], batch.labels[rows], origins[rows])

        crafted = Crafted.concatenate(self.portions.run(craft, len(ids)))
        if spec.noise:
            crafted = noise_like(crafted, origins)
        if self.data.eight_bit:
            crafted = crafted.eight_bit()
        return SourceImages(spec.name, crafted.images, labels, ids, origins, spec, crafted)


def _chosen(batch: ImageBatch, rows: NDArray[np.int64] | None) -> ImageBatch | None:
    """The part of a batch that lies in the ascending `rows`; None if there is none."""
    if rows is None or not len(rows):
        return None
    own = batch.rows.cpu().numpy()
    index = np.flatnonzero(rows[np.searchsorted(rows, own).clip(max=len(rows) - 1)] == own)
    if len(index) == len(own):
        return batch
    where = torch.from_numpy(index).to(batch.images.device)
    return ImageBatch(*(column[where.to(column.device)] for column in batch)) if len(index) else None
