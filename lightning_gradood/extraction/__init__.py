"""Extraction: read the probes of every image in Lightning's predict loop, on any number of processes.

The first process makes a `Plan` of the records that are missing. Every process reads its part of the images, unchanged
and perturbed, and writes records to the cache (`ProbeReader`). `ProbeTask` is what our Trainer predicts with;
`ProbeCallback` does the same in a Lightning Trainer of your own, see examples/own_script.py. `ImageProgressBar` shows
the source's name and images/s; `PredictionWriter` writes the classifier's predictions.

    >>> from lightning_gradood.extraction import ImageProgressBar, Plan
    >>> Plan([], {}, weights="", structure=None, training_images="", pixels={}).missing
    []
    >>> callbacks = [ImageProgressBar()]
"""

from lightning_gradood.extraction.callback import ProbeCallback, ProbeTask
from lightning_gradood.extraction.plan import CacheEntry, Plan, ids_of, make_plan, read_records
from lightning_gradood.extraction.predictions import PredictionWriter
from lightning_gradood.extraction.preparation import prepared_states, try_probes
from lightning_gradood.extraction.progress import ImageProgressBar
from lightning_gradood.extraction.reader import ProbeReader
from lightning_gradood.extraction.reading import leave_out_bad

__all__ = [
    "CacheEntry",
    "ImageProgressBar",
    "Plan",
    "PredictionWriter",
    "ProbeCallback",
    "ProbeReader",
    "ProbeTask",
    "ids_of",
    "leave_out_bad",
    "make_plan",
    "prepared_states",
    "read_records",
    "try_probes",
]
