"""Gram forms cancel where a gradient is small against its parts; such rows are computed again through dW itself."""

import pytest
import torch
from torch import Tensor

from lightning_gradood.gradients.rules import convolution_forms as forms
from lightning_gradood.gradients.rules import linear
from lightning_gradood.gradients.rules.convolution_forms import Geometry

GEOMETRY = Geometry((3, 3), (1, 1), (1, 1), (1, 1), 1, False, (0, 0))


def _convolution(dtype: torch.dtype, cancel: float) -> tuple[Tensor, Tensor]:
    """Input and output gradient of images whose gradient is `cancel` times what its parts are."""
    generator = torch.Generator().manual_seed(0)
    a = torch.ones(3, 8, 6, 6, dtype=torch.float64) + cancel * torch.rand(
        3, 8, 6, 6, dtype=torch.float64, generator=generator
    )
    b = torch.randn(3, 5, 6, 6, dtype=torch.float64, generator=generator)
    b = b - b.mean((2, 3), keepdim=True)
    b[:, :, 0], b[:, :, -1], b[..., 0], b[..., -1] = 0, 0, 0, 0  # so that padding does not keep the sum alive
    inner = b[:, :, 1:-1, 1:-1]
    inner -= inner.mean((2, 3), keepdim=True)
    return a.to(dtype), b.to(dtype)


@pytest.mark.parametrize("form", [forms.products, forms.pixel_products])
@pytest.mark.parametrize("cancel", [1.0, 1e-2, 1e-4])
def test_cancelling_convolution_keeps_its_digits(form: object, cancel: float) -> None:
    a, b = _convolution(torch.float32, cancel)
    exact = forms.weight_gradients(a.double(), b.double(), GEOMETRY).flatten(1).square().sum(1)
    found = forms.from_products(form(a, GEOMETRY), a, b, GEOMETRY)  # type: ignore[operator]
    own = forms.weight_gradients(a, b, GEOMETRY).double().flatten(1).square().sum(1)
    assert ((found - exact).abs() <= 3e-3 * exact + 3 * (own - exact).abs()).all()


def test_the_guard_is_what_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the Gram form has lost everything: this test says that the one above can fail."""
    a, b = _convolution(torch.float32, 1e-4)
    exact = forms.weight_gradients(a.double(), b.double(), GEOMETRY).flatten(1).square().sum(1)
    monkeypatch.setattr(forms, "guarded", lambda inner, traces, again: inner)
    found = forms.from_products(forms.products(a, GEOMETRY), a, b, GEOMETRY)
    assert ((found - exact).abs() > 0.05 * exact).any()


def test_cancelling_tokens_keep_their_digits() -> None:
    generator = torch.Generator().manual_seed(0)
    a = 1 + 1e-4 * torch.rand(3, 6, 40, generator=generator, dtype=torch.float64)
    b = torch.randn(3, 6, 30, generator=generator, dtype=torch.float64)
    b -= b.mean(1, keepdim=True)
    exact = linear.weight_gradients(a, b).flatten(1).square().sum(1)
    found = linear.weight_norms(a.float(), b.float())
    assert 6 * 70 < 40 * 30  # the Gram form is the cheaper one here
    torch.testing.assert_close(found, exact, rtol=3e-3, atol=0)


@pytest.mark.parametrize("scale", [1e-12, 1e-18, 1e-25])
def test_tiny_gradients_do_not_vanish(scale: float) -> None:
    a, b = _convolution(torch.float32, 1.0)
    b = b * scale
    exact = forms.weight_gradients(a.double(), b.double(), GEOMETRY).flatten(1).square().sum(1)
    found = forms.from_products(forms.pixel_products(a, GEOMETRY), a, b, GEOMETRY)
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=0)
