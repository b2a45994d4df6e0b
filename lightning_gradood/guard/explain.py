"""Why an image has its score: how much each reading of the detector contributes, and which pixels would change it.

Contributions are measured from a baseline, the mean normal image's readings, and sum to the score minus the baseline's.
For the MLP they are integrated gradients along the straight line from the baseline, in closed form, since the MLP is
piecewise linear on it. For other detectors they are Shapley values sampled over several orders of the readings; exact
where the score is a sum over readings.

Reference:
    Sundararajan, Taly and Yan 2017, "Axiomatic Attribution for Deep Networks", Eq. 1; Castro, Gómez and Tejada 2009 for
    sampled Shapley values; Simonyan, Vedaldi and Zisserman 2014 for the heat map.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lightning_gradood.core import LOG_FLOOR, as_float, logits_in
from lightning_gradood.detectors import FittedMLP
from lightning_gradood.guard.guard import Guard
from lightning_gradood.networks import RepresentationMLP
from lightning_gradood.probes import FeatureLayerProbe, GradientProbe, LogitsProbe, Probe, feature_layer_outputs
from lightning_gradood.records import NORMAL, Records, normal_records

_ORDERS = 8  # of readings, each taken forwards and backwards
_STEP = 1e-4  # relative, of the finite differences of the detector


@dataclass(frozen=True)
class Explanation:
    """Why one image has its score.

    Args:
        baseline: score of the baseline's readings with the image's own prediction.
        contributions: reading, such as `gradients/all_ones/conv1.weight`, to what it adds; they sum to score − baseline.
        heat: L2 norm over channels of the gradient of the score in the pixels, float64 [H, W].
        note: why there is no heat map; empty where there is.
    """

    score: float
    baseline: float
    contributions: dict[str, float]
    heat: Tensor | None = None
    note: str = ""


def mean_readings(records: Records, probes: Sequence[Probe]) -> dict[str, list[float]]:
    """A guard's baseline: means over normal records of what probes read, geometric for gradient norms."""
    normal, found = normal_records(records), {}
    for probe in probes:
        values = normal.probe(probe.name).astype(np.float64)
        mean = values.mean(axis=0)
        if isinstance(probe, GradientProbe):
            mean = np.exp(np.log(values + LOG_FLOOR).mean(axis=0))
        found[probe.name] = mean.tolist()
    return found


def reading_names(guard: Guard) -> list[str]:
    """Names of all readings of a guard's detector, probe by probe; numbers where a probe names none."""
    found = []
    for probe in guard.probes:
        names, width = guard.saved.reads[probe.name], len(guard.about.baseline[probe.name])
        found += [f"{probe.name}/{name}" for name in (names if len(names) == width else range(width))]
    return found


def explain(guard: Guard, images: Tensor, heat: bool = False) -> list[Explanation]:
    """Explain the scores of images [N, C, H, W], as for `Guard.__call__`; `heat` maps take a second backward pass."""
    records, names, fitted = guard.records(images), reading_names(guard), guard.fitted
    found = []
    for row in range(len(records)):
        one = _Readings(guard, Records(records.table.slice(row, 1)))
        score, baseline = one.scores(np.stack([one.image, one.baseline])).tolist()
        if isinstance(fitted, FittedMLP) and not fitted.inputs.log_norms:
            parts = mlp_contributions(fitted.network, one.image, one.baseline)
        else:
            parts = shapley_values(one.scores, one.image, one.baseline)
        told = dict(zip(names, parts.tolist(), strict=True))
        warmth, note = _heat_map(one, as_float(images[row : row + 1].detach().cpu())) if heat else (None, "")
        found.append(Explanation(score, baseline, told, warmth, note))
    return found


def mlp_contributions(network: RepresentationMLP, image: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """Exact integrated gradients of the MLP's logit from `baseline` to `image`, float64 [D].

    Every hidden unit's input is linear on the line, so the share of the line on which it is active has a closed form.
    They sum to the difference of the two logits up to float32 rounding.
    """
    statistics = network.standardisation
    ends = torch.from_numpy(np.stack([baseline, image]))
    inputs = torch.log(ends + LOG_FLOOR) if statistics.log_values else ends
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


class _Readings:
    """Readings of one image and of the baseline, float64 [D], and the image's scores with other readings."""

    def __init__(self, guard: Guard, record: Records) -> None:
        self.guard, self.record = guard, record
        values = [record.probe(probe.name)[0].astype(np.float64) for probe in guard.probes]
        self.image, self._widths = np.concatenate(values), [len(one) for one in values]
        self.baseline = np.concatenate([guard.about.baseline[probe.name] for probe in guard.probes])
        self.is_log = np.repeat([isinstance(probe, GradientProbe) for probe in guard.probes], self._widths)

    def split(self, rows: np.ndarray) -> list[np.ndarray]:
        return np.split(rows, np.cumsum(self._widths)[:-1], axis=-1)

    def scores(self, rows: np.ndarray) -> np.ndarray:
        names = [probe.name for probe in self.guard.probes]
        table = Records.build(
            [f"image/{row}" for row in range(len(rows))],
            source=NORMAL,
            values=dict(zip(names, self.split(rows), strict=True)),
            names={name: self.record.names(name) for name in names},
            prediction=[int(self.record.column("prediction")[0])] * len(rows),
        )
        return np.asarray(self.guard.fitted.score(table), dtype=np.float64)

    def slopes(self) -> np.ndarray:
        """Central-difference derivative of the score in each reading, or in its logarithm for gradient norms."""
        size = np.where(self.is_log, 1.0, np.maximum(np.abs(self.image), 1e-3))
        rows = []
        for step in (_STEP, -_STEP):
            moved = np.where(self.is_log, self.image * math.exp(step), self.image + step * size)
            rows.append(np.where(np.eye(len(self.image), dtype=bool), moved, self.image))
        up, down = np.split(self.scores(np.concatenate(rows)), 2)
        return np.asarray((up - down) / (2 * _STEP * size))


def _heat_map(readings: _Readings, image: Tensor) -> tuple[Tensor | None, str]:
    """`Explanation.heat` and `note` of an image, float in [0, 1], [1, C, H, W]."""
    probes = readings.guard.probes
    others = [one.name for one in probes if not isinstance(one, GradientProbe | LogitsProbe | FeatureLayerProbe)]
    if others:
        return None, f"no heat map: the readings {', '.join(others)} are not differentiated"
    slopes = readings.slopes()
    with torch.inference_mode(False), torch.enable_grad():
        network = copy.deepcopy(readings.guard.network).cpu().double().eval()
        pixels = image.clone().double().requires_grad_()
        parts = zip(probes, readings.split(slopes), strict=True)
        try:
            sums = [(torch.from_numpy(part) * _differentiable(probe, network, pixels)).sum() for probe, part in parts]
            (gradient,) = torch.autograd.grad(sums, pixels)
        except RuntimeError as error:
            return None, f"no heat map: {str(error).strip().splitlines()[0]}"
    return gradient[0].square().sum(dim=0).sqrt(), ""


def _differentiable(probe: Probe, network: nn.Module, pixels: Tensor) -> Tensor:
    """Readings of one image as a function of its pixels, float64 [D]; log norms for gradients."""
    if isinstance(probe, FeatureLayerProbe):
        logits, layers = feature_layer_outputs(network, pixels, probe.layers_of(network, pixels))
        return probe.from_layers(network, logits, layers)[0]
    logits = logits_in(network(pixels))
    if not isinstance(probe, GradientProbe):
        return torch.as_tensor(logits)[0]
    parameters = [parameter.requires_grad_() for parameter in network.parameters()]
    seeds = probe.label_design.logit_gradient(logits)
    gradients = torch.autograd.grad(logits, parameters, seeds, create_graph=True, allow_unused=True)
    norms = [pixels.new_zeros(()) if one is None else one.square().sum() for one in gradients]
    return torch.log(torch.stack(norms) + LOG_FLOOR)
