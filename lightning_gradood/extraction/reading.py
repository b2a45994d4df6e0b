"""Reading the images of one source, with images for which the network is not finite, and too little memory."""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from lightning_gradood.core import NotFinite, Portions, Refusal, say
from lightning_gradood.extraction.images import SourceImages
from lightning_gradood.probes import PixelProbe, Probe, ProbeReadings, read_probes
from lightning_gradood.records import NORMAL, Records

OnBadImage = Literal["refuse", "skip"]  # what is done with an image for which the network gives NaN or infinity

_SHOWN = 5  # names in a sentence


class ImageReader:
    """Reads probes of images in portions that fit into memory.

    With `on_bad_image` = `skip`, images for which something is not finite get records of NaN without a prediction.
    """

    def __init__(self, network: nn.Module, portions: Portions, on_bad_image: OnBadImage = "refuse") -> None:
        self.network, self.portions, self.on_bad_image = network, portions, on_bad_image
        self._widths: dict[str, int] = {}

    def records(self, probes: Sequence[Probe], images: SourceImages) -> Iterator[tuple[str, Records]]:
        """Yield each probe's name with its records."""

        def read(rows: slice) -> list[tuple[SourceImages, ProbeReadings | None]]:
            return self._read(probes, images.at(range(rows.start, rows.stop)))

        for part, readings in (pair for found in self.portions.run(read, len(images.ids)) for pair in found):
            columns = part.columns(None if readings is None else readings.logits)
            source = part.source if part.spec is None else NORMAL
            for probe in probes:
                values = self._nothing(probe, part) if readings is None else readings.values[probe.name]
                yield (
                    probe.name,
                    Records.build(
                        part.ids,
                        source=source,
                        values={probe.name: np.asarray(values.detach().cpu().numpy())},
                        names={probe.name: probe.names(self.network)},
                        **columns,
                    ),
                )

    def _read(self, probes: Sequence[Probe], images: SourceImages) -> list[tuple[SourceImages, ProbeReadings | None]]:
        """Readings of images, None for those for which something is not finite."""
        try:
            readings = read_probes(probes, self.network, images.images)
        except NotFinite as error:
            number = len(images.ids)
            bad = sorted({row % number for row in error.rows}) or list(range(number))  # views of images are stacked
            self._say_bad(images, bad, error)
            good = [row for row in range(number) if row not in set(bad)]
            return [*(self._read(probes, images.at(good)) if good else []), (images.at(bad), None)]
        except Refusal as refusal:
            raise Refusal(f"{refusal} The batch holds {images.ids[0]} to {images.ids[-1]}.") from refusal
        self._widths |= {name: values.shape[1] for name, values in readings.values.items()}
        return [(images, readings)]

    def _say_bad(self, images: SourceImages, bad: Sequence[int], error: NotFinite) -> None:
        names = [images.ids[row] for row in bad]
        shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
        if self.on_bad_image == "refuse":
            raise NotFinite(
                f"{error} These are {shown}; `--detection.on_bad_image skip` goes on without them.", bad
            ) from error
        if not self._widths and len(bad) == len(images.ids):
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
        return torch.full((len(images.ids), self._widths[probe.name]), torch.nan, dtype=torch.float64)


def leave_out_bad(
    records: dict[str, Records], on_bad_image: OnBadImage
) -> tuple[dict[str, Records], dict[str, list[str]]]:
    """Leave out images for which the network or a probe was not finite, or refuse them.

    Returns:
        The records, by source, of all other images, and by source the ids of those left out. With `on_bad_image` =
        `refuse` those that an earlier run has skipped are refused.
    """
    finite = {source: table.finite for source, table in records.items()}
    left_out = {
        source: [records[source].ids[row] for row in np.flatnonzero(~rows)]
        for source, rows in finite.items()
        if not rows.all()
    }
    if left_out and on_bad_image == "refuse":
        source, names = next(iter(left_out.items()))
        raise NotFinite(
            f"the network should be finite for every image. Got records of an earlier run in which it was not for {len(names)} "
            f"images of `{source}`, such as {names[0]}. Look at these images and at the network's weights, or go on without "
            "them with `--detection.on_bad_image skip`."
        )
    kept = {
        source: table if finite[source].all() else table.at(np.flatnonzero(finite[source]).tolist())
        for source, table in records.items()
    }
    return kept, left_out
