"""Per-sample squared norms of a convolution's weight gradient, four exact ways; pure functions.

With A [C·k², T] the unfolded input and B [D, T] the output gradient of one image, dW = B Aᵀ, T output positions.
`materialised` and `pointwise` form dW; `products` and `pixel_products` lead to ‖dW‖² = ⟨AᵀA, BᵀB⟩, and AᵀA is the
same for every label design. `costs` says which way is cheapest for a shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_gradood.gradients import costs
from lightning_gradood.gradients.gram import guarded, paired
from lightning_gradood.gradients.tally import squared_rows


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
        return math.prod(self.kernel) == 1 and not any(self.padding) and self.groups == 1 and not self.transposed

    def keeps_size(self) -> bool:
        """Stride 1, odd kernel, zero padding that keeps the size: every tap sees a shifted copy of the image."""
        return (
            not self.transposed
            and self.groups == 1
            and all(stride == 1 for stride in self.stride)
            and all(2 * p == d * (k - 1) for p, d, k in zip(self.padding, self.dilation, self.kernel, strict=True))
        )


def weight_gradients(a: Tensor, b: Tensor, geometry: Geometry) -> Tensor:
    """Form every image's dW: one convolution-backward in which each image is a group.

    Args:
        a: input [n, C, ...].
        b: output gradient [n, D, ...].
        geometry: of the convolution.

    Returns:
        [n, D, C/groups, *kernel], or [n, C, D/groups, *kernel] for a transposed convolution.
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
    """Squared norms [n] through `weight_gradients`: T·C·D·k² multiplications."""
    if _pads_pay(a, b, geometry):
        a, b = _sixteenfold(a), _sixteenfold(b)  # channels of zeros change no norm
    return squared_rows(weight_gradients(a, b, geometry))


def pointwise(a: Tensor, b: Tensor, geometry: Geometry) -> Tensor:
    """Squared norms [n] of a 1×1 convolution as one matrix product per image: T·C·D multiplications."""
    return squared_rows(torch.bmm(b.flatten(2), _sampled(a, geometry).transpose(1, 2)))


def products(a: Tensor, geometry: Geometry) -> Tensor:
    """AᵀA [n, T, T] of the unfolded input: T²·C·k² multiplications.

    Reference: Rochette et al. 2019; Bu et al. 2022 ("ghost norm").
    """
    if geometry.is_pointwise():
        unfolded = _sampled(a, geometry)
    else:
        unfolded = F.unfold(a, geometry.kernel, geometry.dilation, geometry.padding, geometry.stride)
    return torch.bmm(unfolded.transpose(1, 2), unfolded)


def pixel_products(a: Tensor, geometry: Geometry) -> Tensor:
    """AᵀA [n, T, T] without unfolding: T²·C multiplications.

    Where the convolution keeps the size, AᵀA[s, t] = Σ_taps P[s + tap, t + tap] with P = aᵀa over pixels: sums along
    joint diagonals of P, which a kernel's rows and columns allow one after the other.
    """
    pixels = a.flatten(2)
    return diagonal_sums(torch.bmm(pixels.transpose(1, 2), pixels), a.shape[2:], geometry)


def diagonal_sums(pixels: Tensor, size: torch.Size, geometry: Geometry) -> Tensor:
    """Sum P = `pixels` [n, T, T] over a kernel's taps, P[s + tap, t + tap], zero outside the image."""
    axes = len(size)
    summed = pixels.view(-1, *size, *size)
    for axis, (taps, step) in enumerate(zip(geometry.kernel, geometry.dilation, strict=True)):
        one, other, length = 1 + axis, 1 + axes + axis, size[axis]
        source, summed = summed, summed.clone() if taps > 1 else summed
        for shift in range(step, min(step * (taps // 2) + 1, length), step):
            for to, origin in ((0, shift), (shift, 0)):
                part = source.narrow(one, origin, length - shift).narrow(other, origin, length - shift)
                summed.narrow(one, to, length - shift).narrow(other, to, length - shift).add_(part)
    return summed.view_as(pixels)


def from_products(gram_a: Tensor, a: Tensor, b: Tensor, geometry: Geometry) -> Tensor:
    """Squared norms [n] as ⟨AᵀA, BᵀB⟩: T²·D multiplications; rows in which it cancels through dW."""
    return guarded(*paired(gram_a, b.flatten(2)), lambda rows: materialised(a[rows], b[rows], geometry))


COSTS: dict[Callable[..., Tensor], Callable[[costs.Size, costs.Costs], float]] = {
    materialised: costs.materialised,
    pointwise: costs.pointwise,
    products: costs.gram,
    pixel_products: costs.pixel_gram,
}


def _sampled(a: Tensor, geometry: Geometry) -> Tensor:
    """The pixels [n, C, T] that a pointwise convolution reads."""
    for axis, stride in enumerate(geometry.stride, start=2):
        if stride > 1:
            a = a[(slice(None),) * axis + (slice(None, None, stride),)]
    return a.flatten(2)


def _pads_pay(a: Tensor, b: Tensor, geometry: Geometry) -> bool:
    """Whether oneDNN's fast kernel, which wants channels in sixteens, is near enough."""
    fits = geometry.groups == 1 and not geometry.transposed and a.ndim == 4 and a.dtype == torch.float32
    return fits and a.shape[0] > 1 and a.device.type == "cpu" and a.shape[1] >= 12 and b.shape[1] >= 8


def _sixteenfold(tensor: Tensor) -> Tensor:
    missing = -tensor.shape[1] % 16
    return F.pad(tensor, (0, 0, 0, 0, 0, missing)) if missing else tensor
