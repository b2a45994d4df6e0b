"""Callbacks: what happens while Lightning's loops run.

`ProbeCallback` reads the probes in the predict loop, on every process, and writes records to the cache; probes that must
learn from the classifier's training images first do so once, on the first process. `ReportCallback` writes and logs what
`Trainer.detect` found. `ImageProgressBar` is Lightning's bar with the source's name and images/s.

    >>> from lightning_gradood.extraction import ImageProgressBar, ReportCallback
    >>> callbacks = [ImageProgressBar(), ReportCallback()]
"""

from lightning_gradood.extraction.callback import ProbeCallback
from lightning_gradood.extraction.plan import Entry, entries_of, read_records
from lightning_gradood.extraction.progress import ImageProgressBar

__all__ = [
    "Entry",
    "ImageProgressBar",
    "ProbeCallback",
    "entries_of",
    "read_records",
]
