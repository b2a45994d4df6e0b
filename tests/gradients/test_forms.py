"""Every form of a layer's norm and of a convolution's input gradient, against autograd one image at a time."""

import dataclasses
import itertools

import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from lightning_gradood.gradients import costs, images_at_once
from lightning_gradood.gradients.rules import convolution_forms as forms
from lightning_gradood.gradients.rules import linear
from lightning_gradood.gradients.rules.convolution import cheapest, possible_forms, size_of
from lightning_gradood.gradients.rules.convolution_forms import Geometry

LIMITS = costs.limits(torch.device("cpu"))
ACCELERATOR = costs.limits(torch.device("cuda"))  # its forms are right anywhere
# kernel, stride, padding, dilation, image
CASES = [
    ((3, 3), (1, 1), (1, 1), (1, 1), (7, 6)), ((3, 3), (2, 2), (1, 1), (1, 1), (8, 7)),
    ((3, 3), (3, 2), (0, 1), (1, 2), (9, 9)), ((2, 4), (1, 2), (1, 0), (2, 1), (6, 8)),
    ((3, 3), (1, 1), (4, 4), (1, 1), (3, 4)),  # feature layers that see nothing but padding
    ((4, 4), (4, 4), (0, 0), (1, 1), (8, 12)), ((1, 1), (1, 1), (0, 0), (1, 1), (16, 17)),
    ((2, 2), (5, 5), (0, 0), (1, 1), (7, 7)),  # phases that no feature layer sees
    ((3, 3), (4, 4), (1, 1), (1, 1), (1, 2)),  # phases without a pixel
    ((1, 1), (2, 3), (0, 0), (1, 1), (20, 19)), ((1, 1), (2, 2), (1, 1), (1, 1), (5, 6)),
    ((5,), (2,), (2,), (1,), (11,)), ((1,), (1,), (0,), (1,), (300,)),
    ((2, 3, 3), (1, 2, 1), (1, 1, 1), (1, 1, 1), (4, 5, 4)),
]  # fmt: skip
DEPTHWISE = [
    ((3, 3), (1, 1), (1, 1), (1, 1), (7, 6)), ((7, 7), (1, 1), (3, 3), (1, 1), (9, 8)),
    ((3, 3), (2, 2), (1, 1), (1, 1), (8, 8)),  # the last row and column are seen by fewer feature layers
    ((3, 3), (4, 4), (0, 0), (1, 1), (10, 9)),  # pixels left over, and more of them than feature layers
    ((3, 2), (3, 2), (0, 1), (1, 2), (9, 9)), ((2, 3), (2, 3), (1, 0), (3, 2), (11, 12)),
    ((3, 3), (1, 1), (4, 5), (1, 1), (3, 4)),  # feature layers that see nothing but padding
    ((1, 1), (1, 1), (0, 0), (1, 1), (5, 4)), ((1, 1), (2, 2), (1, 1), (1, 1), (5, 4)),
    ((7, 7), (1, 1), (0, 0), (1, 1), (7, 7)),  # one position
    ((5,), (2,), (3,), (2,), (17,)), ((2, 3, 3), (1, 2, 2), (1, 1, 0), (1, 1, 2), (4, 5, 7)),
]  # fmt: skip


def geometry_of(kernel, stride, padding, dilation, groups=1, transposed=False):
    return Geometry(kernel, stride, padding, dilation, groups, transposed, (0,) * len(kernel))


def random(*shape, generator=None):
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def convolved(g, C, D, image):
    """Input, output gradient and weight, and by autograd every image's own gradient of the weight, and the input's."""
    torch.manual_seed(0)
    x, weight = random(3, C, *image).requires_grad_(), random(D, C // g.groups, *g.kernel).requires_grad_()
    y = torch.convolution(x, weight, None, g.stride, g.padding, g.dilation, False, g.output_padding, g.groups)
    b = torch.randn_like(y)
    own = torch.stack([torch.autograd.grad(y[n], weight, b[n], retain_graph=True)[0] for n in range(3)])
    return x.detach(), b, weight.detach(), own, torch.autograd.grad(y, x, b)[0]


def squares(gradients):
    return gradients.double().flatten(1).square().sum(1)


def test_forms_agree_with_autograd():
    for *settings, image in CASES:
        geometry = geometry_of(*settings)
        x, b, weight, own, inputs = convolved(geometry, 13, 10, image)
        size = size_of(13, 10, image, tuple(b.shape[2:]), geometry)
        possible = possible_forms(size, geometry, LIMITS) | possible_forms(size, geometry, ACCELERATOR)
        assert forms.pixel_products in possible, geometry
        assert (forms.unfolded in possible) == (len(image) == 2 and not geometry.is_pointwise()), geometry
        if len(image) == 2:
            unfolded = F.unfold(x, geometry.kernel, geometry.dilation, geometry.padding, geometry.stride)
            assert_close(forms.windows(x, geometry), unfolded, rtol=0, atol=0)
        for form in possible:
            if form in (forms.products, forms.pixel_products):
                found = forms.from_products(form(x, geometry), x, b, geometry)
            else:
                found = form(x, b, geometry)
            assert_close(found, squares(own), rtol=1e-10, atol=0)
        assert_close(forms.input_gradient(x, b, weight, geometry), inputs, rtol=1e-12, atol=1e-12)


def test_depthwise_forms_agree_with_autograd():
    for multiplier, (*settings, image) in itertools.product((1, 2, 3), DEPTHWISE):
        geometry = geometry_of(*settings, groups=5)
        x, b, _, own, _ = convolved(geometry, 5, 5 * multiplier, image)
        size = size_of(5, 5 * multiplier, image, tuple(b.shape[2:]), geometry)
        possible = possible_forms(size, geometry, LIMITS)
        assert set(possible) == {forms.materialised} | ({forms.depthwise} if size.positions > 1 else set()), geometry
        for form in possible:
            assert_close(form(x, b, geometry), squares(own), rtol=1e-10, atol=0)


def test_the_cheapest_form_is_that_of_the_tables():
    """Else some forms are computed in these tests alone."""
    for kernel, stride, form in ((7, 1, forms.depthwise), (5, 2, forms.depthwise), (3, 2, forms.materialised)):
        geometry = geometry_of((kernel,) * 2, (stride,) * 2, (kernel // 2,) * 2, (1, 1), 96)
        size = size_of(96, 96, (28, 28), (28 // stride,) * 2, geometry)
        assert cheapest(size, geometry, LIMITS)[0] is form
    for groups, transposed in ((1, False), (2, False), (4, True)):
        geometry = geometry_of((5, 5), (1, 1), (2, 2), (1, 1), groups, transposed)
        assert forms.depthwise not in possible_forms(size_of(4, 4, (9, 9), (9, 9), geometry), geometry, LIMITS)
    strided = geometry_of((3, 3), (2, 2), (1, 1), (1, 1))  # of a residual network
    assert cheapest(size_of(128, 256, (16, 16), (8, 8), strided), strided, LIMITS)[0] is forms.pixel_products
    patches = geometry_of((16, 16), (16, 16), (0, 0), (1, 1))  # 256 phases of three channels each
    assert cheapest(size_of(3, 768, (224, 224), (14, 14), patches), patches, LIMITS)[0] is not forms.pixel_products


def test_weight_norms_of_tokens_are_exact(monkeypatch):
    torch.manual_seed(0)
    sizes = [(1, 9, 8), (3, 40, 30), (65, 200, 190), (90, 20, 30), (130, 300, 290), (257, 600, 590)]
    for chunk, (tokens, C, D) in itertools.product((1, 2000, 10**6), sizes):
        limits = dataclasses.replace(LIMITS, chunk=chunk)
        monkeypatch.setattr(costs, "limits", lambda device, limits=limits: limits)
        a, b, weight = random(5, tokens, C), random(5, tokens, D), random(D, C).requires_grad_()
        own = [torch.autograd.grad(x @ weight.T, weight, y)[0] for x, y in zip(a, b, strict=True)]
        assert_close(linear.weight_norms(a, b), squares(torch.stack(own)), rtol=1e-11, atol=0)


SAME = geometry_of((3, 3), (1, 1), (1, 1), (1, 1))


def cancelling(cancel):
    """Input and output gradient, float32, of images whose gradient is `cancel` times what its parts are; its exact norms."""
    generator = torch.Generator().manual_seed(0)
    a = 1 + cancel * torch.rand(3, 8, 6, 6, dtype=torch.float64, generator=generator)
    b = random(3, 5, 6, 6, generator=generator)
    b = b - b.mean((2, 3), keepdim=True)
    b[:, :, 0], b[:, :, -1], b[..., 0], b[..., -1] = 0, 0, 0, 0  # so that padding does not keep the sum alive
    inner = b[:, :, 1:-1, 1:-1]
    inner -= inner.mean((2, 3), keepdim=True)
    a, b = a.float(), b.float()
    return a, b, squares(forms.weight_gradients(a.double(), b.double(), SAME))


def test_gram_forms_that_cancel_are_computed_through_the_gradient(monkeypatch):
    for form, cancel in itertools.product((forms.products, forms.pixel_products), (1.0, 1e-2, 1e-4)):
        a, b, exact = cancelling(cancel)
        found, own = forms.from_products(form(a, SAME), a, b, SAME), squares(forms.weight_gradients(a, b, SAME))
        assert ((found - exact).abs() <= 3e-3 * exact + 3 * (own - exact).abs()).all(), (form, cancel)
    monkeypatch.setattr(forms, "guarded", lambda inner, traces, again: inner)
    found = forms.from_products(forms.products(a, SAME), a, b, SAME)
    assert ((found - exact).abs() > 0.05 * exact).any(), "without the guard the Gram form has lost everything"


def test_cancelling_tokens_and_tiny_gradients_keep_their_digits():
    generator = torch.Generator().manual_seed(0)
    a = 1 + 1e-4 * torch.rand(3, 6, 40, generator=generator, dtype=torch.float64)
    b = random(3, 6, 30, generator=generator)
    b -= b.mean(1, keepdim=True)
    assert 6 * 70 < 40 * 30  # the Gram form is the cheaper one here
    assert_close(linear.weight_norms(a.float(), b.float()), squares(linear.weight_gradients(a, b)), rtol=3e-3, atol=0)
    a, b, exact = cancelling(1.0)
    for scale in (1e-12, 1e-18, 1e-25):
        found = forms.from_products(forms.pixel_products(a, SAME), a, b * scale, SAME)
        assert_close(found, exact * scale**2, rtol=1e-3, atol=0)


def test_as_many_images_are_taken_at_once_as_their_activations_fit(monkeypatch):
    network = nn.Sequential(nn.Linear(8, 512), nn.Linear(512, 8), nn.Sigmoid(), nn.Sigmoid())  # each keeps its output
    image = torch.rand(1, 3, 8, 8)
    for limit, number in ((10 * 2 * image.nbytes, 10), (1, 1)):
        monkeypatch.setattr(costs, "limits", lambda device, limit=limit: costs.Limits(activation_bytes=limit))
        with torch.inference_mode():
            assert images_at_once(network, image) == number, "weights take no more memory for more images"
