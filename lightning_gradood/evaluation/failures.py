"""Detectors that fail, which are reported beside the others, and measurements without information."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from lightning_gradood.core import Refusal
from lightning_gradood.detectors import Fitted
from lightning_gradood.evaluation.protocol import DetectionDatasets, Key, Trial, of_all_processes, run_trial
from lightning_gradood.evaluation.settings import DetectionSettings
from lightning_gradood.evaluation.trials import Learnt, Outcome
from lightning_gradood.records import Records


@dataclass(frozen=True)
class Failure:
    """A detector that could not be fitted or tested on an anomaly source, with the reason in one sentence."""

    source: str
    detector: str
    trained_on: str
    reason: str


Result = TypeVar("Result")


def attempt(action: Callable[[], Result]) -> tuple[Result | None, str]:
    """The result and an empty reason; or None and one sentence why there is none."""
    try:
        return action(), ""
    except Refusal as refusal:
        return None, str(refusal)
    except Exception as error:  # a user's detector must not lose the others' results
        first = next(iter(str(error).strip().splitlines()), "")
        return None, f"{type(error).__name__}: {first}".rstrip(": .") + "."


def attempt_trial(
    trial: Trial, datasets: DetectionDatasets, settings: DetectionSettings, fits: dict[Key, Learnt]
) -> tuple[Fitted | None, list[Outcome], list[Failure]]:
    """Run a trial, see `run_trial`; one that fails returns nothing learnt, no outcome, and the failure."""
    run = partial(
        run_trial,
        trial,
        datasets,
        seed=settings.seed,
        resamples=settings.resamples,
        conventions=settings.metrics,
        false_positive_rate=settings.false_positive_rate,
        fits=fits,
    )
    found, reason = attempt(run)
    if found is None:
        return None, [], [Failure(trial.owner, trial.detector.name, trial.name, reason)]
    return *found, []


def refuse_all_failed(outcomes: Sequence[Outcome], failures: Sequence[Failure]) -> None:
    """Refuse a run in which every detector has failed on every source."""
    if failures and not outcomes:
        one = failures[0]
        raise Refusal(
            f"At least one detector should be fitted. Got {len(failures)} failures, the first of `{one.detector}` on "
            f"`{one.source}`: {one.reason} What was read from the network is kept."
        )


def notes_on_left_out(left_out: Mapping[str, Sequence[str]]) -> list[str]:
    """Name the images, by source, that are left out of all numbers because the network was not finite for them."""
    return [
        f"{source}: {len(names)} images are left out, as the network is not finite for them, e.g. {names[0]}."
        for source, names in left_out.items()
    ]


def notes_on_zeros(records: Mapping[str, Records], outcomes: Sequence[Outcome]) -> list[str]:
    """Sentences on attacks that moved no pixel, gradients that are zero and scores that are all equal, with counts.

    A dead layer and a saturated softmax have zero gradients in truth; an operation without a backward has them by
    mistake.
    """
    notes = []
    for source, table in records.items():
        perturbed = table.column("attack") != ""
        if still := int((table.column("l2")[perturbed] == 0).sum()):
            notes.append(
                f"{source}: {still} of {perturbed.sum()} perturbed images are as they were; of an attack, no gradient reaches "
                "their pixels."
            )
        for probe in table.probes:
            if probe.startswith("gradients/") and (dead := int((table.probe(probe) == 0).all(1).sum())):
                notes.append(f"{source}: all gradient norms of {dead} of {len(table)} images are zero ({probe}).")
    for one in outcomes:
        if len(np.unique(np.concatenate([part.scores for part in one.scores.values()]))) == 1:
            notes.append(f"{one.source}: `{one.detector}` gives every image the same score; its AUROC says nothing.")
    return notes


def gather_failures(failures: list[Failure], sources: Sequence[str]) -> list[Failure]:
    """The failures of all processes, by source; the same on every process."""
    return sorted(of_all_processes(failures), key=lambda failure: sources.index(failure.source))
