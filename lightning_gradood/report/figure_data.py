"""The arrays that figures need, taken while network, images and records are at hand.

`docs/run_folder.md` lists their names, shapes and units.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from matplotlib import cbook
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lightning_gradood.core import LOG_FLOOR, as_float, exact_arithmetic, frozen_network, going_on_without, to_float64
from lightning_gradood.data import ImageDataModule, LoadedSource
from lightning_gradood.evaluation import Outcome
from lightning_gradood.gradients import AllOnes
from lightning_gradood.probes import columns_by_layer
from lightning_gradood.records import NORMAL, Records
from lightning_gradood.report.run import ImageFacts
from lightning_gradood.report.tables import not_transferred, title

_FEATURES = "features/layers"  # what LID reads
_SAMPLES = 12  # images of each source
_EXTREMES = 8  # images of each source on which a detector was most wrong
_PAIRS = 4  # images of each attack
_THUMBNAIL = 96  # pixels; larger images are subsampled
BOX = ("whislo", "q1", "med", "q3", "whishi")  # matplotlib's names of the numbers of a box


def arrays_for_figures(
    network: nn.Module,
    datamodule: ImageDataModule,
    records: Mapping[str, Records],
    outcomes: Sequence[Outcome],
    facts: Mapping[str, ImageFacts],
) -> dict[str, Any]:
    """Take what each figure needs, by figure; one that fails is left out with a warning, one without data is empty."""
    shown = {source: records[source] for source in [NORMAL, *datamodule.sources.anomaly_names]}
    parts: dict[str, Callable[[], Mapping[str, Any]]] = {
        "layer_norms": partial(_gradient_boxes, shown),
        "activation_norms": partial(_activation_boxes, shown),
        "first_layer": partial(first_layer, network, datamodule.sources.clean),
        "samples": partial(_samples, shown, datamodule),
        "attacked_samples": partial(_pairs, datamodule, records, facts),
        "extremes": partial(_extremes, outcomes, datamodule, records),
    }
    found: dict[str, Any] = {}
    for name, take in parts.items():
        with going_on_without(f"what the figure `{name}` needs"):
            found[name] = take()
    return found


def boxes(norms: Mapping[str, np.ndarray], layers: Sequence[str]) -> dict[str, Any]:
    """Summarise the distribution over images of squared norms, float64 [n, L] by source.

    Returns:
        `layers`, names [L]; by source, `images`, their number, and `boxes`, float64 [L, 5] of log10 of the squared norm:
        quartiles and median, between the smallest value from the 5th percentile on and the largest up to the 95th.
    """
    found = {}
    for source, values in norms.items():
        columns = cbook.boxplot_stats(np.log10(values + LOG_FLOOR), whis=(5, 95))
        found[source] = np.array([[column[name] for name in BOX] for column in columns])
    images = {source: np.array(len(values)) for source, values in norms.items()}
    return {"layers": np.array(layers), "images": images, "boxes": found}


def _gradient_boxes(shown: Mapping[str, Records]) -> dict[str, Any]:
    column = next((name for name in shown[NORMAL].probes if name.startswith("gradients/")), None)
    if column is None:
        return {}
    return boxes({source: table.probe(column) for source, table in shown.items()}, shown[NORMAL].names(column))


def _activation_boxes(shown: Mapping[str, Records]) -> dict[str, Any]:
    """Boxes of the squared norms of the feature layers' spatial averages."""
    if not all(_FEATURES in table.probes for table in shown.values()):
        return {}
    layers, norms = columns_by_layer(shown[NORMAL].names(_FEATURES)), {}
    for source, table in shown.items():
        squares = np.square(table.probe(_FEATURES))
        norms[source] = np.stack([squares[:, list(columns)].sum(axis=1) for columns in layers.values()], axis=1)
    return boxes(norms, list(layers))


def _spread(count: int, most: int) -> list[int]:
    """At most so many rows from all over a table."""
    return [int(row) for row in np.unique(np.linspace(0, count - 1, most).astype(int))]


def _samples(shown: Mapping[str, Records], datamodule: ImageDataModule) -> dict[str, np.ndarray]:
    found = {}
    for source, table in shown.items():
        ids = datamodule.sources.clean[source].ids if source in datamodule.sources.clean else table.ids
        images = _pixels(source, [ids[row] for row in _spread(len(table), _SAMPLES)], datamodule, table)
        if images is not None:
            found[source] = images
    return found


def _extremes(
    outcomes: Sequence[Outcome], datamodule: ImageDataModule, records: Mapping[str, Records]
) -> dict[str, dict[str, Any]]:
    """Images of `test` that each detector found hardest, from sources whose images are kept or loaded."""
    found: dict[str, dict[str, Any]] = {}
    for outcome in not_transferred(outcomes):
        rows, test = found.setdefault(outcome.detector, {}), outcome.scores["test"]
        order = np.argsort(test.scores, kind="stable")
        normal, anomalous = order[test.labels[order] == 0][::-1], order[test.labels[order] == 1]
        wanted = {f"{title(outcome.source)}, most normal": (outcome.source, anomalous[:_EXTREMES])}
        if not rows:
            wanted = {"normal, most anomalous": (NORMAL, normal[:_EXTREMES])} | wanted
        for heading, (source, places) in wanted.items():
            images = _pixels(source, [test.ids[place] for place in places], datamodule, records[source])
            if images is not None and len(images):
                rows[heading] = {"images": _thumbnails(images), "scores": test.scores[places]}
    return {detector: rows for detector, rows in found.items() if rows}


def _pairs(
    datamodule: ImageDataModule, records: Mapping[str, Records], facts: Mapping[str, ImageFacts]
) -> dict[str, Any]:
    """Images before and after each attack with both predictions, where a run keeps pixels."""
    found = {}
    for name, made in datamodule.sources.perturbed.items():
        if not (datamodule.keep_pixels and made.adversarial and name in datamodule.sources.anomaly_names):
            continue
        table = records[name]
        rows = _spread(len(table), _PAIRS)
        ids, origins = (table.column(column)[rows].tolist() for column in ("id", "origin_id"))
        clean, attacked = _pixels(NORMAL, origins, datamodule, table), _pixels(name, ids, datamodule, table)
        if clean is not None and attacked is not None:
            both = [(facts[origin].prediction, facts[one].prediction) for one, origin in zip(ids, origins, strict=True)]
            images = {"clean": _thumbnails(clean), "attacked": _thumbnails(attacked)}
            found[name] = {**images, "predictions": np.array(both)}
    return found


def _thumbnails(images: np.ndarray) -> np.ndarray:
    step = max(-(-max(images.shape[1:3]) // _THUMBNAIL), 1)
    return images[:, ::step, ::step]


def _pixels(source: str, ids: Sequence[str], datamodule: ImageDataModule, records: Records) -> np.ndarray | None:
    """Images by id, uint8 [k, H, W, C]; None for those made while probing and not kept in the source's records."""
    loaded = datamodule.sources.clean.get(source)
    place = {name: row for row, name in enumerate(loaded.ids if loaded is not None else records.ids)}
    rows = [place[name] for name in ids if name in place]
    if loaded is not None:
        images = (as_float(loaded.images(rows)) * 255).round().to(torch.uint8).numpy()
    elif datamodule.keep_pixels:
        kept = records.probe(f"pixels/{datamodule.keep_pixels}")[rows]
        kept = kept.reshape(len(rows), *datamodule.sources.normal.shape)
        images = kept if kept.dtype == np.uint8 else np.round(kept.astype(np.float32) * 255).astype(np.uint8)
    else:
        return None
    return np.asarray(images.transpose(0, 2, 3, 1))


def first_layer(network: nn.Module, sources: Mapping[str, LoadedSource]) -> dict[str, Any]:
    """Take the gradient of the first convolution's weight for the middle image of each source.

    The weight is differentiated by itself, as weight norm, spectral norm and pruning compute it in each forward pass.

    Returns:
        `name` of the weight, `weights` float32 [filters, C, h, w] as the images meet them (normalised, pruned) and, by
        source, `gradients` of the all-ones loss of one image, of the same shape, and `images` uint8 [H, W, C]; empty if
        the network has no convolution.

    Reference:
        Lee et al. 2022, Figure 1 and Eq. 1.
    """
    convolutions = [(name, one) for name, one in network.named_modules() if isinstance(one, nn.Conv2d)]
    if not convolutions:
        return {}
    name, convolution = convolutions[0]
    found: dict[str, Any] = {"name": np.array(f"{name}.weight"), "gradients": {}, "images": {}}
    for source, loaded in sources.items():
        image = as_float(loaded.images([len(loaded) // 2])).to(next(convolution.parameters()).device)
        weight, found["gradients"][source] = _weight_and_gradient(network, convolution, image)
        found.setdefault("weights", weight)
        found["images"][source] = (image[0] * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return found


def _weight_and_gradient(network: nn.Module, convolution: nn.Conv2d, image: Tensor) -> tuple[np.ndarray, np.ndarray]:
    with exact_arithmetic(), frozen_network(network), parametrize.cached():
        for name, parameter in convolution.named_parameters():
            parameter.requires_grad_(name != "bias")  # `frozen_network` puts back what it was
        logits = network(image)
        weight = convolution.weight
        logit_gradient = AllOnes().logit_gradient(to_float64(logits.detach())).to(logits)
        (gradient,) = torch.autograd.grad(logits, [weight], logit_gradient)
    return weight.detach().cpu().numpy().copy(), gradient.cpu().numpy()
