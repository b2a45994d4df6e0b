"""How long reading will take, from a few images of each source."""

import time
from collections.abc import Sequence
from functools import partial
from math import ceil

import lightning.pytorch as pl
import numpy as np
import torch
from numpy.typing import NDArray

from lightning_gradood.core import as_float, give_back_memory, progress, say
from lightning_gradood.data import ImageBatch, LoadedSource, PerturbedSource
from lightning_gradood.extraction.batch_records import BatchReader
from lightning_gradood.probes import LogitsProbe, Probe, read_probes
from lightning_gradood.records import NORMAL

_MEASURED = 0.3  # seconds that are long enough to tell a rate from, beside other jobs too
_FEWEST = 24  # images of a source on average, below which all are read before a few of each were timed


def say_estimate(reader: BatchReader, probes: Sequence[Probe], trainer: pl.Trainer) -> None:
    """Print how long reading takes, unless little is to be read; the images that are timed are not kept."""
    numbers = {source: len(rows) for source, rows in reader.plan.rows_of_source.items()}
    if sum(numbers.values()) < _FEWEST * len(numbers) or not numbers:
        return
    try:
        with torch.autocast(trainer.strategy.root_device.type, enabled=False):
            seconds = _seconds(reader, probes, trainer.strategy.root_device)
    except Exception:  # which is told where that image is read
        return
    made = sum(number for source, number in numbers.items() if source in reader.data.sources.perturbed)
    dearest, total = max(seconds, key=seconds.__getitem__), sum(seconds.values())
    beside = f" and {made:,} made of normal ones" if made else ""
    share = f" ({100 * seconds[dearest] / total:.0f} % of it for {dearest})" if len(seconds) > 1 else ""
    counted = f"{sum(numbers.values()) - made:,} images{beside}{share}"
    say(f"about {_in_words(total / trainer.world_size)} of reading: {counted}.")


def _seconds(reader: BatchReader, probes: Sequence[Probe], device: torch.device) -> dict[str, float]:
    """Seconds of each source on this process alone."""
    rows_of, loaded, found = reader.plan.rows_of_source, reader.plan.rows_to_load(1), dict[str, float]()
    for source, rows in progress(rows_of.items(), "timing a few images", len(rows_of), "sources"):
        spec = reader.data.sources.perturbed.get(source)
        origin = reader.data.sources.loaded[NORMAL if spec else source]
        wanted = [one for one in probes if one.name in reader.plan.probes_of(source)]
        timed = partial(_timed, reader, wanted, spec, origin, device)
        forward = partial(_timed, reader, [LogitsProbe()], None, origin, device)
        at_once = reader.at_once(as_float(origin.images([int(rows[0])]).to(device)))
        most = ceil(min(at_once, reader.data.probe_batch_size) * len(rows) / len(loaded[origin.name]))
        number, seconds = (
            1,
            min(timed(rows[:1]) for _ in range(2)),
        )  # what the first call prepares and compares takes longer
        while seconds < _MEASURED and number < most:
            number = min(2 * number, most)
            seconds = timed(rows[:number])
        found[source] = len(rows) * seconds / number
        if number < most:  # a larger batch takes less time an image, as that of a forward pass tells
            few, many = (min(forward(rows[:size]) / size for _ in range(2)) for size in (number, most))
            found[source] *= many / few
        give_back_memory()
    return found


def _timed(
    reader: BatchReader,
    probes: Sequence[Probe],
    spec: PerturbedSource | None,
    origin: LoadedSource,
    device: torch.device,
    rows: NDArray[np.int64],
) -> float:
    """Seconds to load, make and read these rows."""
    start = time.perf_counter()
    images, labels, index = origin.__getitems__(rows.tolist())
    batch = ImageBatch(as_float(images.to(device)), labels.to(device), index)
    made = reader.perturbed(spec, batch).images if spec else batch.images
    for values in read_probes(probes, reader.network, made).values.values():
        values.cpu()
    return time.perf_counter() - start


def _in_words(seconds: float) -> str:
    if seconds < 100:
        return f"{max(5 * round(seconds / 5), 5)} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 6000 else f"{seconds / 3600:.1f} hours"
