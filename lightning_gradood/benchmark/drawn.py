"""The figures of one experiment, from what its first run has kept."""

import json
from collections.abc import Sequence

import numpy as np

from lightning_gradood.benchmark.commands import Call
from lightning_gradood.benchmark.html import heading, paragraph, picture
from lightning_gradood.benchmark.material import Material
from lightning_gradood.benchmark.runner import RESULTS
from lightning_gradood.benchmark.settings import Benchmark, TableSettings
from lightning_gradood.records import NORMAL, RecordCache
from lightning_gradood.report import activation_norms, as_png, layer_norms, method_rocs, sample_sheet, weight_gradients

_TAPS = "features/taps"


def drawn(experiment: str, calls: Sequence[Call], benchmark: Benchmark) -> list[str]:
    """Every figure there is material for; where there is none, a sentence says why.

    Args:
        experiment: its name.
        calls: of the experiment, the first seed's first.
        benchmark: where records are, and which images are near and far.
    """
    call = calls[0]
    material = Material.read(call.folder)
    return [
        heading(f"{experiment}: ROC curves"),
        paragraph(f"Seed {call.seed}.", "note"),
        '<div class="figures">',
        *(
            picture(as_png(method_rocs(source, scores)), f"ROC on {source}")
            for source, scores in material.scores.items()
        ),
        "</div>",
        heading(f"{experiment}: layer by layer (Figure 3)"),
        _gradients(material),
        _activations(call, benchmark),
        heading(f"{experiment}: images"),
        _samples(material),
        heading(f"{experiment}: what one image asks to change (Figure 1)"),
        _first_layer(material, benchmark.tables),
    ]


def _gradients(material: Material) -> str:
    if not material.norms:
        return paragraph("3a is not drawn: no detector of this run reads gradient norms.")
    return picture(
        as_png(layer_norms(material.norms, material.layer_names)), "3a: gradient norms of every source", wide=True
    )


def _activations(call: Call, benchmark: Benchmark) -> str:
    keys = json.loads((call.folder / RESULTS).read_text())["provenance"]["records"]
    entries = {name.removesuffix(f"/{_TAPS}"): key for name, key in keys.items() if name.endswith(f"/{_TAPS}")}
    if not entries:
        return paragraph("3b is not drawn: no detector of this run reads the network's features. LID does.")
    cache = RecordCache(benchmark.cache_dir)
    if not all(cache.has(key) for key in entries.values()):
        return paragraph("3b is not drawn: the records of the network's features are no longer in the cache.")
    records = {source: cache.read(key) for source, key in entries.items()}
    names = records[NORMAL].names(_TAPS)
    features = {source: table.probe(_TAPS) for source, table in records.items()}
    return picture(as_png(activation_norms(features, names)), "3b: activation norms of every source", wide=True)


def _samples(material: Material) -> str:
    if not material.samples:
        return paragraph("None were kept.")
    text = "Images from all over each source; attacked ones only where data.keep_pixels keeps them"
    return picture(as_png(sample_sheet({name: images[:8] for name, images in material.samples.items()})), text)


def _first_layer(material: Material, tables: TableSettings) -> str:
    kept = material.first_layer
    if not kept:
        return paragraph("Not drawn: the network has no convolution.")
    others = [source for source in kept["images"] if source != NORMAL]
    asked = {
        "normal": NORMAL,
        "near": tables.near or next(iter(others), None),
        "far": tables.far or (others or [None])[-1],
    }
    chosen = {
        role if role == source else f"{role}: {source}": source
        for role, source in asked.items()
        if source in kept["images"]
    }
    gradients: dict[str, np.ndarray] = {caption: kept["gradients"][source] for caption, source in chosen.items()}
    images = {caption: kept["images"][source] for caption, source in chosen.items()}
    caption = f"{kept['name']} and the gradient of the all-ones loss for one image each"
    return picture(as_png(weight_gradients(kept["name"], kept["weights"], gradients, images)), caption)
