"""Why an image has its score: how much each part or reading of the detector contributes, and which pixels raise it.

Of a detector whose score is the sum of its parts', such as `WeightedParts`, contributions are those of the parts less their means
over the normal images that the guard keeps. Others are measured from a baseline, the mean of what is read of these: for the MLP
integrated gradients along the straight line from it, in closed form, since the MLP is piecewise linear there; for other
detectors Shapley values sampled over several orders of the readings, exact where the score is a sum over readings.

Reference:
    Sundararajan, Taly and Yan 2017, "Axiomatic Attribution for Deep Networks", Eq. 1; Castro, Gómez and Tejada 2009 for
    sampled Shapley values; Zeiler and Fergus 2014, section 4.2, for the map by occlusion.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lightning_gradood.core import LOG_FLOOR, as_float
from lightning_gradood.detectors import FittedMLP
from lightning_gradood.guard.guard import Guard
from lightning_gradood.networks import RepresentationMLP
from lightning_gradood.records import NORMAL, Records

_ORDERS = 8  # of readings, each taken forwards and backwards
_WINDOWS = 7  # along each side of an image; each covers a quarter of it


@dataclass(frozen=True)
class Explanation:
    """Why one image has its score.

    Args:
        baseline: mean score of normal images where parts are told; else of the baseline's readings with the own prediction.
        contributions: part, or reading such as `gradients/all_ones/conv1.weight`, to what it adds; they sum to score −
            baseline.
        heat: how much the score falls where a square around a pixel is covered with the image's mean colour, the mean over 49
            squares that overlap by half, float64 [H, W].
    """

    score: float
    baseline: float
    contributions: dict[str, float]
    heat: Tensor | None = None


def reading_names(guard: Guard) -> list[str]:
    """Names of all readings of a guard's detector, probe by probe; numbers where a probe names none."""
    found = []
    for probe in guard.probes:
        names, width = guard.saved.reads[probe.name], len(guard.usual_readings[probe.name])
        found += [f"{probe.name}/{name}" for name in (names if len(names) == width else range(width))]
    return found


def explain(guard: Guard, images: Tensor, heat: bool = False) -> list[Explanation]:
    """Explain the scores of images [N, C, H, W], as for `Guard.__call__`; a `heat` map takes as long as scoring 49 images."""
    records, fitted = guard.records(images), guard.fitted
    found = []
    for row in range(len(records)):
        record = Records(records.table.slice(row, 1))
        image, mean, scores = _readings(guard, record)
        score, baseline = scores(np.stack([image, mean])).tolist()
        parts, usual = guard.saved.detector.parts(fitted, record), guard.usual_parts
        if len(parts) > 1 and math.isclose(sum(part.item() for part in parts.values()), score):
            names, added = [*parts], [part.item() - usual[name] for name, part in parts.items()]
            baseline = sum(usual.values())
        elif isinstance(fitted, FittedMLP) and list(fitted.inputs.names) == ["norms"] and fitted.inputs.log_values:
            names, added = reading_names(guard), mlp_contributions(fitted.network, image, mean).tolist()
        else:
            names, added = reading_names(guard), shapley_values(scores, image, mean).tolist()
        warmth = _occlusion_map(guard, as_float(images[row].detach().cpu()), score) if heat else None
        found.append(Explanation(score, baseline, dict(zip(names, added, strict=True)), warmth))
    return found


def mlp_contributions(network: RepresentationMLP, image: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """Exact integrated gradients of an MLP's logit from norms `baseline` to `image`, on the line between logarithms, float64 [D].

    Every hidden unit's input is linear on the line, so the share of the line on which it is active has a closed form.
    They sum to the difference of the two logits up to float32 rounding.
    """
    statistics = network.standardisation
    inputs = torch.from_numpy(np.log(np.stack([baseline, image]) + LOG_FLOOR))
    weights = network.hidden_weight.double() @ (statistics.directions / statistics.std[:, None]).T
    start, end = (inputs - statistics.mean) @ weights.T + network.hidden_bias.double()
    rise = end - start
    active = (end.clamp_min(0) - start.clamp_min(0)) / torch.where(rise == 0, 1.0, rise) + (
        (rise == 0) & (start > 0)
    ).double()
    slopes = network.output_weight.double()[0] * active
    return np.asarray(((inputs[1] - inputs[0]) * (slopes @ weights)).numpy())


def shapley_values(
    scores: Callable[[np.ndarray], np.ndarray], image: np.ndarray, baseline: np.ndarray, orders: int = _ORDERS
) -> np.ndarray:
    """Shapley values, float64 [D], from `orders` random orders with a fixed seed, each taken forwards and backwards.

    `scores` maps readings [n, D] to float64 [n]; the values sum to the score of `image` minus that of `baseline`.
    """
    rng, width = np.random.default_rng(0), len(image)
    total = np.zeros(width)
    for _ in range(orders):
        order = rng.permutation(width)
        for places in (order, order[::-1]):
            rows = np.repeat(baseline[None], width + 1, axis=0)
            for step, place in enumerate(places, start=1):
                rows[step:, place] = image[place]
            total[places] += np.diff(scores(rows))
    return np.asarray(total / (2 * orders))


def _readings(guard: Guard, record: Records) -> tuple[np.ndarray, np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """Readings of one image and of the baseline, float64 [D], and a function to the image's scores with other readings."""
    names = [probe.name for probe in guard.probes]
    values = [record.probe(name)[0].astype(np.float64) for name in names]
    ends = np.cumsum([len(one) for one in values])[:-1]

    def scores(rows: np.ndarray) -> np.ndarray:
        records = Records.build(
            [f"image/{row}" for row in range(len(rows))],
            source=NORMAL,
            values=dict(zip(names, np.split(rows, ends, axis=-1), strict=True)),
            names={name: record.names(name) for name in names},
            prediction=[int(record.column("prediction")[0])] * len(rows),
        )
        with torch.device("cpu"):  # whatever the caller's default is
            return np.asarray(guard.fitted.score(records), dtype=np.float64)

    return np.concatenate(values), np.concatenate([guard.usual_readings[name] for name in names]), scores


def _occlusion_map(guard: Guard, image: Tensor, score: float) -> Tensor:
    """`Explanation.heat` of an image, float in [0, 1], [C, H, W]."""
    height, width = image.shape[1:]
    tall, wide = (max(1, 2 * size // (_WINDOWS + 1)) for size in (height, width))
    tops, lefts = (np.linspace(0, last, _WINDOWS).astype(int).tolist() for last in (height - tall, width - wide))
    windows = torch.zeros(_WINDOWS**2, height, width, dtype=torch.bool, device=image.device)
    for window, (top, left) in zip(windows, itertools.product(tops, lefts), strict=True):
        window[top : top + tall, left : left + wide] = True
    covered = torch.where(windows[:, None], image.mean(dim=(1, 2), keepdim=True), image)
    falls = score - torch.from_numpy(guard(covered).scores)
    return (windows * falls[:, None, None]).sum(dim=0) / windows.sum(dim=0)
