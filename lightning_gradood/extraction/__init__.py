"""Extraction: read the probes of every image in Lightning's predict loop, on any number of processes.

`ProbeCallback` reads the probes in the predict loop, on every process, and writes records to the cache; probes that must
learn from the classifier's training images first do so once, on the first process. `ImageProgressBar` is Lightning's bar
with the source's name and images/s.

    >>> from lightning_gradood.extraction import ImageProgressBar
    >>> callbacks = [ImageProgressBar()]
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
