"""Extraction: read the probes of every image in Lightning's predict loop, on any number of processes.

`ProbeCallback` does it, in our Trainer's `extract` and in a Lightning Trainer of your own, see examples/own_script.py. The
first process plans which records are missing; every process reads its part of the images, unchanged and
perturbed, and writes records to the cache. `ImageProgressBar` shows the source's name and images/s; `PredictionWriter`
writes the classifier's predictions.

    >>> from lightning_gradood.extraction import ImageProgressBar
    >>> callbacks = [ImageProgressBar()]
"""

from lightning_gradood.extraction.batch_records import leave_out_bad
from lightning_gradood.extraction.callbacks import (
    ImageProgressBar,
    PredictionWriter,
    ProbeCallback,
    refuse_unfit_trainer,
)
from lightning_gradood.extraction.entries import CacheEntry, ids_of, prepare, read_records

__all__ = [
    "CacheEntry", "ImageProgressBar", "PredictionWriter", "ProbeCallback", "ids_of", "leave_out_bad", "prepare",
    "read_records", "refuse_unfit_trainer",
]  # fmt: skip
