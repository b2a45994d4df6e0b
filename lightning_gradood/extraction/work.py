"""How much of an extraction is done and how long the rest takes, counted in passes over the network."""

import time
from collections.abc import Sequence

from lightning_gradood.data import ImageDataModule
from lightning_gradood.extraction.plan import Plan
from lightning_gradood.probes import GradientProbe, Probe

_GRADIENTS = 2  # passes of a label design, beside the forward pass that all share


class Work:
    """What one process has to read: passes of an image, those that its attack takes among them.

    Attributes:
        images: how many were read, unchanged and perturbed.
        seconds: how long that took.
    """

    def __init__(self) -> None:
        self.total = self.done = self.seconds = 0.0
        self.images = 0
        self._passes: dict[str, float] = {}
        self._start: float | None = None

    def plan(self, plan: Plan, data: ImageDataModule, probes: Sequence[Probe], processes: int) -> None:
        """Count what is to be done.

        Args:
            plan: which rows are missing.
            data: the perturbations.
            probes: what is read.
            processes: how many share the work.
        """
        made = data.perturbed_sources
        wanted = {(entry.source, entry.probe) for entry in plan.missing}
        for source, rows in plan.rows_of_source.items():
            read = [probe for probe in probes if (source, probe.name) in wanted]
            passes = 1.0 + _GRADIENTS * sum(isinstance(probe, GradientProbe) for probe in read)
            if source in made and source not in plan.pixels:
                passes += made[source].attack.passes
            self._passes[source] = passes
            self.total += passes * len(rows) / processes

    def begin(self) -> None:
        """Start the clock, once."""
        self._start = self._start or time.perf_counter()

    def advance(self, source: str, number: int) -> None:
        """Count images of a source that were read."""
        self.done += self._passes.get(source, 0.0) * number
        self.images += number

    @property
    def left(self) -> str:
        """How long the rest takes at the speed so far, in words; empty where nothing is done yet."""
        if self._start is None or self.done <= 0:
            return ""
        passed = time.perf_counter() - self._start
        seconds = passed * max(self.total - self.done, 0.0) / self.done
        if seconds < 90:
            return f"{seconds:.0f} s left"
        return f"{seconds / 60:.0f} min left" if seconds < 5400 else f"{seconds / 3600:.1f} h left"
