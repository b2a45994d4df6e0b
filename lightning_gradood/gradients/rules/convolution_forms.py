"""Per-sample squared norms of a convolution's weight gradient, six exact ways, and its input gradient; pure functions.

With A [C·k², T] the unfolded input and B [D, T] the output gradient of one image, dW = B Aᵀ, T output positions.
`materialised`, `pointwise`, `unfolded` and `depthwise` form dW; `products` and `pixel_products` lead to
‖dW‖² = ⟨AᵀA, BᵀB⟩, and AᵀA is the same for every label design. `costs` says which way is cheapest for a shape.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_gradood.gradients import costs
from lightning_gradood.gradients.closed_form import guarded, paired, squared_rows


@dataclass(frozen=True)
class Geometry:
    """A convolution's sizes, one entry per spatial dimension."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1
    transposed: bool = False
    output_padding: tuple[int, ...] = ()

    def is_pointwise(self) -> bool:
        """A 1×1 kernel without padding: a linear layer at each position."""
        return math.prod(self.kernel) == 1 and not any(self.padding) and self.is_full()

    def is_full(self) -> bool:
        """Every output channel sees every input channel, through taps at fixed distances from its position."""
        return self.groups == 1 and not self.transposed

    def positions(self, axis: int, length: int) -> int:
        """Output positions along an axis of `length` pixels."""
        reach = self.dilation[axis] * (self.kernel[axis] - 1)
        return (length + 2 * self.padding[axis] - reach - 1) // self.stride[axis] + 1

    def phases(self, axis: int) -> dict[int, list[int]]:
        """Along an axis, tap τ of output position s sees pixel stride·(s + q) + φ: the q of all taps, by phase φ."""
        found: dict[int, list[int]] = {}
        for tap in range(self.kernel[axis]):
            shift, phase = divmod(tap * self.dilation[axis] - self.padding[axis], self.stride[axis])
            found.setdefault(phase, []).append(shift)
        return found


def input_gradient(x: Tensor, b: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """The gradient of the input x [N, C, ...] for the output's gradient b [N, D, ...].

    A 1×1 convolution of large maps on a CPU is a matrix product, without the conversion to and from oneDNN's blocks.
    """
    g = geometry
    if not g.is_pointwise() or x.device.type != "cpu" or x[0, 0].numel() < costs.LARGE_MAP:
        result: Tensor = torch.ops.aten.convolution_backward(
            b, x, weight, None, g.stride, g.padding, g.dilation, g.transposed, g.output_padding, g.groups,
            [True, False, False],
        )[0]  # fmt: skip
        return result
    sampled = torch.matmul(weight.flatten(1).t(), b.flatten(2)).view(b.shape[0], -1, *b.shape[2:])
    if max(g.stride) == 1:
        return sampled
    inputs = torch.zeros_like(x, memory_format=torch.contiguous_format)
    _every(inputs, (0,) * (x.ndim - 2), g).copy_(sampled)
    return inputs


def weight_gradients(a: Tensor, b: Tensor, geometry: Geometry) -> Tensor:
    """Form every image's dW [n, D, C/groups, *kernel] by one convolution-backward in which each image is a group.

    A transposed convolution's dW is [n, C, D/groups, *kernel].
    """
    n, C, D = a.shape[0], a.shape[1], b.shape[1]
    rows, columns = (C, D) if geometry.transposed else (D, C)
    shape = (rows, columns // geometry.groups, *geometry.kernel)
    weight = a.new_empty(1).expand(n * rows, *shape[1:])  # only its shape is read
    gradients = torch.ops.aten.convolution_backward(
        b.reshape(1, n * D, *b.shape[2:]), a.reshape(1, n * C, *a.shape[2:]), weight, None,
        geometry.stride, geometry.padding, geometry.dilation, geometry.transposed, geometry.output_padding,
        n * geometry.groups, [False, True, False],
    )  # fmt: skip
    result: Tensor = gradients[1].view(n, *shape)
    return result


def materialised(a: Tensor, b: Tensor, geometry: Geometry) -> Tensor:
    """Squared norms [n] through `weight_gradients`: T·C·D·k² multiplications.

    Channels of zeros change no norm, and oneDNN's fast kernel takes multiples of 16.
    """
    is_plain = geometry.is_full() and a.ndim == 4 and a.dtype == torch.float32 and a.device.type == "cpu"
    if is_plain and a.shape[0] > 1 and a.shape[1] >= 12 and b.shape[1] >= 8:
        a, b = (F.pad(one, (0, 0, 0, 0, 0, -one.shape[1] % 16)) if one.shape[1] % 16 else one for one in (a, b))
    return squared_rows(weight_gradients(a, b, geometry))


def depthwise(a: Tensor, b: Tensor, geometry: Geometry) -> Tensor:
    """Squared norms [n] of one channel per group, through a forward depthwise convolution: T·D·k² multiplications.

    dW[d, τ] = Σ_t b[d, t] · a[d, stride·t + dilation·τ − padding]: the output gradient is the kernel, and stride and
    dilation change places. With kernels of more than three columns oneDNN is many times faster at this.
    """
    n, C, D, g = a.shape[0], a.shape[1], b.shape[1], geometry
    a = a if C == D else a.repeat_interleave(D // C, 1)
    slid = torch.convolution(
        a.reshape(1, n * D, *a.shape[2:]), b.reshape(n * D, 1, *b.shape[2:]), None,
        g.dilation, g.padding, g.stride, False, (0,) * len(g.kernel), n * D,
    )  # fmt: skip
    for axis, taps in enumerate(g.kernel, start=2):
        slid = slid.narrow(axis, 0, taps)  # the stride may have left pixels over that no output saw
    return squared_rows(slid.reshape(n, -1))


def pointwise(a: Tensor, b: Tensor, geometry: Geometry) -> Tensor:
    """Squared norms [n] of a 1×1 convolution as one matrix product per image: T·C·D multiplications."""
    read = _every(a, (0,) * (a.ndim - 2), geometry)
    return squared_rows(torch.bmm(b.flatten(2), read.flatten(2).transpose(1, 2)))


def unfolded(a: Tensor, b: Tensor, geometry: Geometry) -> Tensor:
    """Squared norms [n] through dW = B Aᵀ, one matrix product per image: T·C·D·k² multiplications."""
    return squared_rows(torch.bmm(b.flatten(2), _unfold(a, geometry).transpose(1, 2)))


def products(a: Tensor, geometry: Geometry) -> Tensor:
    """AᵀA [n, T, T] of the unfolded input: T²·C·k² multiplications ("ghost norm": Rochette 2019; Bu et al. 2022)."""
    unfolded = _unfold(a, geometry)
    return torch.bmm(unfolded.transpose(1, 2), unfolded)


def pixel_products(a: Tensor, geometry: Geometry) -> Tensor:
    """AᵀA [n, T, T] without unfolding: about T²·C multiplications for each phase of the stride.

    A stride divides the pixels into phases, and tap τ sees those of one phase φ alone, shifted by q: AᵀA[s, t] = Σ_τ
    P_φ[s + q, t + q] with P_φ = aᵀa over the phase's pixels. These are sums along joint diagonals of each P_φ, computed
    for a kernel's rows and columns one after the other.
    """
    size = [geometry.positions(axis, length) for axis, length in enumerate(a.shape[2:])]
    total: Tensor | None = None
    for phase in itertools.product(*(geometry.phases(axis).items() for axis in range(len(size)))):
        part = _every(a, [first for first, _ in phase], geometry)
        pixels = part.flatten(2)
        summed = torch.bmm(pixels.transpose(1, 2), pixels).view(a.shape[0], *part.shape[2:], *part.shape[2:])
        for axis, (_, shifts) in enumerate(phase):
            summed = _diagonal_sums(summed, 1 + axis, 1 + axis + len(size), shifts, size[axis])
        total = summed if total is None else total.add_(summed)
    return cast(Tensor, total).view(a.shape[0], math.prod(size), -1)


def _diagonal_sums(pixels: Tensor, one: int, other: int, shifts: Sequence[int], length: int) -> Tensor:
    """Σ_q P[s + q, t + q] for 0 ≤ s, t < `length` along two dimensions of P = `pixels`, zero outside of it."""
    within = pixels.shape[one]
    if 0 in shifts and within == length:
        summed, shifts = (pixels.clone() if len(shifts) > 1 else pixels), [shift for shift in shifts if shift]
    else:
        summed = pixels.new_zeros([length if axis in (one, other) else n for axis, n in enumerate(pixels.shape)])
    for shift in shifts:
        first, last = max(0, -shift), min(length, within - shift)
        if first < last:
            part = pixels.narrow(one, first + shift, last - first).narrow(other, first + shift, last - first)
            summed.narrow(one, first, last - first).narrow(other, first, last - first).add_(part)
    return summed


def from_products(gram_a: Tensor, a: Tensor, b: Tensor, geometry: Geometry) -> Tensor:
    """Squared norms [n] as ⟨AᵀA, BᵀB⟩: T²·D multiplications; through dW for rows in which that cancels."""
    pair = paired(lambda start, stop: gram_a[:, start:stop, start:], b.flatten(2))
    return guarded(*pair, lambda rows: materialised(a[rows], b[rows], geometry))


def _unfold(a: Tensor, geometry: Geometry) -> Tensor:
    """The unfolded input [n, C·k², T]; `F.unfold` goes image by image on accelerators."""
    g = geometry
    return F.unfold(a, g.kernel, g.dilation, g.padding, g.stride) if a.device.type == "cpu" else windows(a, g)


def windows(a: Tensor, geometry: Geometry) -> Tensor:
    """`F.unfold` by one copy of a view, for any number of dimensions: [n, C, ...] -> [n, C·k², T]."""
    padded = F.pad(a, [side for pad in reversed(geometry.padding) for side in (pad, pad)]).contiguous()
    size = [geometry.positions(axis, length) for axis, length in enumerate(a.shape[2:])]
    steps = padded.stride()[2:]
    taps = [dilation * step for dilation, step in zip(geometry.dilation, steps, strict=True)]
    strides = [stride * step for stride, step in zip(geometry.stride, steps, strict=True)]
    view = padded.as_strided((*a.shape[:2], *geometry.kernel, *size), (*padded.stride()[:2], *taps, *strides))
    return view.reshape(a.shape[0], a.shape[1] * math.prod(geometry.kernel), math.prod(size))


def _every(a: Tensor, first: Sequence[int], geometry: Geometry) -> Tensor:
    """A view of every pixel a stride apart along each axis, starting at `first`."""
    for axis, (start, stride) in enumerate(zip(first, geometry.stride, strict=True), start=2):
        if stride > 1:
            a = a[(slice(None),) * axis + (slice(start, None, stride),)]
    return a
