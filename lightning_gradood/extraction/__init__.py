"""Extraction: read the probes of every image in Lightning's predict loop, on any number of processes.

`ProbeCallback` does it, in our Trainer's `extract` and in a Lightning Trainer of your own, see examples/own_script.py. The
first process makes a `Plan` of the records that are missing; every process reads its part of the images, unchanged and
perturbed, and writes records to the cache. `ImageProgressBar` shows the source's name and images/s; `PredictionWriter`
writes the classifier's predictions.

    >>> from lightning_gradood.extraction import ImageProgressBar, Plan
    >>> Plan([], {}, {}).missing
    []
    >>> callbacks = [ImageProgressBar()]
"""

from lightning_gradood.extraction.batch_records import leave_out_bad
from lightning_gradood.extraction.callback import ProbeCallback, refuse_unfit_trainer
from lightning_gradood.extraction.entries import CacheEntry, Plan, ids_of, make_plan, prepare, read_records
from lightning_gradood.extraction.loop_output import ImageProgressBar, PredictionWriter

__all__ = [
    "CacheEntry",
    "ImageProgressBar",
    "Plan",
    "PredictionWriter",
    "ProbeCallback",
    "ids_of",
    "leave_out_bad",
    "make_plan",
    "prepare",
    "read_records",
    "refuse_unfit_trainer",
]
