"""Protocols: which anomalies a detector is trained on before it is tested, and which process runs which trial."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeVar

from lightning_gradood.core import Refusal, gathered, named_seed
from lightning_gradood.detectors import Detector, Fitted, TrainedDetector, UntrainedMLP, fit_all
from lightning_gradood.evaluation.trials import OTHERS, Learnt, Outcome, fit, known_records, measure
from lightning_gradood.records import NORMAL, SYNTHETIC, Records, detection_dataset

Protocol = Literal["known", "leave_one_out", "cross"]


Found = TypeVar("Found")


@dataclass(frozen=True)
class Trial:
    """One fit of one detector and what it is tested on.

    Args:
        name: of what it is trained on, for tables.
        owner: the source that decides which process runs it and in which folder the detector is saved.
        trained_on: anomaly sources whose `train` and `val` it is fitted on.
        tested_on: anomaly sources whose `test` it is measured on.
    """

    detector: Detector
    name: str
    owner: str
    trained_on: tuple[str, ...]
    tested_on: tuple[str, ...]


def trials_of(detectors: Sequence[Detector], sources: Sequence[str], protocol: Protocol) -> list[Trial]:
    """List the trials of a protocol source by source, for each the detectors in their order.

    - `known` (the paper's): trained and tested on the same source.
    - `leave_one_out`: trained and selected on all sources but the tested one, as if its anomalies were not known.
    - `cross`: trained on each source, and tested on every one.

    For a one-class detector, which knows no anomalies, all protocols are the same.
    """
    return [_trial(detector, source, sources, protocol) for source in sources for detector in detectors]


def _trial(detector: Detector, source: str, sources: Sequence[str], protocol: Protocol) -> Trial:
    if protocol == "known" or not detector.needs_anomalies:
        return Trial(detector, source, source, (source,), (source,))
    if protocol == "leave_one_out":
        return Trial(detector, OTHERS, source, tuple(other for other in sources if other != source), (source,))
    return Trial(detector, source, source, (source,), tuple(sources))


def refuse_single(sources: Sequence[str], protocol: Protocol) -> None:
    """Refuse a protocol that needs several sources where there is only one."""
    if protocol != "known" and len(sources) < 2:
        raise Refusal(
            f"`detection.protocol = {protocol}` should have at least two anomaly sources. Got {list(sources)}. "
            "Add another to `data.anomalies` or `data.perturbations.attacks`, or use --detection.protocol known."
        )


@dataclass(frozen=True)
class DetectionDatasets:
    """The records that trials fit and test on.

    Args:
        records: by source, with their splits.
        noise_of: source to that of its noise control, which is on the normal side.
        keep_of: which of a source's images are detected.
    """

    records: Mapping[str, Records]
    noise_of: Callable[[str], str | None]
    keep_of: Callable[[str], Literal["all", "successful"]]

    def synthetic(self, detector: Detector) -> Records | None:
        """The synthetic outliers that a detector is fitted against, with its probes; None where it needs none."""
        names = [f"{SYNTHETIC}{outlier.name}" for outlier in detector.needed_outliers]
        return Records.concatenate([self.records[name] for name in names]) if names else None

    def same_normal(self, source: str) -> bool:
        """Whether the normal side of a source's data set is exactly the normal source."""
        return self.noise_of(source) is None and self.keep_of(source) == "all"

    def of(self, *sources: str) -> Records:
        """Normal and anomalous records of some sources, each record once."""
        datasets = [
            detection_dataset(self.records, source, self.noise_of(source), self.keep_of(source)) for source in sources
        ]
        return datasets[0] if len(datasets) == 1 else Records.concatenate(datasets).by_id()


Key = tuple[str, str]


def fit_key(trial: Trial, datasets: DetectionDatasets) -> Key:
    """What a trial's detector learns from, and its name: of all normal images the same for all sources, else its own."""
    shared = not trial.detector.needs_anomalies and datasets.same_normal(trial.owner)
    return NORMAL if shared else trial.owner, trial.detector.name


def fit_side_by_side(trials: Sequence[Trial], datasets: DetectionDatasets, seed: int) -> dict[Key, Learnt]:
    """Fit the MLPs of several trials together, by `fit_key`; other detectors are fitted in their own trials."""

    def begin(trial: Trial, detector: TrainedDetector) -> Fitted | UntrainedMLP:
        records = known_records(detector, datasets.of(*trial.trained_on), datasets.synthetic(detector))
        return detector.begin(records, fitting_seed(detector, trial.owner, seed))

    start, begins = time.perf_counter(), dict[Key, Callable[[], Fitted | UntrainedMLP]]()
    for trial in trials:
        if isinstance(trial.detector, TrainedDetector):
            begins.setdefault(fit_key(trial, datasets), partial(begin, trial, trial.detector))
    found = fit_all(begins.values())
    seconds = (time.perf_counter() - start) / max(len(found), 1)  # each takes its share
    return {
        key: Learnt(one, [] if isinstance(one, Exception) else one.curves, seconds)
        for key, one in zip(begins, found, strict=True)
    }


def run_trial(
    trial: Trial,
    datasets: DetectionDatasets,
    *,
    seed: int,
    resamples: int = 1000,
    conventions: Sequence[str] = (),
    false_positive_rate: float = 0.05,
    fits: dict[Key, Learnt] | None = None,
) -> tuple[Fitted, list[Outcome]]:
    """Fit a trial's detector and test it; returns what it has learnt and one outcome per tested source.

    Args:
        seed: see `fitting_seed`; with the name of a tested source it fixes the bootstrap.
        resamples: bootstrap resamples of the AUROC's interval.
        conventions: whose arithmetic is added to the metrics.
        false_positive_rate: share of normal images that a one-class detector may flag.
        fits: earlier fits by `fit_key`; one found here is not fitted again, and what a one-class detector has learnt
            from all normal images is added.
    """
    detector, key = trial.detector, fit_key(trial, datasets)
    selected = fit(
        detector,
        datasets.of(*trial.trained_on),
        trained_on=trial.name,
        seed=fitting_seed(detector, trial.owner, seed),
        false_positive_rate=false_positive_rate,
        synthetic=datasets.synthetic(detector),
        learnt=(fits or {}).get(key),
    )
    if fits is not None and key[0] == NORMAL:
        fits[key] = Learnt(selected.fitted)
    outcomes = []
    for source in trial.tested_on:
        dataset, own_seed = datasets.of(source), named_seed(seed, source, bits=32)
        outcomes.append(
            measure(selected, dataset, source=source, seed=own_seed, resamples=resamples, conventions=conventions)
        )
    return selected.fitted, outcomes


def fitting_seed(detector: Detector, owner: str, seed: int) -> int:
    """Seed of a fit, from the owner's name; for a one-class detector the same for all sources and for the guard."""
    return named_seed(seed, owner if detector.needs_anomalies else NORMAL, bits=32)


def trials_of_process(trials: Sequence[Trial], sources: Sequence[str], rank: int, processes: int) -> list[Trial]:
    """The trials of one of several processes: those owned by every so many-th source."""
    return [trial for trial in trials if sources.index(trial.owner) % processes == rank]


def gather_outcomes(outcomes: list[Outcome], detectors: Sequence[Detector], sources: Sequence[str]) -> list[Outcome]:
    """The outcomes of all processes by tested source, detector and source of training; the same on every process."""
    rank = {name: number for number, name in enumerate(sources)}
    place = {detector.name: number for number, detector in enumerate(detectors)}
    return sorted(
        of_all_processes(outcomes),
        key=lambda outcome: (rank[outcome.source], place[outcome.detector], rank.get(outcome.trained_on, -1)),
    )


def of_all_processes(own: list[Found]) -> list[Found]:
    """Concatenate what all processes have found; the same on each."""
    return [one for part in gathered(own) for one in part]  # a few scores an image
