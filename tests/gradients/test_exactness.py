"""Every network, label design and dtype: equal to torch's own loss backpropagated for each image alone."""

from dataclasses import dataclass

import pytest
import torch
import torchvision
from torch import nn

from lightning_gradood import gradients
from lightning_gradood.core import exact_arithmetic, frozen_network
from lightning_gradood.gradients import AllOnes, costs, norms, parameter_names, squared_gradient_norms, way_taken
from lightning_gradood.gradients.engine import backward, forward

from . import truth
from .block_modules import Net, lin
from .test_labels import LOSSES
from .toys import FAST, NETWORKS, SLOW, make, pictures, trained, way_of
from .treacherous import Between


def batches(images):
    """The images alone, few and many, in another order, beside others, in another layout; there are 16 tokens and 8 rows."""
    with torch.inference_mode():
        inference = images[:3] * 1
    return {f"first {number}": images[:number] for number in (4, 1, 2, 3, 5, 8, 16)} | {
        "permuted": images[[3, 0, 2, 1]],
        "beside others": torch.cat([images[:2], pictures(4, seed=9) ** 4]),
        "channels last": images[:4].contiguous(memory_format=torch.channels_last),
        "as inference tensors": inference,
    }


@pytest.mark.parametrize("part", range(4))
def test_every_network_is_exact_in_every_batch_and_by_closed_forms(part):
    wrong, images = {}, pictures(16)
    for name in sorted(NETWORKS)[part::4]:
        network = make(name)
        for what, batch in batches(images).items():
            expected = truth.true_norms(network, batch.clone())
            wrong[name, what] = truth.excess(squared_gradient_norms(network, batch), expected)
        way = way_of(network, images)
        wrong[name, "way"] = bool(way.reason) != (name in SLOW) and (way.reason or "closed forms")
    truth.assert_none(wrong)


def test_one_image_alone_is_exact_by_closed_forms(monkeypatch):
    """Networks of large parameters take them; here all do, and layer norms image by image, as large ones are."""
    monkeypatch.setattr(costs, "LARGE_NORM", 0)
    large = nn.Sequential(nn.Flatten(), nn.Linear(192, 2000), nn.Linear(2000, 5))
    for network, single in ((large, True), (make("residual", torch.float32), False)):
        assert way_of(network, pictures(1, torch.float32)).single is single
    monkeypatch.setattr(costs, "ALONE", 0)
    monkeypatch.setattr(costs, "limits", lambda device: costs.Limits(recheck=0))
    wrong, one = {}, pictures(1)
    for name in FAST:
        network = make(name)
        squared_gradient_norms(network, pictures(2))  # the way, which asks the loop
        squared_gradient_norms(network, one)  # the first batch of this size is compared with the loop
        with monkeypatch.context() as patch:
            patch.setattr(norms, "loop_norms", lambda *_: pytest.fail("took the loop"))
            wrong[name] = truth.excess(squared_gradient_norms(network, one), truth.true_norms(network, one))
    truth.assert_none(wrong)


# vit_b_16 without its 86 million parameters
SMALL = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 3, "hidden_dim": 48, "mlp_dim": 96}
SOME = ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "VisionTransformer"]
OTHERS = ["densenet121", "efficientnet_b0", "convnext_tiny", "swin_t", "regnet_y_400mf"]


@pytest.mark.parametrize("name", [*SOME, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_networks_that_nobody_here_wrote_are_exact_by_closed_forms(name):
    torch.manual_seed(0)
    network = getattr(torchvision.models, name)(num_classes=10, **SMALL if name == "VisionTransformer" else {})
    network, images = trained(network).double().eval(), torch.rand(2, 3, 32, 32, dtype=torch.float64)
    truth.assert_exact(squared_gradient_norms(network, images), truth.true_norms(network, images))
    assert not way_of(network, images).reason


def test_every_design_is_exact_alone_and_beside_others():
    wrong, images = {}, pictures(3)
    for name in ("residual", "transformer"):
        network = make(name)
        together, logits = gradients.probe_gradients(network, images, list(LOSSES))
        for (design, loss), part in zip(LOSSES.items(), together.chunk(len(LOSSES), 1), strict=True):
            expected = truth.true_norms(network, images, loss)
            wrong[name, design.name, "alone"] = truth.excess(squared_gradient_norms(network, images, design), expected)
            wrong[name, design.name, "beside others"] = truth.excess(part, expected)
        torch.testing.assert_close(logits, network(images).detach(), rtol=1e-12, atol=0)
        assert not logits.requires_grad
    truth.assert_none(wrong)


@dataclass(frozen=True)
class Scaled(gradients.LabelDesign):
    """The all-ones loss times a constant."""

    factor: float
    name = "scaled"

    def logit_gradient(self, logits):
        return self.factor * AllOnes().logit_gradient(logits)


def test_scaling_the_loss_scales_the_norms_by_its_square(monkeypatch):
    network, images = make("residual"), pictures(3)
    plain = squared_gradient_norms(network, images)
    for factor in (1e-200, 0.3, 1e150):
        truth.assert_exact(squared_gradient_norms(network, images, Scaled(factor**0.5)) / factor, plain)
    # over one forward the input's Gram matrices are shared between designs, but neither between chunks nor layers
    monkeypatch.setattr(costs, "limits", lambda device: costs.Limits(chunk=1 << 16))  # several chunks a layer
    layers = [nn.Conv2d(3, 40, 3, padding=1), nn.Tanh(), nn.Conv2d(40, 40, 3, padding=1), nn.Tanh(), nn.Flatten()]
    network, images = nn.Sequential(*layers, nn.Linear(2560, 5)).double(), pictures(32)
    with exact_arithmetic(), frozen_network(network):
        pass_ = forward(network, images, list(network.parameters()), 3)
        together = backward(pass_, [Scaled(1), Scaled(-2), Scaled(0.5)])
    alone = squared_gradient_norms(network, images)
    for column, factor in enumerate((1.0, 4.0, 0.25)):
        truth.assert_exact(together[:, column], factor * alone)


def test_columns_follow_named_parameters_and_float32_networks_return_float64():
    assert parameter_names(make("tied")) == [name for name, _ in make("tied").named_parameters()]
    found = dict(
        zip(parameter_names(make("unused")), squared_gradient_norms(make("unused"), pictures(3)).T, strict=True)
    )
    assert (found["spare.weight"] == 0).all()
    assert (found["linear.bias"] > 0).all(), "frozen"
    network, exact = make("residual", torch.float32), make("residual")
    exact.load_state_dict(network.state_dict())
    found = squared_gradient_norms(network, pictures(4))  # of float64, which is cast
    assert found.dtype == torch.float64
    assert torch.equal(found, squared_gradient_norms(network, pictures(4).float()))
    torch.testing.assert_close(found, squared_gradient_norms(exact, pictures(4)), rtol=1e-4, atol=0)


def test_half_precision_is_no_worse_than_plain_autograd_and_takes_the_loop():
    wrong = {}
    for name in ("residual", "recurrent", "scalars"):
        for dtype in (torch.float16, torch.bfloat16):
            network, images = make(name, dtype), pictures(4, dtype)
            found = {number: squared_gradient_norms(network, images[:number]) for number in (1, 4)}
            way = way_of(network, images)
            assert way.reason
            assert str(dtype) in way.reason or name == "recurrent"
            plain, exact = (truth.true_norms(network.to(d), images.to(d)) for d in (dtype, torch.float64))
            bound = max(3 * ((plain - exact).abs() / exact).max(), 8 * torch.finfo(dtype).eps)
            for number, norms_ in found.items():
                worst = ((norms_ - exact[:number]).abs() / exact[:number]).max()
                wrong[name, dtype, number] = "" if worst <= bound else f"{worst} above {bound}"
    truth.assert_none(wrong)


def autocast_inside(self, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return self.last(torch.tanh(self.first(x.flatten(1)))).float()


def two_dtypes(self, x):
    return self.last(torch.tanh(self.first(x.flatten(1))).double())


def test_several_dtypes_in_one_network_round_as_it_asks():
    torch.manual_seed(0)
    layers = {"first": lin(192, 7), "last": lin(7, 5)}
    mixed = Net(two_dtypes, **layers)
    mixed.last.double()
    for network, rtol in ((Net(autocast_inside, **layers), 8 * torch.finfo(torch.bfloat16).eps), (mixed, 1e-5)):
        for number in (1, 4):
            images = pictures(number, torch.float32)
            expected = truth.true_norms(network, images)
            torch.testing.assert_close(squared_gradient_norms(network, images), expected, rtol=rtol, atol=0)


def test_confident_images_do_not_underflow_in_float32():
    """At a logit of 60 the float32 all-ones gradient is 1e-26, its square far below float32's range."""
    network = nn.Linear(3, 2)
    nn.init.constant_(network.weight, 10.0), nn.init.constant_(network.bias, 30.0)
    tail = torch.tensor(-60.0, dtype=torch.float64).exp() / 2  # torch's own loss returns 0 here, even in float64
    expected = tail.square() * torch.tensor([[6.0, 2.0]], dtype=torch.float64)
    truth.assert_exact(squared_gradient_norms(network, torch.ones(1, 3)), expected)


def test_which_way_was_taken_is_said_and_ways_are_for_shapes():
    other_in_larger_batches = Between(lambda x: x if len(x) < 9 else 1 * x)
    for network, images, told in (
        (make("residual"), pictures(4), "closed forms"),
        (make("sequence_first"), pictures(4), "one image at a time: "),
        (other_in_larger_batches, torch.rand(16, 3, 12, 12), "one image at a time: "),
    ):
        assert way_taken(network, images) == ""
        squared_gradient_norms(network, images)
        assert way_taken(network, images).startswith(told)
    network = make("residual")
    way = way_of(network, pictures(4))
    assert way_of(network, pictures(9, seed=3)) is way
    assert way_of(network, pictures(4)[:, :, :6]) is not way


def test_memory_is_bounded_and_checks_are_few(monkeypatch):
    monkeypatch.setattr(costs, "limits", lambda device: costs.Limits(recheck=0))  # by chance, see test_silent_errors
    sizes = []
    network = Net(lambda self, x: (sizes.append(len(x)), self.linear(x.flatten(1)))[1], linear=lin(192, 5))
    squared_gradient_norms(network, pictures(500))
    assert max(sizes) <= 32
    assert sum(sizes) - 500 <= 90  # less than 5 % of a run over 10,000 images, even at five times the price
    sizes.clear()
    squared_gradient_norms(network, pictures(500))
    assert sum(sizes) == 500
    monkeypatch.setattr(costs, "limits", lambda device: costs.Limits(activation_bytes=20_000))
    assert 1 <= way_of(make("residual"), pictures(20)).micro_batch < 5
