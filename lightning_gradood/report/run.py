"""A run as its folder holds it: the long tables that `detect` writes, and `Run.read`, their only reader.

`docs/run_folder.md` lists the files, their columns and units. Reading executes no code.
"""

import json
import math
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lightning_gradood.core import CONFIG, Refusal, atomic_write, read_json, read_yaml
from lightning_gradood.evaluation import FLAGGED, Failure, Outcome, SplitScores
from lightning_gradood.metrics import binomial_interval
from lightning_gradood.records import read_rows, write_rows
from lightning_gradood.report.tables import FAILED, Table, brackets, not_transferred, outcome_numbers, percent

RESULTS, SCORES, CURVES = "results.parquet", "scores.parquet", "curves.parquet"
GUARD_SCORES, SAMPLES = "guard_scores.parquet", "samples"
PROVENANCE, ARRAYS, SPLITS, PAGE = "provenance.json", "figures.npz", "splits.json", "report.html"
LEADERBOARD = "detection.leaderboard"  # key of a run's configuration
_NAMES = {"source": str, "trained_on": str, "detector": str}  # columns that together name an outcome
RESULT_COLUMNS = {**_NAMES, "split": str, "metric": str, "value": float, "low": float, "high": float}
CURVE_COLUMNS = {**_NAMES, "epoch": int, "metric": str, "value": float}
SCORE_COLUMNS = {
    **{"id": str, "path": str, "label": str, "prediction": str, "source": str, "trained_on": str, "split": str},
    **{"detector": str, "anomalous": int, "score": float, "p_value": float, "flagged": bool},
}

_OF_DETECTORS = ("trained_on", "detector", "anomalous")
GUARD_SCORE_COLUMNS = {one: kind for one, kind in SCORE_COLUMNS.items() if one not in _OF_DETECTORS} | {"guard": str}


def long_results(outcomes: Iterable[Outcome], failures: Iterable[Failure] = ()) -> list[dict[str, Any]]:
    """List every number of every outcome, one row each; a failure is a row `failed` without a value.

    `low` and `high` are a 95 % interval of test AUROC (bootstrap) and of shares of normal `test` images that are flagged
    (Clopper and Pearson's); `threshold` is under `val`, `seconds` under `test`; what is not finite or not known is None.
    """
    rows: list[tuple[Any, ...]] = []
    for outcome in outcomes:
        names = (outcome.source, outcome.trained_on or outcome.source, outcome.detector)
        test, shares, numbers = outcome.scores["test"], outcome.metrics["test"], outcome_numbers(outcome)
        normal = test.scores[test.labels == 0]
        flagged = {metric: round(shares[metric] * len(normal)) for metric in FLAGGED if metric in shares}
        flagged["false_positive_rate"] = int((normal > outcome.threshold).sum())
        intervals = {metric: binomial_interval(count, len(normal)) for metric, count in flagged.items()}
        intervals["auroc"] = numbers["test"].pop("auroc_low"), numbers["test"].pop("auroc_high")
        numbers["val"]["threshold"], numbers["test"]["seconds"] = outcome.threshold, outcome.seconds
        for split, metrics in numbers.items():
            known = intervals if split == "test" else {}
            for metric, value in metrics.items():
                rows.append((*names, split, metric, *map(_finite, (value, *known.get(metric, (None, None))))))
    rows += [(one.source, one.trained_on, one.detector, "test", FAILED, None, None, None) for one in failures]
    return [dict(zip(RESULT_COLUMNS, row, strict=True)) for row in rows]


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def long_scores(outcomes: Iterable[Outcome], facts: Mapping[str, tuple[str, str, str]]) -> Iterator[dict[str, Any]]:
    """The score of every image of `val` and `test` by every detector."""
    for outcome in outcomes:
        for split, found in outcome.scores.items():
            same = (outcome.source, outcome.trained_on or outcome.source, split, outcome.detector)
            flagged = (found.scores > outcome.threshold).tolist()
            numbers = (found.labels.tolist(), found.scores.tolist(), outcome.p_values(split).tolist(), flagged)
            for name, *values in zip(found.ids, *numbers, strict=True):
                yield dict(zip(SCORE_COLUMNS, (name, *facts.get(name, ("", "", "")), *same, *values), strict=True))


def long_curves(outcomes: Iterable[Outcome]) -> Iterator[dict[str, Any]]:
    """Every value of every training curve; transferred detectors have that of their own source."""
    for one in not_transferred(outcomes):
        names = (one.source, one.trained_on or one.source, one.detector)
        for place, point in enumerate(one.curves):
            for metric, value in point.items():
                if metric != "epoch":
                    row = (*names, int(point.get("epoch", place)), metric, float(value))
                    yield dict(zip(CURVE_COLUMNS, row, strict=True))


def curve_rows(outcomes: Iterable[Outcome]) -> list[tuple[int, dict[str, float]]]:
    """Training curves of all detectors by increasing epoch: epoch, `detector/<source>/<detector>/<metric>` to value."""
    rows: dict[int, dict[str, float]] = {}
    for one in long_curves(outcomes):
        key = f"detector/{one['source']}/{one['detector']}/{one['metric']}"
        rows.setdefault(one["epoch"], {})[key] = one["value"]
    return sorted(rows.items())


_BOTH = ("common", "own")  # thresholds, see `evaluation.Calibrated.classes`


def _interval(metrics: Mapping[str, float]) -> list[float]:
    return [metrics.get(f"test/auroc_{end}", math.nan) for end in ("low", "high")]


@dataclass(frozen=True)
class GuardSummary:
    """What is told of a run's guard; `metrics` and `classes`, by name, see `evaluation.Calibrated`; empty if there is none.

    A guard that is not `saved` is in memory alone; `images` is a folder that it can score.
    """

    sentence: str = "No guard is saved: the run ended before."
    heading: str = ""
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    detector: str = ""
    false_positive_rate: float = 0.0
    packages: Sequence[str] = ()
    saved: bool = True
    classes: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    images: str = "FOLDER"

    def command(self, folder: Path) -> str:
        """The command that scores images with the guard of a run folder: its samples, or the folder of its images."""
        trust = [word for name in self.packages for word in ("--trust", name)]
        images = str(folder / SAMPLES) if (folder / SAMPLES).is_dir() else self.images
        return shlex.join(
            ["python", "-m", "lightning_gradood", "score", "--guard", str(folder / "guard"), *trust, images]
        )

    @property
    def table(self) -> Table:
        """AUROC and share flagged of each source on `test`, and the share of normal images flagged."""
        rows = [
            [name, percent(one.get("test/auroc")), brackets(*_interval(one)), f"{100 * one['test/flagged']:.1f}"]
            for name, one in self.metrics.items()
            if "test/flagged" in one
        ]
        return Table([self.heading, "AUROC", "95 % interval", "flagged, %"], rows)

    @property
    def warning(self) -> str:
        """Warn of a guard that is not clearly better than chance, by mean AUROC and interval; empty for a better one."""
        tested = [[one["test/auroc"], *_interval(one)] for one in self.metrics.values() if "test/auroc" in one]
        mean, low, high = np.mean(tested, axis=0) if tested else [math.nan] * 3
        if not low <= 0.5:
            return ""
        return (
            f"Warning: the guard is not clearly better than chance: its mean AUROC on `test` is {percent(mean)} % "
            f"{brackets(low, high)}, that of chance 50 %. Try other detectors (--detection.preset no_anomalies), other label "
            "designs, or a more accurate classifier before you use it."
        )

    @property
    def class_table(self) -> Table:
        """How many normal `test` images of a predicted class are flagged, at most 20 rows: first those with the most."""
        chosen = sorted(self.classes.items(), key=lambda one: -one[1].get("common", 0.0))[:20]
        rows = [
            [name, *(f"{one[key]:.0f}" for key in ("calibration", "test")), *(percent(one.get(key)) for key in _BOTH)]
            for name, one in chosen
        ]
        return Table(["predicted class", "calibrated on", "tested on", "flagged, %", "with --by_class, %"], rows)

    def text(self, folder: Path) -> str:
        """The summary as lines for a terminal."""
        if not self.metrics:
            return self.sentence
        use = "It is in memory; `save` writes it to a folder."
        if self.saved:
            use = f"It scores any image:\n  {self.command(folder)}"
        return "\n\n".join(filter(None, [f"Guard: {self.sentence}", self.table.text(), self.warning, use]))


@dataclass(frozen=True)
class Run:
    """What a run has found, read from its folder.

    Args:
        name: its folder's name, or the whole path where runs that were read with it have the same.
        outcomes: one per anomaly source and detector, or one per pair of sources under protocol `cross`; `scores` are
            empty here and filled in `scored`.
        config: dotted key of the configuration to plain value or list; empty where the folder has none.
    """

    name: str
    folder: Path
    experiment: str
    outcomes: list[Outcome]
    failures: list[Failure]
    provenance: Mapping[str, Any]
    config: Mapping[str, Any]
    guard: GuardSummary

    @classmethod
    def read(cls, folder: Path, name: str = "") -> "Run":
        """Read the run in a folder; a missing or damaged one is refused."""
        if not folder.is_dir():
            got = "is no folder" if folder.exists() else "does not exist"
            raise Refusal(f"A run folder should be given. Got `{folder}`, which {got}. Correct the path.")
        if not (folder / RESULTS).is_file():
            inside = sorted(path.parent for path in folder.glob(f"*/{RESULTS}"))
            advice = f"Did you mean `{inside[-1]}`?" if inside else "`detect`, or `fit` at its end, writes them."
            raise Refusal(f"`{folder}` should be a run folder with results. Got no {RESULTS} in it. {advice}")
        with _reading(folder / PROVENANCE):
            about = dict(read_json(folder / PROVENANCE))
            experiment, failures = str(about.pop("experiment")), [Failure(**one) for one in about.pop("failures")]
            guard = GuardSummary(**about.pop("guard"))
        with _reading(folder / RESULTS):
            outcomes = list(_outcomes(read_rows(folder / RESULTS), read_rows(folder / CURVES)))
        with _reading(folder / CONFIG):
            config = dict(_joined(read_yaml(folder / CONFIG), ".")) if (folder / CONFIG).is_file() else {}
        config = {key: value for key, value in config.items() if key not in ("run_dir", "config")}
        return cls(name or folder.name, folder, experiment, outcomes, failures, about, config, guard)

    @cached_property
    def scored(self) -> list[Outcome]:
        """The outcomes with the scores of every image of `val` and `test`."""
        with _reading(self.folder / SCORES):
            names, rows = [*_NAMES, "split"], dict[tuple[str, ...], list[int]]()
            table = read_rows(self.folder / SCORES, [*names, "id", "anomalous", "score"])
            for row, key in enumerate(zip(*(table[name] for name in names), strict=True)):
                rows.setdefault(key, []).append(row)
            ids, labels, scores = table["id"], np.array(table["anomalous"]), np.array(table["score"], dtype=np.float64)
            found = []
            for one in self.outcomes:
                own = {split: rows[one.source, one.trained_on, one.detector, split] for split in ("val", "test")}
                parts = {
                    split: SplitScores([ids[row] for row in at], labels[at], scores[at]) for split, at in own.items()
                }
                found.append(replace(one, scores=parts))
        return found

    @property
    def groups(self) -> Mapping[str, Sequence[str]]:
        """Anomaly sources by group."""
        return dict(self.provenance.get("groups", {}))

    @cached_property
    def arrays(self) -> dict[str, Any]:
        """The arrays that figures need, nested by the names that `docs/run_folder.md` lists; empty where there are none."""
        return read_arrays(self.folder / ARRAYS) if (self.folder / ARRAYS).is_file() else {}


def write_results(
    folder: Path,
    experiment: str,
    outcomes: Sequence[Outcome],
    failures: Sequence[Failure] = (),
    facts: Mapping[str, tuple[str, str, str]] | None = None,
    found: Mapping[str, Any] | None = None,
) -> None:
    """Write the tables and `provenance.json`, which holds what is `found` of the run; each appears whole or not at all."""
    rows = long_results(outcomes, failures)
    for path in (folder / RESULTS, folder / "results.csv"):
        write_rows(rows, RESULT_COLUMNS, path, "--run_dir")
    write_rows(long_scores(outcomes, facts or {}), SCORE_COLUMNS, folder / SCORES, "--run_dir")
    write_rows(long_curves(outcomes), CURVE_COLUMNS, folder / CURVES, "--run_dir")
    document = {"experiment": experiment, **(found or {}), "failures": list(map(asdict, failures)), "guard": {}}
    _write_provenance(folder, document)


def write_guard_summary(folder: Path, guard: GuardSummary) -> None:
    """Add what is told of the guard to `provenance.json`."""
    _write_provenance(folder, read_json(folder / PROVENANCE) | {"guard": asdict(guard)})


def _write_provenance(folder: Path, document: Mapping[str, Any]) -> None:
    text = json.dumps(
        document, default=lambda one: one.tolist() if isinstance(one, np.ndarray | np.generic) else str(one)
    )
    finite = json.loads(text, parse_constant=lambda _: None)  # NaN and infinity are not JSON
    with atomic_write(folder / PROVENANCE) as file:
        file.write(f"{json.dumps(finite, indent=2)}\n".encode())


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read several runs."""
    same = len({folder.name for folder in folders}) < len(folders)
    return [Run.read(folder, str(folder) if same else folder.name) for folder in folders]


def newest_run(parent: Path) -> Path | None:
    """The folder of the newest run of any experiment below `parent`."""
    found = max(parent.glob(f"*/*/{RESULTS}"), key=lambda path: path.stat().st_mtime, default=None)
    return found and found.parent


def _joined(nested: Mapping[str, Any], sign: str, above: str = "") -> Iterator[tuple[str, Any]]:
    """Names joined by a sign, with their values; an empty mapping is one, so that it differs from a missing one."""
    for name, value in nested.items():
        key = f"{above}{str(name).replace('%', '%25').replace('/', '%2F')}"
        if isinstance(value, Mapping) and value:
            yield from _joined(value, sign, f"{key}{sign}")
        else:
            yield key, value


def write_arrays(arrays: Mapping[str, Any], file: Any) -> None:
    """Write nested arrays as `.npz`, each under its names joined by `/`."""
    found = {key: np.asarray(value) for key, value in _joined(arrays, "/") if not isinstance(value, Mapping)}
    np.savez_compressed(file, allow_pickle=False, **found)


def read_arrays(path: Path) -> dict[str, Any]:
    """Read what `write_arrays` wrote; a damaged file is refused."""
    nested: dict[str, Any] = {}
    with _reading(path), np.load(path, allow_pickle=False) as arrays:
        for key, array in arrays.items():
            *above, name = (part.replace("%2F", "/").replace("%25", "%") for part in key.split("/"))
            place = nested
            for part in above:
                place = place.setdefault(part, {})
            if not isinstance(array, np.ndarray):
                raise TypeError(f"`{key}` is no array")
            place[name] = array
    return nested


def _outcomes(table: Mapping[str, Sequence[Any]], curves: Mapping[str, Sequence[Any]]) -> Iterator[Outcome]:
    """Put the rows of the long tables together again; what is not known is NaN, a threshold above all scores infinite."""
    numbers: dict[tuple[str, ...], dict[str, dict[str, float]]] = {}
    intervals: dict[tuple[str, ...], tuple[float, float]] = {}
    for *names, split, metric, value, low, high in zip(*(table[name] for name in RESULT_COLUMNS), strict=True):
        if metric != FAILED:
            known, *bounds = (math.nan if number is None else float(number) for number in (value, low, high))
            numbers.setdefault(tuple(names), {}).setdefault(split, {})[metric] = known
            if (split, metric) == ("test", "auroc"):
                intervals[tuple(names)] = bounds[0], bounds[1]
    points: dict[tuple[str, ...], dict[int, dict[str, float]]] = {}
    for *names, epoch, metric, value in zip(*(curves[name] for name in CURVE_COLUMNS), strict=True):
        points.setdefault(tuple(names), {}).setdefault(epoch, {"epoch": epoch})[metric] = value
    for (source, trained_on, detector), splits in numbers.items():
        counts = {
            split: {side: int(found.pop(f"n_{side}")) for side in ("normal", "anomalous")}
            for split, found in splits.items()
        }
        threshold, seconds = splits["val"].pop("threshold"), splits["test"].pop("seconds")
        yield Outcome(
            source=source,
            detector=detector,
            counts=counts,
            metrics={split: splits[split] for split in ("val", "test")},
            auroc_interval=intervals[source, trained_on, detector],
            threshold=math.inf if math.isnan(threshold) else threshold,
            scores={},
            curves=list(points.get((source, trained_on, detector), {}).values()),
            seconds=seconds,
            trained_on=trained_on,
        )


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Refuse a file in which what the block reads has another form."""
    try:
        yield
    except Refusal:
        raise
    except Exception as error:
        raise Refusal(
            f"`{path}` should be as `detect` has written it. Got {type(error).__name__}: {error}. Run `detect` again with "
            f"--run_dir {path.parent}."
        ) from error
