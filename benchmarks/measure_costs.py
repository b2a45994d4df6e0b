"""Measure the constants of `lightning_gradood/gradients/costs.py` on this machine, and how good the choices are.

    OMP_NUM_THREADS=1 python -m benchmarks.measure_costs [--device cuda]

Every form is timed on the shapes of residual, dense, wide and depthwise-separable networks. A form's cost is linear in
the constants, so one non-negative least-squares fit over all timings gives them. The regret is the time of the chosen
forms over that of the fastest ones. Last comes what `costs.LARGE_MAP` decides: both ways of a 1×1 convolution's input gradient.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Callable
from unittest import mock

import numpy as np
import scipy.optimize
import torch

from benchmarks.clock import seconds as seconds_of
from lightning_gradood.core import exact_arithmetic
from lightning_gradood.gradients import costs
from lightning_gradood.gradients.rules import convolution_forms as forms
from lightning_gradood.gradients.rules.convolution import Form, cheapest, possible_forms, size_of
from lightning_gradood.gradients.rules.convolution_forms import Geometry

# channels in, channels out, image size, kernel, stride
SHAPES = [
    (64, 64, 32, 3, 1), (64, 128, 32, 3, 2), (128, 128, 16, 3, 1), (256, 256, 8, 3, 1), (512, 512, 4, 3, 1),
    (128, 256, 16, 3, 2), (256, 512, 8, 3, 2), (64, 128, 32, 1, 2), (256, 512, 8, 1, 2), (16, 16, 32, 3, 1),
    (32, 32, 16, 3, 1), (64, 64, 8, 3, 1), (24, 48, 32, 1, 1), (48, 12, 32, 3, 1), (168, 48, 16, 1, 1),
    (48, 12, 16, 3, 1), (200, 48, 8, 1, 1), (48, 12, 8, 3, 1), (256, 64, 56, 1, 1), (64, 64, 56, 3, 1),
    (512, 128, 28, 1, 1), (128, 128, 28, 3, 1), (1024, 256, 14, 1, 1), (256, 256, 14, 3, 1), (2048, 512, 7, 1, 1),
]  # fmt: skip
# the same for depthwise convolutions, which have as many groups as channels
DEPTHWISE = [
    (96, 96, 56, 7, 1), (192, 192, 28, 7, 1), (384, 384, 14, 7, 1), (768, 768, 7, 7, 1), (16, 16, 112, 3, 1),
    (64, 64, 112, 3, 2), (72, 72, 56, 3, 1), (72, 72, 56, 5, 2), (120, 120, 28, 5, 1), (240, 240, 28, 3, 2),
    (200, 200, 14, 3, 1), (672, 672, 14, 5, 1), (672, 672, 14, 5, 2), (960, 960, 7, 5, 1), (1152, 1152, 7, 3, 1),
]  # fmt: skip
IMAGES = {"cpu": 16, "cuda": 128}
GRAM = (forms.products, forms.pixel_products)
NAMES = [field.name for field in dataclasses.fields(costs.Costs)]


def main() -> None:
    """Time, fit, print the constants and the regret."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=IMAGES, default="cpu")
    device = torch.device(parser.parse_args().device)
    limits = costs.limits(device)
    rows, seconds, regret = [], [], [0.0, 0.0]
    for shape in SHAPES + DEPTHWISE:
        size, geometry = _described(*shape)
        possible = possible_forms(size, geometry, limits)
        if size.positions > 1024:  # a Gram matrix of an image is far from paying
            possible = {form: images for form, images in possible.items() if form not in GRAM}
        times = {form: _time(form, images, shape, geometry, device) for form, images in possible.items()}
        rows += [_coefficients(form.__name__, size) for form in times]
        seconds += list(times.values())
        regret[0] += times[cheapest(size, geometry, limits)[0]]
        regret[1] += min(times.values())
        print(shape, {form.__name__: f"{1e6 * value:.1f} µs" for form, value in times.items()}, flush=True)
    matrix, target = np.array(rows), np.array(seconds)
    fitted, _ = scipy.optimize.nnls(matrix / target[:, None], np.ones(len(target)))  # relative errors count alike
    print(f"one multiplication of the grouped convolution: {1e12 * fitted[0]:.1f} ps")
    for name, value in zip(NAMES, fitted[1:] / fitted[0], strict=True):
        print(f"    {name}: float = {value:.2g}   # now {getattr(limits.costs, name):g}")
    print(f"regret of the constants in use: {regret[0] / regret[1]:.3f}")
    for shape in SHAPES if device.type == "cpu" else []:
        if shape[3] == 1:
            product, convolution = (_time_input_gradient(shape, large_map) for large_map in (0, sys.maxsize))
            print(
                f"{shape[2] ** 2} pixels {shape}: product {1e3 * product:.3f} ms, convolution {1e3 * convolution:.3f} ms"
            )


def _coefficients(form: str, size: costs.Size) -> list[float]:
    """How a form's cost depends on: one (the grouped convolution's own products), then each constant."""
    zero = costs.Costs(**dict.fromkeys(NAMES, 0.0))
    own = costs.estimates(size, zero)[form]
    with_one = (costs.estimates(size, dataclasses.replace(zero, **{name: 1.0}))[form] for name in NAMES)
    return [own] + [cost - own for cost in with_one]


def _described(C: int, D: int, side: int, kernel: int, stride: int) -> tuple[costs.Size, Geometry]:
    groups = C if (C, D, side, kernel, stride) in DEPTHWISE else 1
    geometry = Geometry((kernel,) * 2, (stride,) * 2, (kernel // 2,) * 2, (1, 1), groups, False, (0, 0))
    return size_of(C, D, (side,) * 2, (math.ceil(side / stride),) * 2, geometry), geometry


def _time(
    form: Form, images: int, shape: tuple[int, int, int, int, int], geometry: Geometry, device: torch.device
) -> float:
    """Least seconds per image in five runs, so many images at a time."""
    C, D, side, _, stride = shape
    N, after = IMAGES[device.type], math.ceil(side / stride)
    a, b = torch.rand(N, C, side, side, device=device), torch.randn(N, D, after, after, device=device)

    def work() -> None:
        for x, y in zip(a.split(images), b.split(images), strict=True):
            if form in GRAM:
                forms.from_products(form(x, geometry), x, y, geometry)
            else:
                form(x, y, geometry)

    return _least(work, device.type) / N


def _time_input_gradient(shape: tuple[int, int, int, int, int], large_map: int) -> float:
    """The same for the gradient of a 1×1 convolution's input, as a product where it has `large_map` pixels or more."""
    C, D, side, _, stride = shape
    N, after = IMAGES["cpu"], math.ceil(side / stride)
    _, geometry = _described(*shape)
    x, b = torch.rand(N, C, side, side), torch.randn(N, D, after, after)
    weight = torch.randn(D, C, 1, 1)
    with mock.patch.object(costs, "LARGE_MAP", large_map):
        return _least(lambda: forms.input_gradient(x, b, weight, geometry), "cpu") / N


def _least(work: Callable[[], object], device: str) -> float:
    return min([seconds_of(work, device) for _ in range(6)][1:])  # the first warms up


if __name__ == "__main__":
    torch.set_num_threads(1)
    with exact_arithmetic():
        main()
