"""Every form of a convolution's norm and its input gradient, against autograd one image at a time."""

import dataclasses
import itertools
import math

import pytest
import torch
from torch import Tensor

from lightning_gradood.gradients import costs
from lightning_gradood.gradients.rules import convolution_forms as forms
from lightning_gradood.gradients.rules.convolution import Form, cheapest, possible_forms, size_of
from lightning_gradood.gradients.rules.convolution_forms import Geometry

LIMITS = costs.limits(torch.device("cpu"))
ACCELERATOR = costs.limits(torch.device("cuda"))  # its forms are right anywhere
# kernel, stride, padding, dilation, image
CASES = [
    ((3, 3), (1, 1), (1, 1), (1, 1), (7, 6)),
    ((3, 3), (2, 2), (1, 1), (1, 1), (8, 7)),
    ((3, 3), (1, 1), (0, 0), (1, 1), (6, 7)),
    ((3, 3), (3, 2), (0, 1), (1, 2), (9, 9)),
    ((5, 1), (2, 1), (3, 0), (1, 1), (7, 5)),
    ((2, 4), (1, 2), (1, 0), (2, 1), (6, 8)),
    ((3, 3), (1, 1), (4, 4), (1, 1), (3, 4)),  # feature layers that see nothing but padding
    ((4, 4), (4, 4), (0, 0), (1, 1), (8, 12)),
    ((2, 2), (5, 5), (0, 0), (1, 1), (7, 7)),  # phases that no feature layer sees
    ((3, 3), (4, 4), (1, 1), (1, 1), (1, 2)),  # phases without a pixel
    ((1, 1), (1, 1), (0, 0), (1, 1), (16, 17)),
    ((1, 1), (2, 3), (0, 0), (1, 1), (20, 19)),
    ((1, 1), (2, 2), (1, 1), (1, 1), (5, 6)),
    ((5,), (2,), (2,), (1,), (11,)),
    ((1,), (1,), (0,), (1,), (300,)),
    ((2, 3, 3), (1, 2, 1), (1, 1, 1), (1, 1, 1), (4, 5, 4)),
]


Sizes = tuple[int, ...]


@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation", "image"), CASES)
def test_forms_agree_with_autograd(kernel: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes, image: Sizes) -> None:
    geometry = Geometry(kernel, stride, padding, dilation, 1, False, (0,) * len(kernel))
    torch.manual_seed(0)
    x = torch.randn(3, 13, *image, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(10, 13, *kernel, dtype=torch.float64, requires_grad=True)
    y = torch.convolution(x, weight, None, stride, padding, dilation, False, geometry.output_padding, 1)
    b = torch.randn_like(y)
    own = [torch.autograd.grad(y[n], weight, b[n], retain_graph=True)[0] for n in range(3)]
    norms = torch.stack([gradient.square().sum() for gradient in own])
    (inputs,) = torch.autograd.grad(y, x, b)
    x, weight = x.detach(), weight.detach()

    size = size_of(13, 10, image, tuple(b.shape[2:]), geometry)
    possible = possible_forms(size, geometry, LIMITS) | possible_forms(size, geometry, ACCELERATOR)
    assert forms.pixel_products in possible
    assert (forms.unfolded in possible) == (len(kernel) == 2 and not geometry.is_pointwise())
    torch.testing.assert_close(forms.windows(x, geometry), _unfolded(x, geometry), rtol=0, atol=0)
    for form in possible:
        found = form(x, geometry) if form in (forms.products, forms.pixel_products) else form(x, b, geometry)
        if form in (forms.products, forms.pixel_products):
            unfolded = _unfolded(x, geometry)
            torch.testing.assert_close(found, unfolded.transpose(1, 2) @ unfolded, rtol=1e-11, atol=1e-11)
            found = forms.from_products(found, x, b, geometry)
        torch.testing.assert_close(found, norms, rtol=1e-10, atol=0)
    torch.testing.assert_close(forms.input_gradient(x, b, weight, geometry), inputs, rtol=1e-12, atol=1e-12)


DEPTHWISE = [
    ((3, 3), (1, 1), (1, 1), (1, 1), (7, 6)),
    ((7, 7), (1, 1), (3, 3), (1, 1), (9, 8)),
    ((5, 5), (2, 2), (2, 2), (1, 1), (8, 7)),
    ((3, 3), (2, 2), (1, 1), (1, 1), (8, 8)),  # the last row and column are seen by fewer feature layers
    ((3, 3), (4, 4), (0, 0), (1, 1), (10, 9)),  # pixels left over, and more of them than feature layers
    ((3, 2), (3, 2), (0, 1), (1, 2), (9, 9)),
    ((2, 3), (2, 3), (1, 0), (3, 2), (11, 12)),
    ((3, 3), (1, 1), (4, 5), (1, 1), (3, 4)),  # feature layers that see nothing but padding
    ((4, 4), (4, 4), (0, 0), (1, 1), (8, 12)),
    ((1, 1), (1, 1), (0, 0), (1, 1), (5, 4)),
    ((1, 1), (2, 2), (1, 1), (1, 1), (5, 4)),
    ((7, 7), (1, 1), (0, 0), (1, 1), (7, 7)),  # one position
    ((5,), (2,), (3,), (2,), (17,)),
    ((2, 3, 3), (1, 2, 2), (1, 1, 0), (1, 1, 2), (4, 5, 7)),
]


@pytest.mark.parametrize("multiplier", [1, 2, 3])
@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation", "image"), DEPTHWISE)
def test_depthwise_forms_agree_with_autograd(
    kernel: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes, image: Sizes, multiplier: int
) -> None:
    geometry = Geometry(kernel, stride, padding, dilation, 5, False, (0,) * len(kernel))
    torch.manual_seed(0)
    x = torch.randn(3, 5, *image, dtype=torch.float64)
    weight = torch.randn(5 * multiplier, 1, *kernel, dtype=torch.float64, requires_grad=True)
    y = torch.convolution(x, weight, None, stride, padding, dilation, False, geometry.output_padding, 5)
    b = torch.randn_like(y)
    own = [torch.autograd.grad(y[n], weight, b[n], retain_graph=True)[0] for n in range(3)]
    torch.testing.assert_close(forms.depthwise_gradients(x, b, geometry), torch.stack(own), rtol=1e-11, atol=1e-12)
    size = size_of(5, 5 * multiplier, image, tuple(b.shape[2:]), geometry)
    possible = possible_forms(size, geometry, LIMITS)
    assert set(possible) == {forms.materialised} | ({forms.depthwise} if size.positions > 1 else set())
    for form in possible:
        norms = torch.stack([gradient.square().sum() for gradient in own])
        torch.testing.assert_close(form(x, b, geometry), norms, rtol=1e-10, atol=0)


@pytest.mark.parametrize(
    ("kernel", "stride", "form"), [(7, 1, forms.depthwise), (5, 2, forms.depthwise), (3, 2, forms.materialised)]
)
def test_a_depthwise_layer_slides_where_its_kernel_is_wide(kernel: int, stride: int, form: Form) -> None:
    geometry = Geometry((kernel,) * 2, (stride,) * 2, (kernel // 2,) * 2, (1, 1), 96, False, (0, 0))
    size = size_of(96, 96, (28, 28), (28 // stride,) * 2, geometry)
    assert cheapest(size, geometry, LIMITS)[0] is form
    assert forms.depthwise not in possible_forms(size, geometry, dataclasses.replace(LIMITS, slides=False))


@pytest.mark.parametrize(("groups", "transposed"), [(1, False), (2, False), (4, True)])
def test_other_groups_do_not_slide(groups: int, transposed: bool) -> None:
    geometry = Geometry((5, 5), (1, 1), (2, 2), (1, 1), groups, transposed, (0, 0))
    assert forms.depthwise not in possible_forms(size_of(4, 4, (9, 9), (9, 9), geometry), geometry, LIMITS)


def _unfolded(x: Tensor, g: Geometry) -> Tensor:
    """A [n, C·k², T], one feature layer and one position at a time."""
    length = [g.positions(axis, n) for axis, n in enumerate(x.shape[2:])]
    columns = x.new_zeros(x.shape[0], x.shape[1], math.prod(g.kernel), math.prod(length))
    for layer, layers in enumerate(itertools.product(*map(range, g.kernel))):
        for position, places in enumerate(itertools.product(*map(range, length))):
            at = [
                s * o + d * t - p for s, o, d, t, p in zip(g.stride, places, g.dilation, layers, g.padding, strict=True)
            ]
            if all(0 <= i < n for i, n in zip(at, x.shape[2:], strict=True)):
                columns[:, :, layer, position] = x[(slice(None), slice(None), *at)]
    return columns.flatten(1, 2)


def test_a_strided_layer_of_a_residual_network_takes_its_pixels() -> None:
    """Else the phases are computed in these tests alone."""
    geometry = Geometry((3, 3), (2, 2), (1, 1), (1, 1), 1, False, (0, 0))
    assert cheapest(size_of(128, 256, (16, 16), (8, 8), geometry), geometry, LIMITS)[0] is forms.pixel_products


def test_a_patch_embedding_does_not() -> None:
    """Two hundred and fifty-six phases of three channels each would be as many small products."""
    geometry = Geometry((16, 16), (16, 16), (0, 0), (1, 1), 1, False, (0, 0))
    assert cheapest(size_of(3, 768, (224, 224), (14, 14), geometry), geometry, LIMITS)[0] is not forms.pixel_products
