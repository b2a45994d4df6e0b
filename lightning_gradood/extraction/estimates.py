"""How long reading will take, from a few images of each source."""

import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from math import ceil

import lightning.pytorch as pl
import torch

from lightning_gradood.core import as_float, give_back_memory, progress, say
from lightning_gradood.data import ImageBatch
from lightning_gradood.extraction.batch_records import BatchReader, SourceImages
from lightning_gradood.probes import Probe, read_probes
from lightning_gradood.records import NORMAL

_MEASURED = 0.1  # seconds that are long enough to tell from how long an image takes to make
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
    """Seconds of each source on this process alone; reading is timed once for all sources of the same probes and batches."""
    rows_of, loaded, found = reader.plan.rows_of_source, reader.plan.rows_to_load(1), dict[str, float]()
    once = cache(lambda names, size: _reading([one for one in probes if one.name in names], reader, batch, size))
    for source, rows in progress(rows_of.items(), "timing a few images", len(rows_of), "sources"):
        spec = reader.data.sources.perturbed.get(source)
        origin = reader.data.sources.loaded[NORMAL if spec else source]
        at_once = reader.at_once(as_float(origin.images([int(rows[0])]).to(device)))
        share = min(at_once, reader.data.probe_batch_size) * len(rows) / len(loaded[origin.name])
        most, start = min(ceil(share), len(rows)), time.perf_counter()
        images, labels, index = origin.__getitems__(rows[:most].tolist())
        batch = ImageBatch(as_float(images.to(device)), labels.to(device), index)
        making = (time.perf_counter() - start) / most
        if spec:  # whose normal images are loaded once for all sources
            number, making = _making(partial(reader.perturbed, spec), batch)
            if number < most:  # a larger batch takes less time an image, as that of a forward pass tells
                making *= once(frozenset(), most) / once(frozenset(), number)
        found[source] = len(rows) * (making + once(frozenset(reader.plan.keys_of(source)), most))
        give_back_memory()
    return found


def _reading(probes: Sequence[Probe], reader: BatchReader, batch: ImageBatch, size: int) -> float:
    """Seconds to read an image in batches of this size; the first call, which prepares and compares, is not timed."""
    read_probes(probes, reader.network, batch.images[:1])
    start = time.perf_counter()
    read_probes(probes, reader.network, batch.images[:size]).logits.cpu()
    return (time.perf_counter() - start) / size


def _making(make: Callable[[ImageBatch], SourceImages], batch: ImageBatch) -> tuple[int, float]:
    """Of how many images making was timed, and the seconds for each: the first twice, then more until it takes long."""
    number, seconds = 1, 0.0
    for number in (1, *(min(2**power, len(batch.rows)) for power in range(len(batch.rows).bit_length() + 1))):
        some = ImageBatch(*(column[:number] for column in batch))
        start = time.perf_counter()
        make(some).images.cpu()
        seconds = time.perf_counter() - start
        if seconds > _MEASURED:
            break
    return number, seconds / number


def _in_words(seconds: float) -> str:
    if seconds < 100:
        return f"{max(5 * round(seconds / 5), 5)} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 6000 else f"{seconds / 3600:.1f} hours"
