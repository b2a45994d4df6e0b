"""Callbacks: what happens while Lightning's loops run.

`ProbeCallback` reads the probes in the predict loop, on every process, and writes records to the cache; probes that must
learn from the classifier's training images first do so once, on the first process. `ReportCallback` writes and logs what
`Trainer.detect` found. `ImageProgressBar` is Lightning's bar with the source's name and images/s.

    >>> from lightning_gradood.callbacks import ImageProgressBar, ReportCallback
    >>> callbacks = [ImageProgressBar(), ReportCallback()]
"""

from lightning_gradood.callbacks.entries import Entry, entries_of, read_records
from lightning_gradood.callbacks.probing import ProbeCallback
from lightning_gradood.callbacks.progress import ImageProgressBar
from lightning_gradood.callbacks.reporting import ReportCallback

__all__ = ["Entry", "ImageProgressBar", "ProbeCallback", "ReportCallback", "entries_of", "read_records"]
