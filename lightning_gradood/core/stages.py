"""The stages of a run by name: in a profiler's summary, and with their seconds in the run's log."""

import logging
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

LOG = logging.getLogger("lightning_gradood")
"""What is worth keeping of a run beside what a user is shown; silent unless a handler is added, as the command line does."""

LOG.addHandler(logging.NullHandler())


class Profiler(Protocol):
    """Lightning's profilers."""

    def profile(self, action_name: str) -> AbstractContextManager[Any]:
        """Measure what is done meanwhile."""


@contextmanager
def stage(name: str, trainer: Any) -> Iterator[None]:
    """Name what is done meanwhile in a profiler's summary, as `gradood: <name>`, and log how long it took."""
    start, how = time.perf_counter(), "stopped after"
    try:
        with trainer.profiler.profile(f"gradood: {name}"):
            yield
        how = "took"
    finally:
        LOG.info("stage `%s` %s %.1f s", name, how, time.perf_counter() - start)
