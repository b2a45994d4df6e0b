"""Protocols: which anomalies a detector is trained on before it is tested; a trial that fails is told beside the others."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeVar

import numpy as np

from lightning_gradood.core import Refusal, gathered, named_seed
from lightning_gradood.detectors import Detector, Fitted, TrainedDetector, UntrainedMLP, fit_all
from lightning_gradood.evaluation.settings import DetectionSettings, Protocol
from lightning_gradood.evaluation.trials import (
    OTHERS,
    VALIDATION,
    Outcome,
    fit,
    fitting_parts,
    full_spectrum,
    joined,
    measure,
    scores_of,
)
from lightning_gradood.records import NORMAL, SYNTHETIC, Records, detection_dataset

Key = tuple[str, str]  # see `fit_key`
Fits = dict[Key, tuple[Fitted, float]]  # what was learnt, and in how many seconds
Result = TypeVar("Result")


@dataclass(frozen=True)
class Trial:
    """One fit of one detector and what it is tested on.

    Args:
        name: of what it is trained on, for tables.
        owner: the source in whose folder the detector is saved.
        trained_on: anomaly sources whose `train` and `val` it is fitted on.
        tested_on: anomaly sources whose `test` it is measured on.
    """

    detector: Detector
    name: str
    owner: str
    trained_on: tuple[str, ...]
    tested_on: tuple[str, ...]


def trials_of(
    detectors: Sequence[Detector],
    sources: Sequence[str],
    protocol: Protocol,
    validation: str | None = None,
    rank: int = 0,
    processes: int = 1,
) -> list[Trial]:
    """List the trials of a protocol source by source, for each the detectors in their order.

    - `known` (the paper's): trained and tested on the same source.
    - `leave_one_out`: trained and selected on all sources but the tested one, as if its anomalies were not known.
    - `cross`: trained on each source, and tested on every one.
    - `openood`: trained and selected on `validation`, if it is named, and tested on all others.

    For a one-class detector, which knows no anomalies, all protocols are the same. One of several processes runs those
    of every so many-th source, or detector.

    Reference:
        Zhang et al., OpenOOD v1.5, 2023, section 3: hyper-parameters are chosen on a validation set of anomalies.
    """
    if protocol == "openood":
        tested = tuple(source for source in sources if source != validation)
        known = [validation] if validation else []
        mine = detectors[rank::processes]
        return [Trial(one, VALIDATION, validation or NORMAL, tuple(known), tested) for one in mine]
    trials = []
    for source in sources[rank::processes]:
        others = tuple(other for other in sources if other != source)
        for one in detectors:
            leave_out, cross = (one.needs_anomalies and protocol == kind for kind in ("leave_one_out", "cross"))
            name, trained_on = (OTHERS, others) if leave_out else (source, (source,))
            trials.append(Trial(one, name, source, trained_on, tuple(sources) if cross else (source,)))
    return trials


def refuse_single(sources: Sequence[str], protocol: Protocol, validation: str | None = None) -> None:
    """Refuse a protocol that needs several sources where there is only one, and a source for validation that is none."""
    if validation is not None and (validation not in sources or len(sources) < 2):
        raise Refusal(
            f"`detection.validation` should be one of at least two anomaly sources. Got `detection.validation = {validation}` "
            f"of {list(sources)}. Name a source of `data.anomalies`."
        )
    if protocol in ("leave_one_out", "cross") and len(sources) < 2:
        raise Refusal(
            f"`detection.protocol = {protocol}` should have at least two anomaly sources. Got {list(sources)}. "
            "Add another to `data.anomalies` or `data.perturbations.attacks`, or use --detection.protocol known."
        )


def refuse_empty_splits(counts: Mapping[str, Mapping[str, int]], trials: Sequence[Trial], protocol: Protocol) -> None:
    """Refuse sources that have no images in a split that a trial looks at; perturbed sources have those of `normal`."""
    wanted = dict[tuple[str, str], str]()
    for trial in trials:
        tuned = trial.detector.needs_anomalies
        known = [NORMAL, *trial.trained_on] if tuned else []
        looks = [(one, split) for one in known for split in ("train", "val")] + [(NORMAL, "val")]
        for look in [*looks, *((one, "test") for one in (NORMAL, *trial.tested_on))]:
            wanted.setdefault(look, trial.detector.name)
    for (source, split), name in wanted.items():
        if source in counts and not counts[source][split]:
            flag = "data.normal" if source == NORMAL else f"data.anomalies.{source}"
            raise Refusal(
                f"`{flag}` should have images in `{split}` for `{name}` under `detection.protocol = {protocol}`. Got none. Name "
                "that part (`fit+val` is split between the two), give one source, whose splits are drawn, or use "
                "--detection.protocol openood, in which one --detection.validation source, or none, is known."
            )


@dataclass(frozen=True)
class DetectionDatasets:
    """The records that trials fit and test on.

    Args:
        records: by source, with their splits.
        noise_of: source to that of its noise control, which is on the normal side.
        keep_of: which of a source's images are detected.
        training: training images, as normal records of `train`; None where detectors are fitted on normal images.
        shifted: sources of the classifier's classes, which count as normal in the metrics `full_spectrum/*` of others.
    """

    records: Mapping[str, Records]
    noise_of: Callable[[str], str | None]
    keep_of: Callable[[str], Literal["all", "successful"]]
    training: Records | None = None
    shifted: Sequence[str] = ()

    def beside(self, detector: Detector) -> Records | None:
        """The synthetic outliers that a detector is fitted against, or training images, see `trials.fitting_parts`."""
        names = [f"{SYNTHETIC}{outlier.name}" for outlier in detector.needed_outliers]
        if names:
            return Records.concatenate([self.records[name] for name in names])
        return self.training if detector.learns_from_normal else None

    def all_normal(self, *sources: str) -> bool:
        """Whether the normal side of these sources is all clean normal images, and nothing else."""
        return all(self.noise_of(source) is None and self.keep_of(source) == "all" for source in sources)

    def of(self, detector: Detector, *sources: str) -> Records:
        """Normal and anomalous records of some sources, each record once; normal ones alone where none is named.

        They have the columns alone that a detector reads, as others take gigabytes.
        """
        names, noises = [probe.name for probe in detector.probes], map(self.noise_of, sources)
        read = {source: self.records[source].only(names) for source in (NORMAL, *sources, *filter(None, noises))}
        datasets = [detection_dataset(read, source, self.noise_of(source), self.keep_of(source)) for source in sources]
        if len(datasets) < 2:
            return datasets[0] if datasets else read[NORMAL]
        return Records.concatenate(datasets).by_id()


def fit_key(trial: Trial, datasets: DetectionDatasets) -> Key:
    """What a trial's detector learns from, and its name: of all normal images the same for all sources, else its own."""
    shared = datasets.all_normal(trial.owner) and not trial.detector.needs_anomalies
    return NORMAL if shared else trial.owner, trial.detector.name


def fitting_seed(detector: Detector, owner: str, seed: int) -> int:
    """Seed of a fit, from the owner's name; for a one-class detector the same for all sources and for the guard."""
    return named_seed(seed, owner if detector.needs_anomalies else NORMAL, bits=32)


def fit_side_by_side(trials: Sequence[Trial], datasets: DetectionDatasets, seed: int) -> Fits:
    """Fit the MLPs of several trials together; other detectors, and one that fails here, are fitted in their own trials."""

    def begin(trial: Trial, detector: TrainedDetector) -> Fitted | UntrainedMLP:
        records = datasets.of(detector, *trial.trained_on)
        train, val = (records.where(split=split) for split in ("train", "val"))
        parts = fitting_parts(detector, train, val, datasets.beside(detector))
        return detector.begin(joined(detector, parts), fitting_seed(detector, trial.owner, seed))

    start, begins = time.perf_counter(), dict[Key, Callable[[], Fitted | UntrainedMLP]]()
    for trial in trials:
        if isinstance(trial.detector, TrainedDetector):
            begins.setdefault(fit_key(trial, datasets), partial(begin, trial, trial.detector))
    found = fit_all(begins.values())
    seconds = (time.perf_counter() - start) / max(len(found), 1)  # each takes its share
    return {key: (one, seconds) for key, one in zip(begins, found, strict=True) if not isinstance(one, Exception)}


def run_trial(
    trial: Trial, datasets: DetectionDatasets, settings: DetectionSettings, fits: Fits | None = None
) -> tuple[Fitted, list[Outcome]]:
    """Fit a trial's detector and test it; returns what it has learnt and one outcome per tested source.

    What is found in `fits` is not fitted again, and what a one-class detector has learnt from all normal images is added.
    """
    detector, key = trial.detector, fit_key(trial, datasets)
    seed, known = fitting_seed(detector, trial.owner, settings.seed), datasets.of(detector, *trial.trained_on)
    fitted, half = fit(detector, known, trial.name, seed, settings, datasets.beside(detector), (fits or {}).get(key))
    if fits is not None and key[0] == NORMAL:
        fits[key] = fitted, 0.0
    outcomes, counted = [], [source for source in trial.tested_on if source not in datasets.shifted]
    parts = [datasets.records[name].where(split="test") for name in datasets.shifted if counted]
    shifted = np.concatenate([np.empty(0), *(scores_of(fitted, part).scores for part in parts)])
    for source in trial.tested_on:
        found = measure(detector, fitted, half, datasets.of(detector, source), source, settings)
        outcomes.append(full_spectrum(found, shifted) if len(shifted) and source in counted else found)
    return fitted, outcomes


@dataclass(frozen=True)
class Failure:
    """A detector that could not be fitted or tested on an anomaly source, with the reason in one sentence."""

    source: str
    detector: str
    trained_on: str
    reason: str


def attempt(action: Callable[[], Result]) -> tuple[Result | None, str]:
    """The result and an empty reason; or None and one sentence why there is none."""
    try:
        return action(), ""
    except Refusal as refusal:
        return None, str(refusal)
    except Exception as error:  # a user's detector must not lose the others' results
        return None, f"{type(error).__name__}: {str(error).strip()}".partition("\n")[0].rstrip(": .") + "."


def attempt_trial(
    trial: Trial, datasets: DetectionDatasets, settings: DetectionSettings, fits: Fits
) -> tuple[Fitted | None, list[Outcome], list[Failure]]:
    """Run a trial, see `run_trial`; one that fails returns nothing learnt, no outcome, and the failure."""
    found, reason = attempt(partial(run_trial, trial, datasets, settings, fits))
    if found is None:
        return None, [], [Failure(trial.owner, trial.detector.name, trial.name, reason)]
    return *found, []


def gather(
    outcomes: list[Outcome], failures: list[Failure], detectors: Sequence[Detector], sources: Sequence[str]
) -> tuple[list[Outcome], list[Failure]]:
    """What all processes have found, in an order that does not depend on them; a Refusal where everything has failed."""
    rank = {name: number for number, name in enumerate(sources)}
    place = {detector.name: number for number, detector in enumerate(detectors)}
    processes = gathered((outcomes, failures))
    outcomes = [one for found, _ in processes for one in found]
    failures = [one for _, found in processes for one in found]
    if failures and not outcomes:
        one = failures[0]
        raise Refusal(
            f"At least one detector should be fitted. Got {len(failures)} failures, the first of `{one.detector}` on "
            f"`{one.source}`: {one.reason} What was read from the network is kept."
        )
    outcomes.sort(key=lambda one: (rank[one.source], place[one.detector], rank.get(one.trained_on, -1)))
    return outcomes, sorted(failures, key=lambda one: rank.get(one.source, -1))


def notes_on(
    records: Mapping[str, Records], outcomes: Sequence[Outcome], left_out: Mapping[str, Sequence[str]]
) -> list[str]:
    """Sentences on images left out, attacks that moved no pixel, zero gradients and scores that are all equal."""
    notes = [
        f"{source}: {len(names)} images are left out, as the network is not finite for them, e.g. {names[0]}."
        for source, names in left_out.items()
    ]
    for source, table in records.items():
        perturbed = table.column("attack") != ""
        if still := int((table.column("l2")[perturbed] == 0).sum()):
            notes.append(
                f"{source}: {still} of {perturbed.sum()} perturbed images are as they were; no gradient reaches them."
            )
        for probe in table.probes:
            if probe.startswith("gradients/") and (dead := int((table.probe(probe) == 0).all(1).sum())):
                notes.append(f"{source}: all gradient norms of {dead} of {len(table)} images are zero ({probe}).")
    for one in outcomes:
        if len(np.unique(np.concatenate([part.scores for part in one.scores.values()]))) == 1:
            notes.append(f"{one.source}: `{one.detector}` gives every image the same score; its AUROC says nothing.")
    return notes


def remarks_on(fits: Fits) -> dict[str, str]:
    """What detectors of all processes, which call this together, say of their fits on all normal images, by their names."""
    mine = {name: one.remark for (owner, name), (one, _) in fits.items() if owner == NORMAL and one.remark}
    return {name: remark for process in gathered(mine) for name, remark in process.items()}
