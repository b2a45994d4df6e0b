"""The arrays that figures need, taken while network, images and records are at hand.

`docs/run_folder.md` lists their names, shapes and units.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from matplotlib import cbook
from torch import nn
from torch.nn.utils import parametrize

from lightning_gradood.core import LOG_FLOOR, as_float, frozen_network, going_on_without, to_float64
from lightning_gradood.data import ImageDataModule, LoadedSource
from lightning_gradood.evaluation import Outcome
from lightning_gradood.gradients import AllOnes
from lightning_gradood.probes import columns_by_layer
from lightning_gradood.records import NORMAL, Records
from lightning_gradood.report.tables import not_transferred

_FEATURES = "features/layers"  # what LID reads
_SAMPLES = 12  # images of each source
_EXTREMES = 8  # images of each source on which a detector was most wrong
_PAIRS = 4  # images of each attack
_THUMBNAIL = 96  # pixels; larger images are subsampled
BOX = ("whislo", "q1", "med", "q3", "whishi")  # matplotlib's names of the numbers of a box


Pixels = Callable[[str, Sequence[str]], np.ndarray | None]  # source and ids to images


def arrays_for_figures(
    network: nn.Module,
    datamodule: ImageDataModule,
    records: Mapping[str, Records],
    outcomes: Sequence[Outcome],
    facts: Mapping[str, tuple[str, str, str]],
) -> dict[str, Any]:
    """Take what each figure needs, by figure; one that fails is left out with a warning, one without data is empty."""
    names, pixels = datamodule.sources.anomaly_names, partial(pixels_of, datamodule, records)
    shown = {source: records[source] for source in [NORMAL, *names]}
    attacked = [name for name, made in datamodule.sources.perturbed.items() if made.adversarial and name in names]
    parts: dict[str, Callable[[], Mapping[str, Any]]] = {
        "layer_norms": lambda: _gradient_boxes(shown),
        "activation_norms": lambda: _activation_boxes(shown),
        "first_layer": lambda: first_layer(network, datamodule.sources.clean),
        "samples": lambda: {source: pixels(source, spread(table.ids, _SAMPLES)) for source, table in shown.items()},
        "attacked_samples": lambda: {name: _pairs(pixels, name, records[name], facts) for name in attacked},
        "extremes": lambda: _extremes(pixels, outcomes),
    }
    found: dict[str, Any] = {}
    for name, take in parts.items():
        with going_on_without(f"what the figure `{name}` needs"):
            found[name] = {key: one for key, one in take().items() if one is not None}
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


def spread(rows: Sequence[Any], most: int) -> list[Any]:
    """At most so many from all over a sequence, which may be empty."""
    return [rows[row] for row in np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int))]


def _extremes(pixels: Pixels, outcomes: Sequence[Outcome]) -> dict[str, dict[str, Any] | None]:
    """Images of `test` that each detector found hardest, from sources whose images are kept or loaded."""
    found: dict[str, dict[str, Any]] = {}
    for outcome in not_transferred(outcomes):
        rows, test = found.setdefault(outcome.detector, {}), outcome.scores["test"]
        order = np.argsort(test.scores, kind="stable")
        normal, anomalous = order[test.labels[order] == 0][::-1], order[test.labels[order] == 1]
        wanted = {f"{outcome.source}, most normal": (outcome.source, anomalous[:_EXTREMES])}
        if not rows:
            wanted = {"normal, most anomalous": (NORMAL, normal[:_EXTREMES])} | wanted
        for heading, (source, places) in wanted.items():
            images = pixels(source, [test.ids[place] for place in places])
            if images is not None and len(images):
                rows[heading] = {"images": _thumbnails(images), "scores": test.scores[places]}
    return {detector: rows or None for detector, rows in found.items()}


def _pairs(
    pixels: Pixels, attack: str, table: Records, facts: Mapping[str, tuple[str, str, str]]
) -> dict[str, Any] | None:
    """Images before and after an attack with both predictions, where a run keeps pixels."""
    rows = spread(range(len(table)), _PAIRS)
    ids, origins = (table.column(column)[rows].tolist() for column in ("id", "origin_id"))
    clean, attacked = pixels(NORMAL, origins), pixels(attack, ids)
    if clean is None or attacked is None:
        return None
    both = [(facts[origin][2], facts[one][2]) for one, origin in zip(ids, origins, strict=True)]
    return {"clean": _thumbnails(clean), "attacked": _thumbnails(attacked), "predictions": np.array(both)}


def _thumbnails(images: np.ndarray) -> np.ndarray:
    step = max(-(-max(images.shape[1:3]) // _THUMBNAIL), 1)
    return images[:, ::step, ::step]


def pixels_of(
    datamodule: ImageDataModule, records: Mapping[str, Records], source: str, ids: Sequence[str]
) -> np.ndarray | None:
    """Images by id, uint8 [k, H, W, C]; None for those made while probing and not kept in the source's records."""
    loaded = datamodule.sources.clean.get(source)
    if loaded is None and not datamodule.keep_pixels:
        return None
    place = {name: row for row, name in enumerate(records[source].ids if loaded is None else loaded.ids)}
    rows = [place[name] for name in ids if name in place]
    if loaded is not None:
        images = (as_float(loaded.images(rows)) * 255).round().to(torch.uint8).numpy()
    else:
        kept = records[source].probe(f"pixels/{datamodule.keep_pixels}")[rows]
        kept = kept.reshape(len(rows), *datamodule.sources.normal.shape)
        images = kept if kept.dtype == np.uint8 else np.round(kept.astype(np.float32) * 255).astype(np.uint8)
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
        with frozen_network(network), parametrize.cached():
            for parameter_name, parameter in convolution.named_parameters():
                parameter.requires_grad_(parameter_name != "bias")  # `frozen_network` puts back what it was
            logits = network(image)
            weight = convolution.weight
            logit_gradient = AllOnes().logit_gradient(to_float64(logits.detach())).to(logits)
            (gradient,) = torch.autograd.grad(logits, [weight], logit_gradient)
        found["weights"], found["gradients"][source] = weight.detach().cpu().numpy().copy(), gradient.cpu().numpy()
        found["images"][source] = (image[0] * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return found
