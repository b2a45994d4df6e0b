"""The run folder as `detect` fills it, while network and records are at hand; everything is told from it afterwards."""

import json
import math
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import lightning_gradood
from lightning_gradood.core import arguments_of, atomic_write, class_path, going_on_without, read_json
from lightning_gradood.data import ImageDataModule, class_name
from lightning_gradood.evaluation import FLAGGED, Failure, Outcome, attack_numbers
from lightning_gradood.extraction import CacheEntry
from lightning_gradood.guard import Recipe
from lightning_gradood.metrics import binomial_interval
from lightning_gradood.networks import state_digest
from lightning_gradood.perturbations import Perturbation
from lightning_gradood.records import NORMAL, Records, write_columns
from lightning_gradood.report.figure_data import arrays_for_figures
from lightning_gradood.report.run import ARRAYS, CURVES, PROVENANCE, RESULTS, SCORES, SPLITS, GuardSummary, write_arrays
from lightning_gradood.report.tables import FAILED, csv_text, not_transferred, outcome_numbers
from lightning_gradood.tasks import ClassificationTask

_PACKAGES = ("torch", "torchvision", "lightning", "numpy", "scikit-learn")
_COLUMNS = ("source", "trained_on", "detector", "split", "metric", "value", "low", "high")


@dataclass(frozen=True)
class Workplace:
    """What a run is about; without a `recipe` to build network and transform again, no guard can be saved."""

    experiment: str
    model: ClassificationTask
    datamodule: ImageDataModule
    cache_dir: str
    recipe: Recipe | None


class ImageFacts(NamedTuple):
    """An image's file (empty if it is none), and the names of its class and prediction (indices if they have none)."""

    path: str
    label: str
    prediction: str


def write_run(
    folder: Path,
    place: Workplace,
    entries: Sequence[CacheEntry],
    records: Mapping[str, Records],
    outcomes: Sequence[Outcome],
    failures: Sequence[Failure],
    about: Mapping[str, Any],
) -> None:
    """Write splits, results, scores and provenance, then the arrays that figures need.

    Args:
        entries: of the cache, which hold the records.
        records: by source.
        about: what is to stand in the provenance beside what is found here.
    """
    data = place.datamodule
    data.sources.manifest.write(folder / SPLITS)
    facts = image_facts(data, records)
    found = provenance(place, entries, records) | dict(about)
    write_results(folder, place.experiment, outcomes, failures, facts, found)
    arrays = arrays_for_figures(place.model.network, data, records, outcomes, facts)
    with going_on_without("what figures need"), atomic_write(folder / ARRAYS) as file:
        write_arrays(arrays, file)


def write_results(
    folder: Path,
    experiment: str,
    outcomes: Sequence[Outcome],
    failures: Sequence[Failure] = (),
    facts: Mapping[str, ImageFacts] | None = None,
    found: Mapping[str, Any] | None = None,
) -> None:
    """Write the tables and `provenance.json`, which holds what is `found` of the run; each appears whole or not at all."""
    table = results_table(outcomes, failures)
    with atomic_write(folder / "results.csv") as file:
        file.write(csv_text(table, zip(*table.values(), strict=True)).encode())
    write_columns(folder / RESULTS, table)
    write_columns(folder / SCORES, scores_table(outcomes, facts or {}))
    write_columns(folder / CURVES, curves_table(outcomes))
    document = {"experiment": experiment, **(found or {}), "failures": list(map(asdict, failures))}
    _write_provenance(folder, document | {"guard": {}})


def write_guard_summary(folder: Path, guard: GuardSummary) -> None:
    """Add what is told of the guard to `provenance.json`."""
    _write_provenance(folder, read_json(folder / PROVENANCE) | {"guard": asdict(guard)})


def _write_provenance(folder: Path, document: Mapping[str, Any]) -> None:
    with atomic_write(folder / PROVENANCE) as file:
        file.write(f"{json.dumps(plain(document), indent=2, allow_nan=False)}\n".encode())


def plain(value: Any) -> Any:
    """Convert to JSON types: numbers that are not finite become None, other objects their text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def results_table(outcomes: Iterable[Outcome], failures: Iterable[Failure] = ()) -> dict[str, list[Any]]:
    """List every number of every outcome, one row each, as columns; a failure is a row `failed` without a value.

    Rates are in [0, 1]; `low` and `high` are a 95 % interval (bootstrap for test AUROC, binomial for false-positive
    rates); `threshold` is under `val`, `seconds` (to fit and score) under `test`; what is not finite or not known is
    None.
    """
    rows = []
    for outcome in outcomes:
        names = (outcome.source, outcome.trained_on or outcome.source, outcome.detector)
        intervals = {"auroc": outcome.auroc_interval, **_rate_intervals(outcome)}
        numbers = outcome_numbers(outcome)
        numbers.setdefault("val", {})["threshold"] = outcome.threshold
        numbers["test"]["seconds"] = outcome.seconds
        for split, metrics in numbers.items():
            for metric, value in metrics.items():
                if metric not in ("auroc_low", "auroc_high"):
                    interval = intervals.get(metric, (None, None)) if split == "test" else (None, None)
                    found = [None if value is None else float(value), *interval]
                    rows.append((*names, split, metric, *(plain(number) for number in found)))
    rows += [(one.source, one.trained_on, one.detector, "test", FAILED, None, None, None) for one in failures]
    return {name: [row[place] for row in rows] for place, name in enumerate(_COLUMNS)}


def _rate_intervals(outcome: Outcome) -> dict[str, tuple[float, float]]:
    """Clopper and Pearson's 95 % intervals of shares of normal `test` images that are flagged."""
    test = outcome.scores["test"]
    normal = test.scores[test.labels == 0]
    found = {"false_positive_rate": binomial_interval(int((normal > outcome.threshold).sum()), len(normal))}
    for metric in FLAGGED.keys() & outcome.metrics["test"].keys():
        found[metric] = binomial_interval(round(outcome.metrics["test"][metric] * len(normal)), len(normal))
    return found


def scores_table(outcomes: Iterable[Outcome], facts: Mapping[str, ImageFacts]) -> dict[str, list[Any]]:
    """List, as columns, the score of every image of `val` and `test` by every detector.

    `path` is the file, or that which the image was made from; `anomalous` 0 or 1; `score` higher = more anomalous;
    `p_value` conformal, against the normal images of `val`; `flagged`: score above the threshold.
    """
    names = ("source", "trained_on", "split", "detector", "anomalous", "score", "p_value", "flagged")
    table: dict[str, list[Any]] = {name: [] for name in ("id", *ImageFacts._fields, *names)}
    unknown = ImageFacts("", "", "")
    for outcome in outcomes:
        same = {"source": outcome.source, "trained_on": outcome.trained_on or outcome.source}
        for split, found in outcome.scores.items():
            known = [facts.get(name, unknown) for name in found.ids]
            columns = {
                "id": found.ids,
                **dict(zip(ImageFacts._fields, zip(*known, strict=True), strict=True)),
                **{
                    name: [value] * len(known)
                    for name, value in {**same, "split": split, "detector": outcome.detector}.items()
                },
                "anomalous": found.labels.tolist(),
                "score": found.scores.tolist(),
                "p_value": outcome.p_values(split).tolist(),
                "flagged": (found.scores > outcome.threshold).tolist(),
            }
            for name, values in columns.items():
                table[name] += values
    return table


def curves_table(outcomes: Iterable[Outcome]) -> dict[str, list[Any]]:
    """List, as columns, every value of every training curve; transferred detectors have that of their own source."""
    rows = [
        (
            one.source,
            one.trained_on or one.source,
            one.detector,
            int(point.get("epoch", position)),
            metric,
            float(value),
        )
        for one in not_transferred(outcomes)
        for position, point in enumerate(one.curves)
        for metric, value in point.items()
        if metric != "epoch"
    ]
    names = ("source", "trained_on", "detector", "epoch", "metric", "value")
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}


def image_facts(datamodule: ImageDataModule, records: Mapping[str, Records]) -> dict[str, ImageFacts]:
    """Map each record's id to its image's file, class and prediction."""
    sources = datamodule.sources
    found: dict[str, ImageFacts] = {}
    for name, table in records.items():
        loaded = sources.clean.get(name, sources.normal)
        rows = {one: row for row, one in enumerate(loaded.ids)}
        columns = (table.column(column).tolist() for column in ("id", "origin_id", "label", "prediction"))
        for one, origin, label, prediction in zip(*columns, strict=True):
            path = loaded.path(rows[origin]) if origin in rows else ""
            found[one] = ImageFacts(path, class_name(label, loaded.classes), class_name(prediction, sources.classes))
    return found


def provenance(place: Workplace, entries: Sequence[CacheEntry], records: Mapping[str, Records]) -> dict[str, Any]:
    """Where the numbers come from: classifier, perturbations, records, command, versions, machine and commit."""
    sources = place.datamodule.sources
    package = Path(lightning_gradood.__file__).parent
    program, *words = sys.argv
    ours = Path(program) == package / "__main__.py"
    versions = {"lightning_gradood": lightning_gradood.__version__, "python": platform.python_version()}
    return {
        "classifier": classifier_accuracy(records[NORMAL], sources.outputs and max(sources.outputs, 2)),
        "network_digest": state_digest(place.model.network),
        "perturbations": {
            name: {**_made_by(made.attack), "images": len(made.ids), **attack_numbers(records[name])}
            for name, made in sources.perturbed.items()
        },
        "records": {f"{entry.source}/{entry.probe}": entry.key for entry in entries},
        "command": shlex.join(["python", "-m", "lightning_gradood", *words] if ours else sys.argv),
        "versions": versions | {package: version(package) for package in _PACKAGES},
        "machine": f"{platform.system()} {platform.release()}, {platform.machine()}, {os.cpu_count()} processors",
        "commit": commit(package),
    }


def _made_by(attack: Perturbation) -> dict[str, Any]:
    return {"class_path": class_path(type(attack)), "init_args": arguments_of(attack)}


def classifier_accuracy(normal: Records, outputs: int | None = None) -> dict[str, float | int]:
    """Accuracy on labelled normal images, their number, and the number of classes (`outputs`, or those found)."""
    labels, predictions = normal.column("label"), normal.column("prediction")
    known = labels >= 0
    if not known.any():
        return {"images": 0}
    accuracy = float(np.mean(labels[known] == predictions[known]))
    return {"images": int(known.sum()), "accuracy": accuracy, "classes": outputs or len(np.unique(labels[known]))}


def commit(package: Path) -> str:
    """The commit of the package's files, marked where they differ from it; or a note that they are not versioned."""
    try:
        _git(package, "ls-files", "--error-unmatch", "__init__.py")  # or it lies inside someone else's repository
        name = _git(package, "rev-parse", "HEAD")
        return f"{name}, with changes" if _git(package, "status", "--porcelain", "--", ".") else name
    except (OSError, subprocess.CalledProcessError):
        return "unknown, the package is not under version control"


def working_commit() -> str:
    """Short commit hash of the working directory; empty outside a repository."""
    try:
        return _git(Path(), "rev-parse", "--short", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()
