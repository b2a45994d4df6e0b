"""The run folder as `detect` fills it, while network and records are at hand; everything is told from it afterwards."""

import io
import math
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import lightning_gradood
from lightning_gradood.core import (
    Refusal,
    Unwritable,
    arguments_of,
    as_float,
    atomic_write,
    class_path,
    going_on_without,
    versions,
)
from lightning_gradood.data import ImageDataModule, class_name, file_differences
from lightning_gradood.detectors import SavedDetector, score_in_blocks
from lightning_gradood.evaluation import (
    Calibrated,
    Failure,
    Outcome,
    attack_numbers,
)
from lightning_gradood.extraction import CacheEntry
from lightning_gradood.gradients import parameter_names
from lightning_gradood.guard import Description, Guard, KnownImages, Recipe, drawn_images, save_guard
from lightning_gradood.metrics import conformal_p_values
from lightning_gradood.networks import TwoLogits, state_digest
from lightning_gradood.probes import Probe
from lightning_gradood.records import NORMAL, Records, write_rows
from lightning_gradood.report.figure_data import arrays_for_figures, pixels_of, spread
from lightning_gradood.report.run import (
    ARRAYS,
    GUARD_SCORE_COLUMNS,
    GUARD_SCORES,
    SAMPLES,
    SPLITS,
    GuardSummary,
    write_arrays,
    write_results,
)
from lightning_gradood.report.tables import brackets, percent
from lightning_gradood.tasks import ClassificationTask

_SAMPLES = 10  # images of each source beside the guard
_COMPARED = 4  # images that a saved guard scores again; more fill the memory beside the records


@dataclass(frozen=True)
class Workplace:
    """What a run is about; without a `recipe` to build network and transform again, the guard stays in memory."""

    experiment: str
    model: ClassificationTask
    datamodule: ImageDataModule
    recipe: Recipe | None


def write_run(
    folder: Path,
    place: Workplace,
    entries: Sequence[CacheEntry],
    records: Mapping[str, Records],
    outcomes: Sequence[Outcome],
    failures: Sequence[Failure],
    about: Mapping[str, Any],
) -> None:
    """Write splits, results, scores and provenance, to which `about` belongs, then the arrays that figures need."""
    data = place.datamodule
    data.sources.manifest.write(folder / SPLITS)
    facts = image_facts(data, records)
    found = provenance(place, entries, records) | dict(about)
    write_results(folder, place.experiment, outcomes, failures, facts, found)
    arrays = arrays_for_figures(place.model.network, data, records, outcomes, facts)
    with going_on_without("what figures need"), atomic_write(folder / ARRAYS) as file:
        write_arrays(arrays, file)


def image_facts(datamodule: ImageDataModule, records: Mapping[str, Records]) -> dict[str, tuple[str, str, str]]:
    """Map each record's id to its image's file, empty if it is none, and the names of its class and prediction."""
    sources = datamodule.sources
    found: dict[str, tuple[str, str, str]] = {}
    for name, table in records.items():
        loaded = sources.clean.get(name, sources.normal)
        rows = {one: row for row, one in enumerate(loaded.ids)}
        columns = (table.column(column).tolist() for column in ("id", "origin_id", "label", "prediction"))
        for one, origin, label, prediction in zip(*columns, strict=True):
            path = loaded.path(rows[origin]) if origin in rows else ""
            found[one] = (path, class_name(label, loaded.classes), class_name(prediction, sources.classes))
    return found


def provenance(place: Workplace, entries: Sequence[CacheEntry], records: Mapping[str, Records]) -> dict[str, Any]:
    """Where the numbers come from: classifier, perturbations, records, command, versions, machine and commit."""
    sources, package = place.datamodule.sources, Path(lightning_gradood.__file__).parent
    program, *words = sys.argv
    ours = Path(program) == package / "__main__.py"
    labels, predictions = records[NORMAL].column("label"), records[NORMAL].column("prediction")
    known, classifier = labels >= 0, dict[str, Any]()
    if known.any():
        classifier["accuracy"] = float(np.mean(labels[known] == predictions[known]))
        classifier["classes"] = max(sources.outputs, 2) if sources.outputs else len(np.unique(labels[known]))
    perturbations = {}
    for name, made in sources.perturbed.items():
        made_by = {"class_path": class_path(type(made.attack)), "init_args": arguments_of(made.attack)}
        perturbations[name] = {**made_by, "images": len(made.ids), **attack_numbers(records[name])}
    return {
        "classifier": {"images": int(known.sum()), **classifier},
        "network_digest": state_digest(place.model.network),
        "files": file_differences(sources.clean),
        "perturbations": perturbations,
        "groups": sources.groups,
        "records": {f"{entry.source}/{entry.probe}": entry.key for entry in entries},
        "command": shlex.join(["python", "-m", "lightning_gradood", *words] if ours else sys.argv),
        "versions": versions(),
        "machine": f"{platform.system()} {platform.release()}, {platform.machine()}, {os.cpu_count()} processors",
        "commit": commit(package),
    }


def commit(package: Path) -> str:
    """The commit of the package's files, marked where they differ from it; or a note that they are not versioned."""
    if not _git(package, "ls-files", "__init__.py"):  # or it lies inside someone else's repository
        return "unknown, the package is not under version control"
    name = _git(package, "rev-parse", "HEAD")
    return f"{name}, with changes" if _git(package, "status", "--porcelain", "--", ".") else name


def working_commit() -> str:
    """Short commit hash of the working directory; empty outside a repository."""
    return _git(Path(), "rev-parse", "--short", "HEAD")


def _git(folder: Path, *words: str) -> str:
    """What git prints; nothing where it fails or is not installed."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def keep_guard(
    folder: Path,
    place: Workplace,
    chosen: Calibrated | Refusal,
    records: Mapping[str, Records],
    probes: Sequence[Probe],
) -> tuple[GuardSummary, Guard | None]:
    """Make a guard with its probes as they read, and save it where there is a recipe for its network.

    Beside a guard that is saved stand its own scores, and sample images where the images are no files. Returns its summary,
    which tells of an older one if it is refused, and the guard.
    """
    source, normal, images = place.datamodule.sources.normal, records[NORMAL], "FOLDER"
    rows = {name: row for row, name in enumerate(source.ids)}
    try:
        if isinstance(chosen, Refusal):
            raise chosen
        own = (normal.column("split") == "train") | np.isin(normal.ids, chosen.calibrating)
        kept = drawn_images(normal.keep(own), names := [one.name for one in probes])
        files = {name: os.path.abspath(path) for name in kept.ids if (path := source.path(rows[name]))}
        last = source.images([rows[name] for name in kept.ids[-_COMPARED:]])
        saved = SavedDetector.of(chosen.detector, chosen.fitted, chosen.threshold, kept, trained_on=chosen.trained_on)
        about, keeps = _description(place, chosen), KnownImages.of(kept, names, files)
        guard = Guard(place.model.network, saved, probes, source.transform, about, keeps)
        if place.recipe is not None:
            guard = save_guard(guard, folder, last)
            told = _scores(guard, place.datamodule, records)
            write_rows(told, GUARD_SCORE_COLUMNS, folder.parent / GUARD_SCORES, "--run_dir")
            if files:
                images = os.path.relpath(os.path.commonpath([*map(os.path.dirname, files.values())]))
            else:
                _write_samples(folder.parent / SAMPLES, guard, place.datamodule, records)
    except Unwritable:
        raise
    except Refusal as refusal:
        left = f" The guard in {folder} is that of an earlier run." if folder.exists() else ""
        return GuardSummary(f"No guard is saved: {refusal}{left}"), None
    measured, known = chosen.metrics[NORMAL], place.datamodule.sources.knows_anomalies
    tried, heading = ("anomalies", "images") if known else ("built-in anomalies", "images (built-in anomalies)")
    fitted = "normal images alone" if chosen.trained_on == NORMAL else chosen.trained_on
    found = f"mean AUROC {percent(chosen.val_auroc)} % on the {tried} of `val`"
    if math.isnan(chosen.val_auroc):
        found = "the first that was named, as no anomalies are in `val`"
    summary = GuardSummary(
        sentence=f"`{chosen.detector.name}`, fitted on {fitted} ({found}). It may flag "
        f"{100 * chosen.false_positive_rate:.3g} % of normal images; of {measured['test/images']:.0f} in `test` it flags "
        f"{100 * measured['test/flagged']:.1f} % {brackets(measured['low'], measured['high'])}.",
        heading=heading,
        metrics=chosen.metrics,
        detector=chosen.detector.name,
        false_positive_rate=chosen.false_positive_rate,
        packages=guard.packages,
        saved=place.recipe is not None,
        classes={
            class_name(one, place.datamodule.sources.classes) or "all others": n for one, n in chosen.classes.items()
        },
        images=images,
    )
    return summary, guard


def _scores(guard: Guard, data: ImageDataModule, records: Mapping[str, Records]) -> Iterator[dict[str, Any]]:
    """Rows of `GUARD_SCORES`: the score of every image of `val` and `test`."""
    facts, identity = image_facts(data, records), guard.about.identity
    for source, split in product((NORMAL, *data.sources.anomaly_names), ("val", "test")):
        if len(part := records[source].where(split=split)):
            scores = score_in_blocks(guard.fitted, part)
            numbers = (scores, conformal_p_values(guard.calibration, scores), scores > guard.threshold)
            for name, *values in zip(part.ids, *(one.tolist() for one in numbers), strict=True):
                told = (name, *facts.get(name, ("", "", "")), source, split, *values, identity)
                yield dict(zip(GUARD_SCORE_COLUMNS, told, strict=True))


def _write_samples(folder: Path, guard: Guard, data: ImageDataModule, records: Mapping[str, Records]) -> None:
    """Write ten `test` images of each source as PNG files, where the guard reads from these the pixels that were probed."""
    found = dict[str, bytes]()
    for source in (NORMAL, *data.sources.anomaly_names):
        pixels = pixels_of(data, records, source, spread(records[source].where(split="test").ids, _SAMPLES))
        for number, image in enumerate(() if pixels is None else pixels):
            picture = Image.fromarray(image if image.shape[2] == 3 else image[..., 0])
            with suppress(Refusal):  # a transform may take no pictures
                read = (as_float(guard.read(picture)) * 255).round().byte()
                if np.array_equal(read.permute(1, 2, 0).numpy(), image):
                    picture.save(buffer := io.BytesIO(), "PNG")
                    found[f"{source}/{number}.png"] = buffer.getvalue()
    for name, content in found.items():
        with atomic_write(folder / name, "--run_dir") as file:
            file.write(content)


def _description(place: Workplace, chosen: Calibrated) -> Description:
    data, model, recipe = place.datamodule, place.model, place.recipe or Recipe({})
    normalize, source = model.normalize, data.sources.normal
    return Description(
        experiment=place.experiment,
        network=recipe.network,
        normalize=None if normalize is None else {"mean": list(normalize.mean), "std": list(normalize.std)},
        transform=recipe.transform,
        picture=source.picture,
        image_shape=list(source.shape),
        classes=list(data.sources.classes),
        parameters=parameter_names(model.network),
        detector_name=chosen.detector.name,
        trained_on=chosen.trained_on,
        counts=chosen.counts,
        calibration=chosen.calibration.tolist(),
        calibration_classes=chosen.calibration_classes.tolist(),
        false_positive_rate=chosen.false_positive_rate,
        threshold=chosen.threshold,
        metrics=chosen.metrics,
        batch_size=data.probe_batch_size,
        built_in=not data.sources.knows_anomalies,
        one_logit=isinstance(model.network, TwoLogits),
        outputs=model.outputs,
    )
