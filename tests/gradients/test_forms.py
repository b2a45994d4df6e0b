"""Every form of a layer's norm and of a convolution's input gradient, against autograd one image at a time."""

import dataclasses
import itertools
import math

import pytest
import torch
from torch import Tensor

from lightning_gradood.gradients import costs
from lightning_gradood.gradients.accumulator import paired, paired_products
from lightning_gradood.gradients.rules import convolution_forms as forms
from lightning_gradood.gradients.rules import linear
from lightning_gradood.gradients.rules.convolution import cheapest, possible_forms, size_of
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


def convolved(geometry: Geometry, C: int, D: int, image: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Input, output gradient and weight, and by autograd every image's own gradient of the weight, and the input's."""
    g = geometry
    torch.manual_seed(0)
    x = torch.randn(3, C, *image, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(D, C // g.groups, *g.kernel, dtype=torch.float64, requires_grad=True)
    y = torch.convolution(x, weight, None, g.stride, g.padding, g.dilation, False, g.output_padding, g.groups)
    b = torch.randn_like(y)
    own = torch.stack([torch.autograd.grad(y[n], weight, b[n], retain_graph=True)[0] for n in range(3)])
    (inputs,) = torch.autograd.grad(y, x, b)
    return x.detach(), b, weight.detach(), own, inputs


def test_forms_agree_with_autograd() -> None:
    for kernel, stride, padding, dilation, image in CASES:
        geometry = Geometry(kernel, stride, padding, dilation, 1, False, (0,) * len(kernel))
        x, b, weight, own, inputs = convolved(geometry, 13, 10, image)
        norms = own.flatten(1).square().sum(1)
        size = size_of(13, 10, image, tuple(b.shape[2:]), geometry)
        possible = possible_forms(size, geometry, LIMITS) | possible_forms(size, geometry, ACCELERATOR)
        assert forms.pixel_products in possible, geometry
        assert (forms.unfolded in possible) == (len(kernel) == 2 and not geometry.is_pointwise()), geometry
        unfolded = _unfolded(x, geometry)
        torch.testing.assert_close(forms.windows(x, geometry), unfolded, rtol=0, atol=0)
        for form in possible:
            found = form(x, geometry) if form in (forms.products, forms.pixel_products) else form(x, b, geometry)
            if form in (forms.products, forms.pixel_products):
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


def test_depthwise_forms_agree_with_autograd() -> None:
    for multiplier, (kernel, stride, padding, dilation, image) in itertools.product((1, 2, 3), DEPTHWISE):
        geometry = Geometry(kernel, stride, padding, dilation, 5, False, (0,) * len(kernel))
        x, b, _, own, _ = convolved(geometry, 5, 5 * multiplier, image)
        torch.testing.assert_close(forms.depthwise_gradients(x, b, geometry), own, rtol=1e-11, atol=1e-12)
        size = size_of(5, 5 * multiplier, image, tuple(b.shape[2:]), geometry)
        possible = possible_forms(size, geometry, LIMITS)
        assert set(possible) == {forms.materialised} | ({forms.depthwise} if size.positions > 1 else set()), geometry
        for form in possible:
            torch.testing.assert_close(form(x, b, geometry), own.flatten(1).square().sum(1), rtol=1e-10, atol=0)


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


def test_the_cheapest_form_is_that_of_the_tables() -> None:
    """Else some forms are computed in these tests alone."""
    for kernel, stride, form in ((7, 1, forms.depthwise), (5, 2, forms.depthwise), (3, 2, forms.materialised)):
        geometry = Geometry((kernel,) * 2, (stride,) * 2, (kernel // 2,) * 2, (1, 1), 96, False, (0, 0))
        size = size_of(96, 96, (28, 28), (28 // stride,) * 2, geometry)
        assert cheapest(size, geometry, LIMITS)[0] is form
        assert forms.depthwise not in possible_forms(size, geometry, dataclasses.replace(LIMITS, slides=False))
    for groups, transposed in ((1, False), (2, False), (4, True)):
        geometry = Geometry((5, 5), (1, 1), (2, 2), (1, 1), groups, transposed, (0, 0))
        assert forms.depthwise not in possible_forms(size_of(4, 4, (9, 9), (9, 9), geometry), geometry, LIMITS)
    strided = Geometry((3, 3), (2, 2), (1, 1), (1, 1), 1, False, (0, 0))  # of a residual network
    assert cheapest(size_of(128, 256, (16, 16), (8, 8), strided), strided, LIMITS)[0] is forms.pixel_products
    patches = Geometry((16, 16), (16, 16), (0, 0), (1, 1), 1, False, (0, 0))  # 256 phases of three channels each
    assert cheapest(size_of(3, 768, (224, 224), (14, 14), patches), patches, LIMITS)[0] is not forms.pixel_products


def test_gram_matrices_of_tokens_in_strips_are_whole() -> None:
    torch.manual_seed(0)
    for tokens in (1, 2, 63, 64, 65, 130, 257):
        a, b = torch.randn(3, 5, tokens, dtype=torch.float64), torch.randn(3, 7, tokens, dtype=torch.float64)
        norms = (b @ a.transpose(1, 2)).square().sum((1, 2))
        traces = a.square().sum((1, 2)) * b.square().sum((1, 2))
        for inner, product in (paired(a.transpose(1, 2) @ a, b), paired_products(a, b)):
            torch.testing.assert_close(inner, norms, rtol=1e-11, atol=0)
            torch.testing.assert_close(product, traces, rtol=1e-12, atol=0)


def test_weight_norms_of_tokens_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    sizes = [(1, 9, 8), (3, 40, 30), (70, 200, 190), (90, 20, 30)]
    for chunk, (tokens, C, D) in itertools.product((1, 2000, 10**6), sizes):
        limits = dataclasses.replace(LIMITS, chunk=chunk)
        monkeypatch.setattr(costs, "limits", lambda device, limits=limits: limits)
        a, b = torch.randn(5, tokens, C, dtype=torch.float64), torch.randn(5, tokens, D, dtype=torch.float64)
        weight = torch.zeros(D, C, dtype=torch.float64, requires_grad=True)
        own = [torch.autograd.grad(x @ weight.T, weight, y)[0].square().sum() for x, y in zip(a, b, strict=True)]
        torch.testing.assert_close(linear.weight_norms(a, b), torch.stack(own), rtol=1e-11, atol=0)


SAME = Geometry((3, 3), (1, 1), (1, 1), (1, 1), 1, False, (0, 0))


def cancelling(cancel: float) -> tuple[Tensor, Tensor, Tensor]:
    """Input and output gradient, float32, of images whose gradient is `cancel` times what its parts are; its exact norms."""
    generator = torch.Generator().manual_seed(0)
    a = 1 + cancel * torch.rand(3, 8, 6, 6, dtype=torch.float64, generator=generator)
    b = torch.randn(3, 5, 6, 6, dtype=torch.float64, generator=generator)
    b = b - b.mean((2, 3), keepdim=True)
    b[:, :, 0], b[:, :, -1], b[..., 0], b[..., -1] = 0, 0, 0, 0  # so that padding does not keep the sum alive
    inner = b[:, :, 1:-1, 1:-1]
    inner -= inner.mean((2, 3), keepdim=True)
    a, b = a.float(), b.float()
    return a, b, forms.weight_gradients(a.double(), b.double(), SAME).flatten(1).square().sum(1)


def test_gram_forms_that_cancel_are_computed_through_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    for form, cancel in itertools.product((forms.products, forms.pixel_products), (1.0, 1e-2, 1e-4)):
        a, b, exact = cancelling(cancel)
        found = forms.from_products(form(a, SAME), a, b, SAME)
        own = forms.weight_gradients(a, b, SAME).double().flatten(1).square().sum(1)
        assert ((found - exact).abs() <= 3e-3 * exact + 3 * (own - exact).abs()).all(), (form, cancel)
    monkeypatch.setattr(forms, "guarded", lambda inner, traces, again: inner)
    found = forms.from_products(forms.products(a, SAME), a, b, SAME)
    assert ((found - exact).abs() > 0.05 * exact).any(), "without the guard the Gram form has lost everything"


def test_cancelling_tokens_keep_their_digits() -> None:
    generator = torch.Generator().manual_seed(0)
    a = 1 + 1e-4 * torch.rand(3, 6, 40, generator=generator, dtype=torch.float64)
    b = torch.randn(3, 6, 30, generator=generator, dtype=torch.float64)
    b -= b.mean(1, keepdim=True)
    exact = linear.weight_gradients(a, b).flatten(1).square().sum(1)
    assert 6 * 70 < 40 * 30  # the Gram form is the cheaper one here
    torch.testing.assert_close(linear.weight_norms(a.float(), b.float()), exact, rtol=3e-3, atol=0)


def test_tiny_gradients_do_not_vanish() -> None:
    a, b, exact = cancelling(1.0)
    for scale in (1e-12, 1e-18, 1e-25):
        found = forms.from_products(forms.pixel_products(a, SAME), a, b * scale, SAME)
        torch.testing.assert_close(found, exact * scale**2, rtol=1e-3, atol=0)
