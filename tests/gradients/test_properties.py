"""What must hold for any network, whichever way its norms are computed."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightning_gradood.core import Refusal
from lightning_gradood.core.network_state import exact_arithmetic, frozen_network
from lightning_gradood.gradients import AllOnes, LabelDesign, costs, squared_gradient_norms
from lightning_gradood.gradients import norms as batches
from lightning_gradood.gradients.engine import backward, forward
from lightning_gradood.gradients.plan import plan_for
from lightning_gradood.gradients.proof import Plan

from . import truth
from .toys import SLOW, TOYS, make, pictures

FAST = sorted(set(TOYS) - SLOW)
SOME = ["residual", "twice", "grouped", "transformer", "windows", "weight_norm"]


class Scaled(LabelDesign):
    """Another design's loss times a constant."""

    def __init__(self, design: LabelDesign, factor: float) -> None:
        self.design, self.factor = design, factor

    @property
    def name(self) -> str:
        return f"{self.factor}_{self.design.name}"

    def logit_gradient(self, logits: Tensor) -> Tensor:
        return self.factor * self.design.logit_gradient(logits)


@pytest.mark.parametrize("name", SOME)
def test_batch_size_does_not_matter(name: str) -> None:
    network, images = make(name), pictures(70)
    whole = squared_gradient_norms(network, images)
    for size in (1, 2, 33):
        parts = [squared_gradient_norms(network, part) for part in images.split(size)[:2]]
        truth.assert_exact(torch.cat(parts), whole[: 2 * size])


@pytest.mark.parametrize("name", SOME)
def test_other_rows_do_not_matter_and_order_follows(name: str) -> None:
    network, images = make(name), pictures(6)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    norms = squared_gradient_norms(network, images)
    truth.assert_exact(squared_gradient_norms(network, images[order]), norms[order])
    mixed = torch.cat([images[:2], pictures(4, seed=9) * 3 - 1])
    truth.assert_exact(squared_gradient_norms(network, mixed)[:2], norms[:2])


@pytest.mark.parametrize("factor", [1e-200, 0.3, 1e150])
def test_scaling_the_loss_scales_the_norms_by_its_square(factor: float) -> None:
    network, images = make("residual"), pictures(3)
    norms = squared_gradient_norms(network, images, Scaled(AllOnes(), factor**0.5))
    truth.assert_exact(norms / factor, squared_gradient_norms(network, images))


@pytest.mark.parametrize("name", FAST)
def test_gradients_rebuilt_from_single_images_sum_to_the_ordinary_one(name: str) -> None:
    """‖Σ g_n‖² over a batch that repeats one image n times is n²·‖g‖²; and the parallelogram law for two images."""
    network = make(name)
    parameters = list(network.parameters())
    one, two = pictures(2).split(1)
    first, second = (_ordinary(network, image, parameters) for image in (one, two))
    both = _ordinary(network, torch.cat([one, two]), parameters)
    norms = squared_gradient_norms(network, torch.cat([one, two, one]))
    for column, (g1, g2, g) in enumerate(zip(first, second, both, strict=True)):
        cross = 2 * float((g1 * g2).sum())
        found = float(norms[0, column] + norms[1, column]) + cross
        assert found == pytest.approx(float(g.square().sum()), rel=1e-9, abs=1e-18)
    assert torch.equal(norms[0] > 0, norms[2] > 0)


def _ordinary(network: nn.Module, images: Tensor, parameters: list[nn.Parameter]) -> list[Tensor]:
    flags = [parameter.requires_grad for parameter in parameters]
    network.requires_grad_(True)
    logits = network(images)
    loss = F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits), reduction="none").mean(1).sum()
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    for parameter, flag in zip(parameters, flags, strict=True):
        parameter.requires_grad_(flag)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def test_channels_last_is_exact() -> None:
    network, images = make("residual"), pictures(4)
    expected = truth.true_norms(network, images)
    network.to(memory_format=torch.channels_last)
    truth.assert_exact(squared_gradient_norms(network, images.to(memory_format=torch.channels_last)), expected)


def test_designs_over_one_forward_equal_designs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The input's Gram matrices are shared between designs; they must not be shared between chunks or layers."""
    monkeypatch.setattr(costs, "limits", lambda device: costs.Limits(chunk=1 << 16))  # several chunks a layer
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 40, 3, padding=1), nn.Tanh(), nn.Conv2d(40, 40, 3, padding=1), nn.Tanh(), nn.Flatten(),
        nn.Linear(2560, 5),
    ).double()  # fmt: skip
    images, parameters = pictures(32), list(network.parameters())
    designs = [AllOnes(), Scaled(AllOnes(), -2.0), Scaled(AllOnes(), 0.5)]
    with exact_arithmetic(), frozen_network(network):
        together = backward(forward(network, images, parameters, 3), designs)
    alone = squared_gradient_norms(network, images)
    for column, factor in enumerate((1.0, 4.0, 0.25)):
        truth.assert_exact(together[:, column], factor * alone)


@pytest.mark.parametrize("name", FAST)
def test_one_image_alone_is_exact_by_closed_forms(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of large parameters take them; here all do."""
    monkeypatch.setattr(costs, "ALONE", 0)
    network, images = make(name), pictures(2)
    squared_gradient_norms(network, images)  # the plan, which asks the loop
    monkeypatch.setattr(costs, "limits", lambda device: costs.Limits(recheck=0))
    squared_gradient_norms(network, images[:1])  # the first batch of this size is compared with the loop
    monkeypatch.setattr(batches, "loop_norms", lambda *_: pytest.fail("took the loop"))
    for image in images.split(1):
        truth.assert_exact(squared_gradient_norms(network, image), truth.true_norms(network, image))


def test_one_image_alone_takes_the_way_that_pays() -> None:
    large, small = (
        nn.Sequential(nn.Flatten(), nn.Linear(192, 2000), nn.Linear(2000, 5)),
        make("residual", torch.float32),
    )
    for network, single in ((large, True), (small, False)):
        parameters = list(network.parameters())
        with exact_arithmetic(), frozen_network(network):
            assert plan_for(network, pictures(1, torch.float32), parameters).single is single


def test_one_image_alone_is_refused_where_a_batch_is() -> None:
    class Centred(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.flatten(1) - x.flatten(1).mean(0))

    for count in (1, 2):
        with pytest.raises(Refusal, match="independently"):
            squared_gradient_norms(Centred(192, 5), pictures(count, torch.float32))


def test_plan_is_made_once_per_network_and_shape() -> None:
    network = make("residual")
    parameters = list(network.parameters())
    with exact_arithmetic(), frozen_network(network):
        plan = plan_for(network, pictures(4), parameters)
        assert plan_for(network, pictures(9, seed=3), parameters) is plan
        other: Plan = plan_for(network, pictures(4)[:, :, :6], parameters)
    assert other is not plan


def test_half_precision_takes_the_loop() -> None:
    network = make("linear", torch.bfloat16)
    with exact_arithmetic(), frozen_network(network):
        plan = plan_for(network, pictures(2, torch.float32).bfloat16(), list(network.parameters()))
    assert plan.trace is None
    assert "bfloat16" in plan.reason


class Counting(nn.Module):
    """Remembers how many images each forward pass had."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.sizes = nn.Linear(192, 5), []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        return self.linear(x.flatten(1))


def test_memory_is_bounded_and_checks_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "limits", lambda device: costs.Limits(recheck=0))  # by chance, see test_silent_errors
    network = Counting()
    squared_gradient_norms(network, pictures(500))
    checks = sum(network.sizes) - 500
    assert max(network.sizes) <= 32
    assert (
        checks <= 80
    )  # images, two micro-batches of them; of a run over 10,000 less than 5 % even at five times the price
    network.sizes.clear()
    squared_gradient_norms(network, pictures(500))
    assert sum(network.sizes) == 500


def test_large_activations_make_small_micro_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "limits", lambda device: costs.Limits(activation_bytes=20_000))
    network, images = make("residual"), pictures(20)
    parameters = list(network.parameters())
    with exact_arithmetic(), frozen_network(network):
        plan = plan_for(network, images, parameters)
    assert 1 <= plan.micro_batch < 5
    truth.assert_exact(squared_gradient_norms(network, images), truth.true_norms(network, images))


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that an operation made, views of others apart."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in given:
                self.elements = max(self.elements, tensor.numel())
        return made


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("name", ["pointwise", "sequence_first"])
def test_nothing_is_as_large_as_the_callers_batch(name: str, inference: bool) -> None:
    """Neither the first call nor a later one, by closed forms or by the loop, copies, casts or compares it whole."""
    network = make(name, torch.float32)
    with torch.inference_mode(inference):
        images = pictures(400, torch.float64)
        for _ in range(2):
            with Largest() as largest:
                squared_gradient_norms(network, images)
            assert largest.elements <= images.numel() / 3  # 32 images of up to 8 channels for 3
