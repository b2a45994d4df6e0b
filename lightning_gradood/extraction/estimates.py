"""How long reading will take, from a few images of each source."""

import time
from collections.abc import Callable, Sequence
from functools import partial

import lightning.pytorch as pl
import torch

from lightning_gradood.core import as_float, give_back_memory, progress, say
from lightning_gradood.data import ImageBatch, PerturbedSource
from lightning_gradood.extraction.batch_records import BatchReader
from lightning_gradood.probes import Probe, read_probes
from lightning_gradood.records import NORMAL

_MEASURED = 0.2  # seconds that are long enough to tell a rate from
_FEWEST = 32  # images of a source on average, below which all are read before a few of each were timed


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
    plan, data = reader.plan, reader.data
    rows_of, loaded = plan.rows_of_source, plan.rows_to_load(1)
    rates, found = dict[object, float](), dict[str, float]()
    for source, rows in progress(rows_of.items(), "timing a few images", len(rows_of), "sources"):
        spec = data.sources.perturbed.get(source)
        origin = data.sources.loaded[NORMAL if spec else source]
        start = time.perf_counter()
        first = as_float(origin.images(rows[:1].tolist()).to(device))
        loading = 0.0 if spec or origin.in_memory else (time.perf_counter() - start) / max(data.num_workers, 1)
        portion = min(reader.at_once(first), data.probe_batch_size) * len(rows) / len(loaded[origin.name])
        images, labels, index = origin.__getitems__(rows[: max(1, round(portion))].tolist())
        batch = ImageBatch(as_float(images.to(device)), labels.to(device), index)
        making = _rate(partial(_make, reader, spec, batch), len(index)) if spec else 0.0
        key = plan.probes_of(source), len(index).bit_length()
        if key not in rates:
            read = partial(_read, reader, [one for one in probes if one.name in key[0]], batch)
            read(1)  # the first call prepares, and compares gradients
            rates[key] = _rate(read, len(index))
        found[source] = len(rows) * (loading + making + rates[key])
        give_back_memory()
    return found


def _make(reader: BatchReader, spec: PerturbedSource, batch: ImageBatch, number: int) -> None:
    reader.perturbed(spec, ImageBatch(*(column[:number] for column in batch))).images.cpu()


def _read(reader: BatchReader, probes: Sequence[Probe], batch: ImageBatch, number: int) -> None:
    for values in read_probes(probes, reader.network, batch.images[:number]).values.values():
        values.cpu()


def _rate(work: Callable[[int], object], most: int) -> float:
    """Seconds an image, of so many at once as take long enough to be measured, at most `most`."""
    number = 1
    while True:
        start = time.perf_counter()
        work(number)
        passed = time.perf_counter() - start
        if passed > _MEASURED or number >= most:
            return passed / number
        number = min(2 * number, most)


def _in_words(seconds: float) -> str:
    if seconds < 100:
        return f"{max(5 * round(seconds / 5), 5)} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 6000 else f"{seconds / 3600:.1f} hours"
