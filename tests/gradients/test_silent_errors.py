"""No wrong number without a word: each case was one once, or is of the same kind."""

import copy
import gc
import random
import threading
import weakref

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lightning_gradood.core import Refusal
from lightning_gradood.core.network_state import exact_arithmetic, frozen_network
from lightning_gradood.gradients import AllOnes, Uniform, costs, norms, squared_gradient_norms, verification
from lightning_gradood.gradients.plan import plan_for
from lightning_gradood.gradients.rules import linear

from . import truth
from .toys import make
from .treacherous import (
    NOT_LINEAR,
    Between,
    Cached,
    Counting,
    Gated,
    InPlace,
    RoutedTokens,
    SequenceFirst,
    SortedBatch,
    Views,
    pictures,
)


def assert_right(network: nn.Module, images: Tensor) -> None:
    """In float64 exact, in float32 to its rounding, against a batch of two copies in float64."""
    exact = truth.pair_norms(copy.deepcopy(network).double(), images.double())
    found = squared_gradient_norms(network, images)
    if images.dtype == torch.float64:
        truth.assert_exact(found, exact)
    else:
        torch.testing.assert_close(found, exact, rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.0, 1e-6, 1e-5, 1.0])
def test_block_behind_a_layer_scale(scale: float, dtype: torch.dtype) -> None:
    for number in (4, 6, 9, 5):
        assert_right(SequenceFirst(scale).to(dtype), pictures(number, dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("factor", [1e-10, 1e-6, 1.0])
def test_views_stacked_behind_a_factor(factor: float, dtype: torch.dtype) -> None:
    for number in (2, 4, 5):
        assert_right(Views(factor).to(dtype), pictures(number, dtype))


@pytest.mark.parametrize("through", ["no_grad", "data", "load_state_dict", "exchanged", "optimizer"])
def test_plan_does_not_outlive_its_proof(through: str) -> None:
    network = SequenceFirst(0.0).double()
    nn.init.zeros_(network.head.weight)
    squared_gradient_norms(network, pictures(4))
    trained = copy.deepcopy(network)
    nn.init.normal_(trained.head.weight)
    nn.init.constant_(trained.scale, 0.5)
    if through == "no_grad":
        with torch.no_grad():
            for own, other in zip(network.parameters(), trained.parameters(), strict=True):
                own.copy_(other)
    elif through == "data":
        for own, other in zip(network.parameters(), trained.parameters(), strict=True):
            own.data.copy_(other)
    elif through == "load_state_dict":
        network.load_state_dict(trained.state_dict())
    elif through == "exchanged":
        network.scale, network.head = trained.scale, trained.head
    else:
        torch.optim.SGD(network.parameters(), lr=1.0)
        for own, other in zip(network.parameters(), trained.parameters(), strict=True):
            own.grad = own.detach() - other.detach()
        torch.optim.SGD(network.parameters(), lr=1.0).step()
    assert_right(network, pictures(4))


def test_trained_further_is_planned_anew() -> None:
    """Each change in turn has to be noticed, and no change must not be."""
    network = Between().double()
    plans = []
    for change in (
        lambda: None,
        lambda: nn.init.normal_(network.first.bias),
        lambda: network.first.weight.data.mul_(2),
        lambda: setattr(network, "extra", 3),
        lambda: setattr(network, "between", torch.sin),
        lambda: setattr(network.last, "bias", nn.Parameter(torch.rand(5).double())),
        lambda: network.first.register_forward_hook(lambda module, given, output: 2 * output),
        lambda: network.register_buffer("more", torch.zeros(3)),
        lambda: network.more.add_(1),
    ):
        squared_gradient_norms(network, pictures(4))
        squared_gradient_norms(network, pictures(4))
        with exact_arithmetic(), frozen_network(network):
            plans.append(plan_for(network, pictures(4), list(network.parameters())))
            change()
            plans.append(plan_for(network, pictures(4), list(network.parameters())))
    assert plans[0] is plans[1] is plans[2]
    assert len(set(map(id, plans))) == 9


@pytest.mark.parametrize("factor", [1.0, 1e-7])
@pytest.mark.parametrize("bright", [[3], [0, 1, 2, 3], [5]])
def test_gate_that_the_probes_leave_closed(bright: list[int], factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "limits", lambda device: costs.Limits(recheck=0))  # a comparison by chance would refuse
    network, images = Gated(factor).double(), pictures(8)
    images[bright] = 0.9 + 0.1 * images[bright]
    assert_right(network, images)
    network = Gated(factor).double()
    squared_gradient_norms(network, pictures(8))  # planned and checked with all gates closed
    assert_right(network, images)


@pytest.mark.parametrize("corners", [[0], [0, 1, 2, 3], [1, 1]])
def test_tokens_that_leave_their_way(corners: list[int]) -> None:
    network, images = RoutedTokens().double(), pictures(4)
    squared_gradient_norms(network, images)
    for image in corners:  # one token each, or four in all: as many as images
        images[image, :, :2, :2] = 1.0
    images[0, :, 2:4, : 2 * (4 - len(corners))] = 1.0
    assert_right(network, images)


ALONG_THE_BATCH = {
    "gathered": lambda x, order: torch.gather(x, 0, order.expand_as(x)),
    "taken": lambda x, order: x.take_along_dim(order, 0),
    "scattered": lambda x, order: torch.zeros_like(x).scatter(0, order.expand_as(x), x),
}


@pytest.mark.parametrize("how", ALONG_THE_BATCH)
def test_rows_moved_by_functions_along_the_batch(how: str) -> None:
    """An order that is the batch's own while no image is bright: each image alone is what counts."""

    class Moved(Between):
        def forward(self, x: Tensor) -> Tensor:
            order = torch.relu(x.mean((1, 2, 3)) - 0.8)[:, None].argsort(dim=0, stable=True)
            return self.last(ALONG_THE_BATCH[how](torch.tanh(self.first(x.flatten(1))), order))

    network, images = Moved().double(), pictures(5)
    assert_right(network, images)
    images[1] = 0.9 + 0.1 * images[1]
    assert_right(network, images)


def test_batch_in_another_order() -> None:
    network, images = SortedBatch().double(), pictures(5)
    squared_gradient_norms(network, images)
    images[1] = 0.9 + 0.1 * images[1]
    assert_right(network, images)


LARGE_BATCHES = {
    "from four on": lambda x: x - x.mean(0) if len(x) > 3 else x,
    "from four on, constant": lambda x: x - x.mean(0).detach() if len(x) > 3 else x,
    "groups of four": lambda x: (
        (x.view(-1, 4, 8) - x.view(-1, 4, 8).mean(1, keepdim=True)).view(-1, 8) if len(x) % 4 == 0 else x
    ),
    "beyond a capacity": lambda x: torch.cat([x[:6], 0 * x[6:]]),
    "by a number": lambda x: x * (1 + 0.1 * max(0, len(x) - 3)),
    "by a tensor": lambda x: x * (1 + 0.1 * torch.relu(torch.tensor(float(len(x))) - 3)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("between", LARGE_BATCHES)
def test_coupling_that_only_larger_batches_show(between: str, dtype: torch.dtype) -> None:
    network = Between(LARGE_BATCHES[between]).to(dtype)
    assert_right(network, pictures(3, dtype))
    with pytest.raises(Refusal, match=r"independently\. Got an output that depends on the other images .*at `last`"):
        squared_gradient_norms(network, pictures(8, dtype))


def test_flag_that_couples_is_noticed() -> None:
    network = Between().double()
    squared_gradient_norms(network, pictures(4))
    network.flag = True
    with pytest.raises(Refusal, match="independently"):
        squared_gradient_norms(network, pictures(4))


class Settings:
    """A configuration that modules share."""

    def __init__(self) -> None:
        self.couples, self.more = False, {"scale": 1.0}


@pytest.mark.parametrize("deep", [False, True])
def test_shared_settings_that_change_are_noticed(deep: bool) -> None:
    settings = Settings()

    class Configured(Between):
        def __init__(self) -> None:
            super().__init__()
            self.settings = settings

        def forward(self, x: Tensor) -> Tensor:
            x = torch.tanh(self.first(x.flatten(1)))
            x = x * self.settings.more["scale"]
            return self.last(x - x.mean(0) if self.settings.couples else x)

    network = Configured().double()
    squared_gradient_norms(network, pictures(4))
    with exact_arithmetic(), frozen_network(network):
        before = plan_for(network, pictures(4), list(network.parameters()))
        if deep:
            settings.more["scale"] = 2.0
            assert plan_for(network, pictures(4), list(network.parameters())) is not before
            return
    settings.couples = True
    with pytest.raises(Refusal, match="independently"):
        squared_gradient_norms(network, pictures(4))


@pytest.mark.parametrize("number", [1, 4])
@pytest.mark.parametrize("between", NOT_LINEAR)
def test_backward_that_is_not_linear_gets_its_own_seeds(between: str, number: int) -> None:
    """What plain autograd gives for the loss as it is; there is no other truth for such a network."""
    network = Between(NOT_LINEAR[between]).double()
    for design, loss in ((AllOnes(), truth.all_ones), (Uniform(), truth.uniform)):
        expected = truth.true_norms(network, pictures(number), loss)
        truth.assert_exact(squared_gradient_norms(network, pictures(number), design), expected)


@pytest.mark.parametrize("filled", ["no", "with a graph", "under no_grad", "used up"])
@pytest.mark.parametrize("kind", ["dictionary", "attribute", "list"])
def test_tensor_kept_from_call_to_call(kind: str, filled: str) -> None:
    network, images = Cached(kind).double(), pictures(4)
    expected = []
    for image in images.split(1):
        network.clear()
        expected.append(truth.true_norms(network, image))
    network.clear()
    if filled != "no":
        with torch.set_grad_enabled(filled != "under no_grad"):
            logits = network(images)
        if filled == "used up":
            logits.sum().backward()
    before = copy.copy(network.cache)
    for _ in range(2):
        truth.assert_exact(squared_gradient_norms(network, images), torch.cat(expected))
        assert type(network.cache) is type(before)
        assert not isinstance(before, dict) or network.cache.keys() == before.keys()


def test_parametrisations_cached_by_the_caller() -> None:
    network = nn.Sequential(
        nn.Flatten(), torch.nn.utils.parametrizations.weight_norm(nn.Linear(432, 7)), nn.Tanh(), nn.Linear(7, 5)
    ).double()
    for fill in (False, True):
        with parametrize.cached():
            if fill:
                with torch.no_grad():
                    network(pictures(2))
            found = squared_gradient_norms(network, pictures(4))
            assert parametrize._cache_enabled == 1
        truth.assert_exact(found, truth.true_norms(network, pictures(4)))


def test_buffers_stay_what_they_were() -> None:
    network = Counting().double()
    calls, average = network.calls, network.average
    for number in (1, 4, 40):
        found = squared_gradient_norms(network, pictures(number))
        assert network.calls is calls
        assert network.average is average
        assert float(calls) == 0
        assert torch.equal(average, torch.ones(8).double())
        truth.assert_exact(found, truth.pair_norms(network, pictures(number)))
    squared_gradient_norms(network, pictures(4))
    assert network.number == 0


def test_forward_that_writes_into_some_inputs() -> None:
    """Only what is brighter than 1: the probes are not."""

    class Sometimes(Between):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.div_(255) if x.max() > 1 else x)

    network, images = Sometimes().double(), pictures(4)
    squared_gradient_norms(network, images)
    bright = 255 * images
    found = squared_gradient_norms(network, bright)
    truth.assert_exact(found, truth.pair_norms(network, images))
    assert torch.equal(bright, 255 * images)


@pytest.mark.parametrize("number", [1, 4])
def test_forward_that_writes_into_its_input(number: int) -> None:
    network, images = InPlace().double(), pictures(number)
    expected = truth.pair_norms(network, images.clone())
    truth.assert_exact(squared_gradient_norms(network, images), expected)
    assert torch.equal(images, pictures(number))


def test_logits_that_round_badly_are_no_coupling() -> None:
    network = Between(lambda x: torch.sin(3e4 * x))
    torch.set_num_threads(1)
    found = squared_gradient_norms(network, pictures(5, torch.float32))
    assert torch.isfinite(found).all()


def test_recheck_refuses_what_went_wrong_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A formula that breaks after the proof, for whatever reason: named by parameter and image."""
    monkeypatch.setattr(costs, "limits", lambda device: costs.Limits(recheck=1e9))
    network = make("linear")
    images = torch.rand(40, 3, 8, 8, dtype=torch.float64)
    squared_gradient_norms(network, images)
    right = linear.weight_norms
    monkeypatch.setattr(linear, "weight_norms", lambda a, b: right(a, b) * (1 + 0.1 * torch.ones(len(a)).cumsum(0)))
    with pytest.raises(
        Refusal, match=r"same gradient .*Got another one for `1\.weight` of image \d+, in a batch of 20"
    ):
        squared_gradient_norms(network, images)


def test_recheck_is_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A share of the cost of one per cent, in images of the fast way."""
    network, images = make("linear", torch.float32), torch.rand(32, 3, 8, 8)
    squared_gradient_norms(network, images)
    monkeypatch.setattr(norms, "_chance", random.Random(0))
    asked: list[verification.Checks] = []
    compare = verification._compare
    monkeypatch.setattr(
        verification,
        "_compare",
        lambda *given: (asked.append(given[5]), compare(*given))[1],  # type: ignore[func-returns-value]
    )
    for _ in range(1000):
        squared_gradient_norms(network, images)
    cost = sum(0.7 * 32 * checks.logit_gradients + 2.5 * (checks.row is not None) for checks in asked)
    assert 0.005 < cost / 32_000 < 0.015
    assert any(checks.logit_gradients for checks in asked)
    assert any(checks.row is not None for checks in asked)


def test_rounding_in_float32_is_judged_in_double(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ReLU that opens in one way only may set float32 numbers apart; the formulas are right all the same."""
    excess = verification.first_excess
    monkeypatch.setattr(
        verification, "first_excess", lambda norms, truth, strict: excess(norms, truth, strict) if strict else (0, 0)
    )
    network, images = make("residual", torch.float32), torch.rand(4, 3, 8, 8)
    squared_gradient_norms(network, images)
    with exact_arithmetic(), frozen_network(network):
        assert plan_for(network, images, list(network.parameters())).trace is not None


def test_threads_on_one_network() -> None:
    network, images = make("residual", torch.float32), torch.rand(4, 3, 8, 8)
    network.train()
    expected, raised = squared_gradient_norms(network, images), []
    torch.set_float32_matmul_precision("medium")

    def work() -> None:
        try:
            for _ in range(15):
                assert torch.equal(squared_gradient_norms(network, images), expected)
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert not raised
    assert all(module.training for module in network.modules())
    assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize(
    "compiled", [torch.jit.script, lambda network: torch.jit.trace(network, pictures(2)[:, :, :8, :8])]
)
@pytest.mark.filterwarnings("ignore:`torch.jit:")
def test_compiled_networks_are_exact(compiled: object) -> None:
    network = make("strided")
    images = pictures(4)[:, :, :8, :8]
    found = squared_gradient_norms(compiled(network), images)  # type: ignore[operator]
    truth.assert_exact(found, truth.true_norms(network, images))


@pytest.mark.parametrize("name", ["residual", "weight_norm", "recurrent", "checkpointed"])
def test_networks_are_not_kept_alive(name: str) -> None:
    network = make(name)
    squared_gradient_norms(network, torch.rand(4, 3, 8, 8, dtype=torch.float64))
    gone = weakref.ref(network)
    del network
    gc.collect()
    assert gone() is None
