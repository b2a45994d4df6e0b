"""Costs of the closed forms: a table of measured constants, in multiplications of the grouped convolution.

The CPU's were measured with oneDNN on AVX-512, one thread; `benchmarks/measure_costs.py` repeats that, also on a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_gradood.core import probing_state


@dataclass(frozen=True)
class Costs:
    """Time per multiplication of each form, relative to the grouped convolution's, and per element that it moves."""

    product: float = 1.1  # batched matrix products
    moved: float = 19.0  # an element copied into blocks for the grouped convolution
    weight: float = 23.0  # an entry of dW written by the grouped convolution
    weight_product: float = 9.3  # an entry of dW written by a matrix product
    unfolded: float = 66.0  # an element of the unfolded input
    pair: float = 7.5  # an entry of a Gram matrix
    narrow: float = 2.6  # a multiplication of the grouped convolution with one channel per group, up to 3 × 3 taps
    wide: float = 75.0  # the same with more taps
    narrow_weight: float = 0.0  # an entry of dW written by it
    slid: float = 2.8  # a multiplication of the forward depthwise convolution
    slid_position: float = 0.0  # one of its kernel's positions, which each thread goes through one after the other
    diagonal: float = 15.0  # an entry of a Gram matrix, each time it is run through to sum along diagonals


CPU = Costs()
# one NVIDIA H100, float32 without TF32, 128 images: `python -m benchmarks.measure_costs --device cuda`
ACCELERATOR = Costs(
    product=0.2, moved=27, weight=25, weight_product=25, unfolded=48, pair=220, narrow=0.5, wide=4,
    narrow_weight=2500, slid=1.9, slid_position=7500, diagonal=23,
)  # fmt: skip
ALONE = 1 << 16  # elements of a parameter on average, from which closed forms beat the loop on one image alone
# a linear layer's time for each pair of tokens and channel, per multiplication of its dW; strips make it less than 1
TOKEN_PAIR = 0.88
LARGE_NORM = 1 << 15  # elements of an image, from which a layer norm's backward pays one call for each image
LARGE_MAP = 256  # pixels, from which a 1×1 convolution's input gradient is faster as a matrix product


@dataclass(frozen=True)
class Limits:
    """Sizes of micro-batches and the share of time for comparisons."""

    chunk: int = 1 << 22  # elements of one closed form's intermediate results, so that they stay in a cache
    # entries of dW in one grouped convolution: with more, images take up to 3 × as long; with fewer, calls dominate
    weights: int = 3 << 16
    micro_batch: int = 32  # images in one pass
    activation_bytes: int = 3 << 28  # what a pass may keep for its backward; it takes about as much again
    recheck: float = 0.01  # share of the time that goes into comparing random images with the loop
    # whether to lay out all windows of a convolution's input: faster on a GPU, whose grouped convolution runs image by
    # image and for which sums along diagonals are many small kernels; never on a CPU
    unfolds: bool = False
    costs: Costs = CPU


_CPU = Limits()
# Micro-batches large enough to keep an H100 busy, small enough for 16 GB; only the costs are measured.
_ACCELERATOR = Limits(
    chunk=1 << 27, weights=1 << 27, micro_batch=256, activation_bytes=4 * 2**30, unfolds=True, costs=ACCELERATOR
)


def limits(device: torch.device) -> Limits:
    """The limits for a device."""
    return _CPU if device.type == "cpu" else _ACCELERATOR


@contextmanager
def counting_kept(parameters: Iterable[Tensor]) -> Iterator[dict[int, int]]:
    """Count the bytes that autograd keeps for the backward pass of a block, by storage and without the parameters."""
    kept: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        yield kept
    for parameter in parameters:
        kept.pop(parameter.untyped_storage().data_ptr(), None)


def images_at_once(network: nn.Module, image: Tensor) -> int:
    """Count images [1, ...] like this one for whose gradients by the pixels a pass keeps what `Limits` allow; at least 1."""
    constant = [*network.parameters(), *network.buffers()]
    with probing_state(network), counting_kept(constant) as kept:
        network(image.clone().requires_grad_())
    return max(1, limits(image.device).activation_bytes // max(sum(kept.values()), 1))


@dataclass(frozen=True)
class Size:
    """C·k² → D convolution from `pixels` to T `positions`."""

    C: int
    D: int
    taps: int
    pixels: int
    positions: int
    groups: int
    pixel_pairs: int  # entries of the Gram matrices over pixels, one for each phase of the stride
    sums: int  # how often a matrix of T² entries is run through to sum along its diagonals


def estimates(size: Size, costs: Costs) -> dict[str, float]:
    """Cost of one image's squared norm by each form of `convolution_forms`, by the form's name."""
    C, D, T, taps = size.C, size.D, size.positions, size.taps
    columns, pairs, product = C * taps, T**2, costs.product
    moved_input, moved_gradient = costs.moved * C * size.pixels, costs.moved * D * T
    unfolding = costs.unfolded * columns * T
    if size.groups == C > 1:
        each = costs.narrow if taps <= 9 else costs.wide
        grouped = each * T * D * taps + costs.narrow_weight * D * taps
    else:  # whose operands lie in blocks of 16 channels
        blocks = taps > 1 and C >= 12 and D >= 8
        products = math.ceil(C / 16) * math.ceil(D / 16) * 256 if blocks else C * D
        grouped = T * products * taps // size.groups + costs.weight * C * D * taps // size.groups
    depthwise = costs.slid * T * D * taps + costs.slid_position * T + costs.moved * D * size.pixels + moved_gradient
    phasing = moved_input if size.pixels > T else 0
    pixel_products = product * (size.pixel_pairs * C + pairs * D) + phasing
    return {
        "materialised": grouped + moved_input + moved_gradient,
        "depthwise": depthwise,
        "pointwise": (product * T + costs.weight_product) * C * D + (costs.moved * C * T if size.pixels != T else 0),
        "unfolded": (product * T + costs.weight_product) * columns * D + unfolding,
        "products": product * pairs * (columns + D) + costs.pair * pairs + unfolding,
        "pixel_products": pixel_products + (costs.pair + costs.diagonal * size.sums) * pairs,
    }
