"""The records of one batch: its images as each source has them, and what the probes read from the network for them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch.profilers import Profiler
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_gradood.core import NotFinite, Portions, Refusal, say
from lightning_gradood.data import ImageBatch, ImageDataModule, PerturbedSource
from lightning_gradood.extraction.entries import PIXELS, Plan
from lightning_gradood.gradients import images_at_once
from lightning_gradood.perturbations import Crafted, noise_like
from lightning_gradood.probes import PixelProbe, Probe, ProbeReadings, read_probes
from lightning_gradood.records import NORMAL, RecordCache, Records

OnBadImage = Literal["refuse", "skip"]  # what is done with an image for which the network gives NaN or infinity

_SHOWN = 5  # names in a sentence


@dataclass(frozen=True)
class SourceImages:
    """Images float [n, C, H, W] of one batch as one source has them, with record ids and labels (-1 = unknown).

    `spec` is their perturbed source, `made` the images before and after or an earlier run's records of them.
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
            images=self.images[torch.tensor(list(rows), device=self.images.device)],
            labels=[self.labels[row] for row in rows],
            ids=[self.ids[row] for row in rows],
            origins=[self.origins[row] for row in rows],
            made=None if self.made is None else self.made.at(rows),
        )

    def columns(self, logits: Tensor | None) -> dict[str, list[Any]]:
        """Columns of records beside their probes; without `logits` (not finite there) no prediction and no success."""
        number = len(self.ids)
        columns: dict[str, list[Any]] = {"origin_id": self.origins, "label": self.labels}
        if self.spec is not None and not self.spec.noise:  # noise is no attack and has nothing to succeed in
            columns |= {"attack": [self.source] * number, "success": [False] * number}
        if logits is None:
            return columns
        columns["prediction"] = logits.argmax(dim=1).tolist()
        if isinstance(self.made, Records):
            columns |= {name: self.made.column(name).tolist() for name in ("success", "target_hit", "l2", "linf")}
        elif self.made is not None:
            perturbed = self.made.judge(logits)
            columns |= {"l2": perturbed.l2.tolist(), "linf": perturbed.linf.tolist()}
            if "success" in columns:
                columns["success"] = perturbed.success.tolist()
                if perturbed.target_hit is not None:
                    columns["target_hit"] = perturbed.target_hit.tolist()
        return columns


@dataclass
class BatchReader:
    """Reads from a network what a plan asks for, in portions that fit into memory.

    Images are unchanged, perturbed now, or stored by an earlier run. With `on_bad_image` = `skip`, those for which
    something is not finite get records of NaN without a prediction.
    """

    network: nn.Module
    data: ImageDataModule
    plan: Plan
    cache: RecordCache
    on_bad_image: OnBadImage
    profiler: Profiler

    def __post_init__(self) -> None:
        self._rows, self._portions = self.plan.rows_of_source, Portions()
        made = self.data.sources.perturbed
        self._made_of = {name: np.asarray(made[name].rows) for name in self._rows if name in made}
        self._empty: dict[str, Tensor] = {}  # no rows of each probe, of the width and type of its readings
        self._names: dict[str, list[str]] = {}  # of the columns that were read last
        self._at_once = 0  # images whose activations fit into memory; 0 while not known

    def parts(self, batch: ImageBatch) -> Iterator[ImageBatch]:
        """Cut a batch into parts whose activations take little memory, however large network and images are."""
        at_once = self.at_once(batch.images)
        for parts in zip(*(torch.split(column, at_once) for column in batch), strict=True):
            yield ImageBatch(*parts)

    def at_once(self, images: Tensor) -> int:
        """Count the images like these that are read at once."""
        if not self._at_once:
            self._at_once = self.data.probe_batch_size
            with suppress(Exception):  # a network that takes no single image
                if self.plan.missing:
                    self._at_once = images_at_once(self.network, images[:1])
        return self._at_once

    def number_of(self, origin: str) -> int:
        """Count the images to read, unchanged or perturbed, for which those of `origin` are loaded."""
        named = [origin, *self._made_of] if origin == NORMAL else [origin]
        return sum(len(self._rows.get(name, ())) for name in named)

    def images_of(self, source: str, batch: ImageBatch) -> Iterator[SourceImages]:
        """Yield the images of a batch that the plan asks for, source by source."""
        ids = self.data.sources.loaded[source].ids
        part = _chosen(batch, self._rows.get(source))
        if part:
            names = [ids[row] for row in part.rows.tolist()]
            yield SourceImages(source, part.images, part.labels.tolist(), names, names)
        for spec in self.data.sources.perturbed.values() if source == NORMAL else ():
            part = _chosen(batch, self._rows.get(spec.name))
            if part:
                with self.profiler.profile(f"gradood: making {spec.name}"):
                    perturbed = self.perturbed(spec, part)
                yield perturbed

    def perturbed(self, spec: PerturbedSource, batch: ImageBatch) -> SourceImages:
        """Make the images of a perturbed source of normal images, or take them from an earlier run."""
        places = np.searchsorted(self._made_of[spec.name], batch.rows.cpu().numpy()).tolist()
        ids, origins = [spec.ids[index] for index in places], [spec.origins[index] for index in places]
        labels, key = batch.labels.tolist(), self.plan.pixels.get(spec.name)
        if key is not None:
            stored = self.cache.rows(key, ids)
            values = torch.from_numpy(stored.probe(PIXELS.name).astype(np.float32))
            images = values.reshape(batch.images.shape).to(batch.images)
            return SourceImages(spec.name, images, labels, ids, origins, spec, stored)
        craft = partial(spec.attack.craft, self.network)
        portions = self._portions.run(lambda r: craft(batch.images[r], batch.labels[r], origins[r]), len(ids))
        crafted = Crafted.concatenate(portions)
        if spec.noise:
            crafted = noise_like(crafted, origins)
        if spec.eight_bit:
            crafted = crafted.eight_bit()
        return SourceImages(spec.name, crafted.images, labels, ids, origins, spec, crafted)

    def read(self, probes: Sequence[Probe], images: SourceImages) -> list[tuple[SourceImages, ProbeReadings | None]]:
        """Return the parts of the images with their readings, None for those for which something is not finite."""
        every = range(len(images.ids))
        portions = self._portions.run(lambda rows: self._read(probes, images.at(every[rows])), len(every))
        return [part for portion in portions for part in portion]

    def record(self, probe: Probe, images: SourceImages, readings: ProbeReadings | None) -> Records:
        """Return a probe's records of images that were read."""
        values = self._nothing(probe, images) if readings is None else readings.values[probe.name]
        return Records.build(
            images.ids,
            source=images.source if images.spec is None else NORMAL,
            values={probe.name: np.asarray(values.detach().cpu().numpy())},
            names={probe.name: self._names.get(probe.name, [])},
            **images.columns(None if readings is None else readings.logits),
        )

    def _read(self, probes: Sequence[Probe], images: SourceImages) -> list[tuple[SourceImages, ProbeReadings | None]]:
        try:
            readings = read_probes(probes, self.network, images.images)
        except NotFinite as error:
            number = len(images.ids)
            bad = sorted({row % number for row in error.rows}) or list(range(number))  # views of images are stacked
            self._refuse_or_say(images, bad, error)
            good = [row for row in range(number) if row not in set(bad)]
            return [*(self._read(probes, images.at(good)) if good else []), (images.at(bad), None)]
        except Refusal as refusal:
            raise Refusal(f"{refusal} The batch holds {images.ids[0]} to {images.ids[-1]}.") from refusal
        self._names |= readings.names
        self._empty |= {name: values[:0] for name, values in readings.values.items()}
        return [(images, readings)]

    def _refuse_or_say(self, images: SourceImages, bad: Sequence[int], error: NotFinite) -> None:
        names = [images.ids[row] for row in bad]
        shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
        if self.on_bad_image == "refuse":
            raise NotFinite(
                f"{error} These are {shown}; `--detection.on_bad_image skip` goes on without them.", bad
            ) from error
        if not self._empty and len(bad) == len(images.ids):
            raise NotFinite(
                f"the network should be finite. Got NaN or infinity for every one of the first {len(bad)} images. Look at its "
                "weights, and at what normalises its images."
            ) from error
        why = str(error).partition(" should be finite")[0]
        say(f"{images.source}: {why} are not finite for {len(names)} images, which are left out: {shown}.")

    def _nothing(self, probe: Probe, images: SourceImages) -> Tensor:
        """The record of images that have no reading: NaN, but their pixels are kept."""
        if isinstance(probe, PixelProbe):
            return probe(self.network, images.images)
        empty = self._empty[probe.name]
        return empty.new_full((len(images.ids), empty.shape[1]), torch.nan)


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


def leave_out_bad(
    records: Mapping[str, Records], on_bad_image: OnBadImage
) -> tuple[dict[str, Records], dict[str, list[str]]]:
    """Leave out, or refuse, images for which the network or a probe was not finite.

    Returns:
        By source the records of all other images, and the ids of those left out where there are any.
    """
    kept, left_out = dict(records), dict[str, list[str]]()
    for source, table in records.items():
        if (finite := table.finite).all():
            continue
        kept[source] = table.at(np.flatnonzero(finite).tolist())
        bad = left_out[source] = table.at(np.flatnonzero(~finite).tolist()).ids
        if on_bad_image == "refuse":
            raise NotFinite(
                f"the network should be finite for every image. Got records of an earlier run in which it was not for "
                f"{len(bad)} images of `{source}`, such as {bad[0]}. Look at these images and at the network's weights, or "
                "go on without them with `--detection.on_bad_image skip`."
            )
    return kept, left_out
