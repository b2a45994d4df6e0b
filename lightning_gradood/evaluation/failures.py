"""Detectors that fail, which are reported beside the others, and numbers that say nothing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from lightning_gradood.core import Refusal
from lightning_gradood.detectors import Detector
from lightning_gradood.evaluation.protocol import DetectionDatasets, Trial, of_all_processes, run_trial
from lightning_gradood.evaluation.settings import DetectionSettings
from lightning_gradood.evaluation.trials import Outcome
from lightning_gradood.records import Records


@dataclass(frozen=True)
class Failure:
    """A detector that could not be fitted or tested, in place of its outcomes.

    Args:
        source: the anomaly source that its trial belongs to.
        detector: its name.
        trained_on: name of what it was to be trained on.
        reason: one sentence.
    """

    source: str
    detector: str
    trained_on: str
    reason: str


Result = TypeVar("Result")


def attempt(action: Callable[[], Result]) -> tuple[Result | None, str]:
    """Do something with one detector, of which there are others.

    Returns:
        The result and an empty reason; or None, and one sentence about why there is none.
    """
    try:
        return action(), ""
    except Refusal as refusal:
        return None, str(refusal)
    except Exception as error:  # detectors are anybody's code, and one must not cost what the others found
        first = next(iter(str(error).strip().splitlines()), "")
        return None, f"{type(error).__name__}: {first}".rstrip(": .") + "."


def attempt_trial(
    trial: Trial, datasets: DetectionDatasets, settings: DetectionSettings, fitted_before: dict[str, Detector]
) -> tuple[Detector | None, list[Outcome], list[Failure]]:
    """Run a trial, see `run_trial`; where that fails, return no detector and no outcome but the failure."""
    run = partial(
        run_trial,
        trial,
        datasets,
        seed=settings.seed,
        resamples=settings.resamples,
        conventions=settings.metrics,
        false_positive_rate=settings.false_positive_rate,
        fitted_before=fitted_before,
    )
    found, reason = attempt(run)
    if found is None:
        return None, [], [Failure(trial.owner, trial.detector.name, trial.name, reason)]
    return *found, []


def refuse_all_failed(outcomes: Sequence[Outcome], failures: Sequence[Failure]) -> None:
    """Refuse a run that has nothing to report.

    Raises:
        Refusal: every detector has failed on every source.
    """
    if failures and not outcomes:
        one = failures[0]
        raise Refusal(
            f"At least one detector should be fitted. Got {len(failures)} failures, the first of `{one.detector}` on "
            f"`{one.source}`: {one.reason} What was read from the network is kept."
        )


def notes_on_left_out(left_out: Mapping[str, Sequence[str]]) -> list[str]:
    """Say which images are in no number, as the network was not finite for them: their ids by source."""
    return [
        f"{source}: {len(names)} images are left out, as the network is not finite for them, e.g. {names[0]}."
        for source, names in left_out.items()
    ]


def notes_on_zeros(records: Mapping[str, Records], outcomes: Sequence[Outcome]) -> list[str]:
    """Say where nothing was measured: attacks that moved no pixel, gradients that are zero, scores that are all the same.

    A dead layer and a saturated softmax have zero gradients in truth; an operation without a backward has them by mistake.

    Args:
        records: by source.
        outcomes: of all detectors.

    Returns:
        A sentence each, with how many images; none where there are none.
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
