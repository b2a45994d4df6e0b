"""A finished run as its folder holds it: `Run.read` is the only reader of a run folder, and executes no code.

`docs/run_folder.md` lists the files, their columns and units.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lightning_gradood.core import CONFIG, Refusal, read_json, read_yaml
from lightning_gradood.evaluation import Failure, Outcome, SplitScores
from lightning_gradood.records import read_columns
from lightning_gradood.report.tables import FAILED, Table, percent

RESULTS, SCORES, CURVES = "results.parquet", "scores.parquet", "curves.parquet"
PROVENANCE, ARRAYS, SPLITS, PAGE = "provenance.json", "figures.npz", "splits.json", "report.html"
_PLACE = ("run_dir", "config")  # configuration keys that are locations
_NAMES = ("source", "trained_on", "detector")  # columns that together name an outcome


@dataclass(frozen=True)
class GuardSummary:
    """What is told of a run's guard.

    Args:
        sentence: which detector it runs and what it flags, or why there is none.
        heading: of the column of sources.
        metrics: source to numbers, see `evaluation.Calibrated`; empty where there is no guard.
        detector: its name.
        false_positive_rate: share of normal images that it may flag.
        packages: of the user's, from which network and transform are built.
    """

    sentence: str = "No guard is saved: the run ended before."
    heading: str = ""
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    detector: str = ""
    false_positive_rate: float = 0.0
    packages: Sequence[str] = ()

    def command(self, folder: Path) -> str:
        """The command that scores images with the guard of a run folder."""
        trust = "".join(f" --trust {name}" for name in self.packages)
        return f"python -m lightning_gradood score --guard {folder / 'guard'}{trust} FOLDER"

    @property
    def table(self) -> Table:
        """AUROC and share flagged of each source on `test`, and the share of normal images flagged."""
        rows = [
            [name, percent(one.get("test/auroc")), f"{100 * one['test/flagged']:.1f}"]
            for name, one in self.metrics.items()
        ]
        return Table([self.heading, "AUROC", "flagged, %"], rows)

    def text(self, folder: Path) -> str:
        """The summary as lines for a terminal."""
        if not self.metrics:
            return self.sentence
        return f"Guard: {self.sentence}\n\n{self.table.text()}\n\nIt scores any image:\n  {self.command(folder)}"


@dataclass(frozen=True)
class Run:
    """What a run has found, read from its folder.

    Args:
        name: its folder's name, or the whole path where runs that were read with it have the same.
        outcomes: one per anomaly source and detector, or one per pair of sources under protocol `cross`; `scores` are
            empty here and filled in `scored`.
        failures: detectors that have no outcome on a source, with the reason.
        provenance: versions, network, checkpoint, seeds, seconds: what a reader needs to repeat the run.
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
        _check_folder(folder)
        with _reading(folder / PROVENANCE):
            about = dict(read_json(folder / PROVENANCE))
            experiment, failures = str(about.pop("experiment")), [Failure(**one) for one in about.pop("failures")]
            guard = GuardSummary(**about.pop("guard"))
        with _reading(folder / RESULTS):
            outcomes = list(_outcomes(read_columns(folder / RESULTS), read_columns(folder / CURVES)))
        with _reading(folder / CONFIG):
            config = dict(_flat(read_yaml(folder / CONFIG))) if (folder / CONFIG).is_file() else {}
        known = {key: value for key, value in config.items() if key not in _PLACE}
        return cls(name or folder.name, folder, experiment, outcomes, failures, about, known, guard)

    @cached_property
    def scored(self) -> list[Outcome]:
        """The outcomes with the scores of every image of `val` and `test`."""
        with _reading(self.folder / SCORES):
            table, rows = read_columns(self.folder / SCORES), dict[tuple[str, ...], list[int]]()
            for row, key in enumerate(zip(*(table[name] for name in (*_NAMES, "split")), strict=True)):
                rows.setdefault(key, []).append(row)
            ids, labels, scores = table["id"], np.array(table["anomalous"]), np.array(table["score"], dtype=np.float64)

            def split_scores(one: Outcome, split: str) -> SplitScores:
                found = rows[one.source, one.trained_on, one.detector, split]
                return SplitScores([ids[row] for row in found], labels[found], scores[found])

            return [
                replace(one, scores={split: split_scores(one, split) for split in ("val", "test")})
                for one in self.outcomes
            ]

    @cached_property
    def arrays(self) -> dict[str, Any]:
        """The arrays that figures need, nested by the names that `docs/run_folder.md` lists; empty where there are none."""
        return read_arrays(self.folder / ARRAYS) if (self.folder / ARRAYS).is_file() else {}


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read several runs, each folder given once."""
    seen: set[Path] = set()
    for folder in folders:
        _check_folder(folder)
        if folder.resolve() in seen:
            raise Refusal(f"`compare` should be given each run once. Got `{folder}` twice. Remove one.")
        seen.add(folder.resolve())
    same = len({folder.name for folder in folders}) < len(folders)
    return [Run.read(folder, str(folder) if same else folder.name) for folder in folders]


def newest_run(parent: Path) -> Path | None:
    """The folder of the newest run of any experiment below `parent`."""
    found = sorted(parent.glob(f"*/*/{RESULTS}"), key=lambda path: path.stat().st_mtime)
    return found[-1].parent if found else None


def write_arrays(arrays: Mapping[str, Any], file: Any) -> None:
    """Write nested arrays as `.npz`, each under its names joined by `/`."""
    np.savez_compressed(file, allow_pickle=False, **dict(_joined(arrays)))


def _joined(nested: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, np.ndarray]]:
    for name, value in nested.items():
        key = f"{above}{name.replace('%', '%25').replace('/', '%2F')}"
        if isinstance(value, Mapping):
            yield from _joined(value, f"{key}/")
        else:
            yield key, np.asarray(value)


def read_arrays(path: Path) -> dict[str, Any]:
    """Read what `write_arrays` wrote; a damaged file is refused."""
    nested: dict[str, Any] = {}
    with _reading(path), np.load(path, allow_pickle=False) as arrays:
        for key, array in arrays.items():
            *above, name = (part.replace("%2F", "/").replace("%25", "%") for part in key.split("/"))
            place = nested
            for part in above:
                place = place.setdefault(part, {})
            place[name] = array
    return nested


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        got = "is no folder" if folder.exists() else "does not exist"
        raise Refusal(f"A run folder should be given. Got `{folder}`, which {got}. Correct the path.")
    if (folder / RESULTS).is_file():
        return
    inside = sorted(path.parent for path in folder.glob(f"*/{RESULTS}"))
    advice = f"Did you mean `{inside[-1]}`?" if inside else "`detect`, or `fit` at its end, writes them."
    raise Refusal(f"`{folder}` should be a run folder with results. Got no {RESULTS} in it. {advice}")


def _outcomes(table: Mapping[str, Sequence[Any]], curves: Mapping[str, Sequence[Any]]) -> Iterator[Outcome]:
    """Put the rows of the long tables together again; what is not known is NaN, a threshold above all scores infinite."""
    numbers: dict[tuple[str, ...], dict[str, dict[str, float]]] = {}
    intervals: dict[tuple[str, ...], tuple[float, float]] = {}
    columns = (table[name] for name in (*_NAMES, "split", "metric", "value", "low", "high"))
    for *names, split, metric, value, low, high in zip(*columns, strict=True):
        if metric != FAILED:
            known = math.nan if value is None else float(value)
            numbers.setdefault(tuple(names), {}).setdefault(split, {})[metric] = known
            if (split, metric) == ("test", "auroc"):
                intervals[tuple(names)] = known if low is None else float(low), known if high is None else float(high)
    points: dict[tuple[str, ...], dict[int, dict[str, float]]] = {}
    for *names, epoch, metric, value in zip(
        *(curves[name] for name in (*_NAMES, "epoch", "metric", "value")), strict=True
    ):
        points.setdefault(tuple(names), {}).setdefault(epoch, {"epoch": epoch})[metric] = value
    for (source, trained_on, detector), splits in numbers.items():
        key = (source, trained_on, detector)
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
            auroc_interval=intervals[key],
            threshold=math.inf if math.isnan(threshold) else threshold,
            scores={},
            curves=list(points.get(key, {}).values()),
            seconds=seconds,
            trained_on=trained_on,
        )


def _flat(nested: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys with their values; an empty mapping is kept, so that it differs from a missing one."""
    for key, value in nested.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


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
