"""The figures of one experiment, drawn from the artifacts of its first run."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lightning_gradood.experiments.artifacts import RunArtifacts
from lightning_gradood.experiments.jobs import Call
from lightning_gradood.experiments.settings import Benchmark, TableSettings
from lightning_gradood.experiments.tables import title
from lightning_gradood.records import NORMAL, RecordCache, read_columns
from lightning_gradood.report import (
    ImageRow,
    Picture,
    Section,
    activation_norms,
    as_png,
    extreme_images,
    first_layer_figure,
    layer_norms,
    method_rocs,
    read_results,
    sample_sheet,
    source_title,
)

_LAYERS = "features/layers"


def figure_sections(experiment: str, calls: Sequence[Call], benchmark: Benchmark) -> list[Section]:
    """Draw the artifacts of an experiment's first run; a sentence replaces each figure that has no data."""
    call = calls[0]
    artifacts = RunArtifacts.read(call.folder)
    curves = [
        Picture(
            as_png(method_rocs(source, {title(name): found for name, found in scores.items()})),
            f"ROC on {source_title(source)}",
        )
        for source, scores in scores_of_test(call.folder).items()
    ]
    layers = [_gradients(artifacts), _activations(call, benchmark)]
    return [
        Section(f"{experiment}: ROC curves", f"Seed {call.seed}.", curves),
        Section(f"{experiment}: layer by layer (Figure 3)", "", layers),
        Section(f"{experiment}: images", "", [_samples(artifacts), *_extremes(artifacts)]),
        Section(
            f"{experiment}: what one image asks to change (Figure 1)", "", [_first_layer(artifacts, benchmark.tables)]
        ),
    ]


def scores_of_test(folder: Path) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """Source to detector to `labels` (0 normal, 1 anomalous; int64 [n]) and `scores` (float64 [n]) of `test`.

    Detectors that were trained on one other source are left out.
    """
    table = {name: np.array(values) for name, values in read_columns(folder / "scores.parquet").items()}
    others = np.isin(table["trained_on"], table["source"]) & (table["trained_on"] != table["source"])
    rows = (table["split"] == "test") & ~others
    found: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for source in dict.fromkeys(table["source"][rows]):
        for detector in dict.fromkeys(table["detector"][rows & (table["source"] == source)]):
            own = rows & (table["source"] == source) & (table["detector"] == detector)
            scores = {"labels": table["anomalous"][own], "scores": table["score"][own]}
            found.setdefault(str(source), {})[str(detector)] = scores
    return found


def _gradients(artifacts: RunArtifacts) -> Picture | str:
    if not artifacts.norms:
        return "3a is not drawn: no detector of this run reads gradient norms."
    return Picture(as_png(layer_norms(artifacts.norms, artifacts.layer_names)), "3a: gradient norms of every source")


def _activations(call: Call, benchmark: Benchmark) -> Picture | str:
    keys = read_results(call.folder, "provenance")["provenance"]["records"]
    entries = {name.removesuffix(f"/{_LAYERS}"): key for name, key in keys.items() if name.endswith(f"/{_LAYERS}")}
    if not entries:
        return "3b is not drawn: no detector of this run reads the network's features. LID does."
    cache = RecordCache(benchmark.cache_dir)
    if not all(cache.has(key) for key in entries.values()):
        return "3b is not drawn: the records of the network's features are no longer in the cache."
    records = {source: cache.read(key) for source, key in entries.items()}
    names = records[NORMAL].names(_LAYERS)
    features = {source: table.probe(_LAYERS) for source, table in records.items()}
    return Picture(as_png(activation_norms(features, names)), "3b: activation norms of every source")


def _samples(artifacts: RunArtifacts) -> Picture | str:
    if not artifacts.samples:
        return "None were stored."
    text = "Images from all over each source; attacked ones only where data.keep_pixels stores them"
    return Picture(as_png(sample_sheet({name: images[:8] for name, images in artifacts.samples.items()})), text)


def _extremes(artifacts: RunArtifacts) -> list[Picture | str]:
    found: list[Picture | str] = []
    for detector, rows in artifacts.extremes.items():
        text = f"Test images on which {title(detector)} was most wrong, with their scores; higher is more anomalous"
        found.append(Picture(as_png(extreme_images({name: ImageRow(**row) for name, row in rows.items()})), text))
    return found


def _first_layer(artifacts: RunArtifacts, tables: TableSettings) -> Picture | str:
    stored = artifacts.first_layer
    if not stored:
        return "Not drawn: the network has no convolution."
    others = [source for source in stored["images"] if source != NORMAL]
    asked = {"near": tables.near or next(iter(others), ""), "far": tables.far or next(reversed(others), "")}
    shown = {f"{role}: {source_title(source)}": source for role, source in asked.items() if source in stored["images"]}
    caption = f"{stored['name']} and the gradient of the all-ones loss for one image each"
    return Picture(as_png(first_layer_figure(stored, {NORMAL: NORMAL} | shown)), caption)
