"""How the trials of an experiment are shared among processes, and their outcomes brought together."""

from collections.abc import Sequence

import torch.distributed as dist

from lightning_gradood.detectors.detector import Detector
from lightning_gradood.detectors.outcome import Outcome
from lightning_gradood.detectors.protocol import Trial


def share_of(trials: Sequence[Trial], sources: Sequence[str], rank: int, processes: int) -> list[Trial]:
    """The trials that fall to one of several processes: those at home with every so many-th source.

    Args:
        trials: of the experiment.
        sources: its anomaly sources.
        rank: of the process.
        processes: how many there are.
    """
    return [trial for trial in trials if sources.index(trial.home) % processes == rank]


def gathered(outcomes: list[Outcome], detectors: Sequence[Detector], sources: Sequence[str]) -> list[Outcome]:
    """The outcomes of all processes, by tested source, detector and source of training; the same on every process.

    Args:
        outcomes: of this process.
        detectors: of the experiment, in their order.
        sources: its anomaly sources, in theirs.
    """
    parts = [outcomes]
    if dist.is_initialized():
        parts = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(parts, outcomes)  # a few scores an image; only our own processes take part
    rank = {name: number for number, name in enumerate(sources)}
    place = {detector.name: number for number, detector in enumerate(detectors)}
    return sorted(
        (outcome for part in parts for outcome in part),
        key=lambda outcome: (rank[outcome.source], place[outcome.detector], rank.get(outcome.trained_on, -1)),
    )
