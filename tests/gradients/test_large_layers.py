"""What is done for large layers only, on small ones, against autograd one image at a time."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from lightning_gradood.gradients import costs, squared_gradient_norms
from lightning_gradood.gradients.accumulator import paired, paired_products
from lightning_gradood.gradients.rules import linear

from . import truth
from .toys import make, pictures


@pytest.mark.parametrize("name", ["norms", "tokens", "windows", "transformer"])
def test_a_layer_norm_taken_image_by_image_is_exact(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "LARGE_NORM", 0)
    network, images = make(name), pictures()
    truth.assert_exact(squared_gradient_norms(network, images), truth.true_norms(network, images))


@pytest.mark.parametrize("tokens", [1, 2, 63, 64, 65, 130, 257])
def test_gram_matrices_of_tokens_in_strips_are_whole(tokens: int) -> None:
    torch.manual_seed(0)
    a, b = torch.randn(3, 5, tokens, dtype=torch.float64), torch.randn(3, 7, tokens, dtype=torch.float64)
    norms = (b @ a.transpose(1, 2)).square().sum((1, 2))
    traces = a.square().sum((1, 2)) * b.square().sum((1, 2))
    for inner, product in (paired(a.transpose(1, 2) @ a, b), paired_products(a, b)):
        torch.testing.assert_close(inner, norms, rtol=1e-11, atol=0)
        torch.testing.assert_close(product, traces, rtol=1e-12, atol=0)


@pytest.mark.parametrize("chunk", [1, 2000, 10**6])
@pytest.mark.parametrize(("tokens", "C", "D"), [(1, 9, 8), (3, 40, 30), (70, 200, 190), (90, 20, 30)])
def test_weight_norms_of_tokens_are_exact(
    tokens: int, C: int, D: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = dataclasses.replace(costs.limits(torch.device("cpu")), chunk=chunk)
    monkeypatch.setattr(costs, "limits", lambda device: limits)
    torch.manual_seed(0)
    a, b = torch.randn(5, tokens, C, dtype=torch.float64), torch.randn(5, tokens, D, dtype=torch.float64)
    weight = torch.zeros(D, C, dtype=torch.float64, requires_grad=True)
    own = [torch.autograd.grad(x @ weight.T, weight, y)[0].square().sum() for x, y in zip(a, b, strict=True)]
    torch.testing.assert_close(linear.weight_norms(a, b), torch.stack(own), rtol=1e-11, atol=0)
