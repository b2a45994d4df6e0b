"""Every toy network, every label design: equal to torch's own loss backpropagated for each image alone."""

import pytest
import torch
from torch import Tensor, nn

from lightning_gradood.gradients import (
    AllOnes,
    AllZeros,
    KHot,
    Predicted,
    Uniform,
    parameter_names,
    probe_gradients,
    squared_gradient_norms,
)

from . import truth
from .toy_modules import TwoDtypes
from .toys import TOYS, make, pictures

DESIGNS = {
    AllOnes(): truth.all_ones,
    AllZeros(): truth.all_zeros,
    KHot((0, 3)): truth.k_hot(0, 3),
    Predicted(): truth.predicted,
    Uniform(): truth.uniform,
}


@pytest.mark.parametrize("name", TOYS)
def test_toy_network_equals_the_loop(name: str) -> None:
    network, images = make(name), pictures(4)
    truth.assert_exact(squared_gradient_norms(network, images), truth.true_norms(network, images))


@pytest.mark.parametrize("design", DESIGNS, ids=lambda design: design.name)
@pytest.mark.parametrize("name", ["residual", "transformer"])
def test_label_design_equals_torch_loss(name: str, design: AllOnes) -> None:
    network, images = make(name), pictures(3)
    truth.assert_exact(
        squared_gradient_norms(network, images, design), truth.true_norms(network, images, DESIGNS[design])
    )


def test_several_designs_stand_side_by_side() -> None:
    network, images = make("residual"), pictures(3)
    norms, logits = probe_gradients(network, images, list(DESIGNS))
    expected = torch.cat([truth.true_norms(network, images, loss) for loss in DESIGNS.values()], 1)
    truth.assert_exact(norms, expected)
    assert norms.shape == (3, len(DESIGNS) * len(parameter_names(network)))
    torch.testing.assert_close(logits, network(images).detach(), rtol=1e-12, atol=0)
    assert not logits.requires_grad


def test_columns_follow_named_parameters() -> None:
    network = make("tied")
    names = parameter_names(network)
    assert names == [name for name, _ in network.named_parameters()]
    assert "again.weight" not in names
    assert squared_gradient_norms(network, pictures(2)).shape == (2, len(names))


def test_unused_parameter_is_zero_and_frozen_one_is_not() -> None:
    network = make("unused")
    norms = dict(zip(parameter_names(network), squared_gradient_norms(network, pictures(3)).T, strict=True))
    assert (norms["spare.weight"] == 0).all()
    assert (norms["linear.bias"] > 0).all()


@pytest.mark.parametrize("number", [1, 2, 9])
def test_rows_do_not_depend_on_the_rest_of_the_batch(number: int) -> None:
    network, images = make("residual"), pictures(9)
    whole = squared_gradient_norms(network, images)
    truth.assert_exact(squared_gradient_norms(network, images[:number]), whole[:number])
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    truth.assert_exact(squared_gradient_norms(network, images[order]), whole[order])


def test_float32_network_computes_in_float32_and_returns_float64() -> None:
    network, exact = make("residual", torch.float32), make("residual")
    exact.load_state_dict(network.state_dict())
    norms = squared_gradient_norms(network, pictures(4))
    assert norms.dtype == torch.float64
    torch.testing.assert_close(norms, squared_gradient_norms(exact, pictures(4)), rtol=1e-4, atol=0)


@pytest.mark.parametrize("number", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["residual", "recurrent", "scalars"])
def test_half_precision_is_no_worse_than_plain_autograd(name: str, dtype: torch.dtype, number: int) -> None:
    network, images = make(name, dtype), pictures(number, dtype)
    plain, found = truth.true_norms(network, images), squared_gradient_norms(network, images)
    exact = truth.true_norms(network.double(), images.double())
    own = ((plain - exact).abs() / exact).max()
    assert ((found - exact).abs() / exact).max() <= max(3 * own, 8 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("number", [1, 4])
def test_autocast_inside_the_forward_rounds_as_the_network_asks(number: int) -> None:
    class Inside(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return super().forward(x).float()

    torch.manual_seed(0)
    network = Inside(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    found, plain = (way(network, pictures(number, torch.float32)) for way in (squared_gradient_norms, truth.true_norms))
    torch.testing.assert_close(found, plain, rtol=8 * torch.finfo(torch.bfloat16).eps, atol=0)


def test_parameters_of_several_dtypes_are_exact() -> None:
    torch.manual_seed(0)
    network, images = TwoDtypes(), pictures(4, torch.float32)
    expected = truth.true_norms(network, images)
    torch.testing.assert_close(squared_gradient_norms(network, images), expected, rtol=1e-5, atol=0)


def test_confident_images_do_not_underflow_in_float32() -> None:
    """At a logit of 60 the float32 all-ones gradient is 1e-26, its square far below float32's range."""
    network = nn.Linear(3, 2)
    with torch.no_grad():
        network.weight.fill_(10.0)
        network.bias.fill_(30.0)
    images = torch.ones(1, 3)
    norms = squared_gradient_norms(network, images)
    tail = torch.tensor(-60.0, dtype=torch.float64).exp() / 2  # torch's own loss returns 0 here, even in float64
    truth.assert_exact(norms, tail.square() * torch.tensor([[6.0, 2.0]], dtype=torch.float64))


def test_any_input_dtype_is_cast_to_the_network() -> None:
    network = make("linear", torch.float32)
    expected = squared_gradient_norms(network, pictures(2).float())
    assert torch.equal(squared_gradient_norms(network, pictures(2)), expected)
