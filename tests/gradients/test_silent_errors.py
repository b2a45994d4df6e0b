"""No wrong number without a word: each case was one once, or is of the same kind. What has no number is refused by name."""

import copy
import gc
import itertools
import random
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from lightning_gradood.core import Refusal
from lightning_gradood.gradients import AllOnes, Uniform, comparison, costs, norms, squared_gradient_norms
from lightning_gradood.gradients.rules import linear

from . import toys, treacherous, truth
from .block_modules import Net
from .toys import make, way_of
from .treacherous import NAMED, Between, Cached, pictures, sequence_first

DTYPES = (torch.float32, torch.float64)


def wrong(network, images):
    """Against a batch of two copies in float64: in float64 exact, in float32 to its rounding; empty where it is right."""
    exact = truth.pair_norms(copy.deepcopy(network).double(), images.double())
    found = squared_gradient_norms(network, images)
    if images.dtype == torch.float64:
        return truth.excess(found, exact)
    return "" if torch.allclose(found, exact, rtol=1e-4, atol=0) else f"{found} for {exact}"


def differs(network, images, loss=truth.all_ones, design=None):
    """Against plain autograd for the network as it is, one image at a time; empty where it is exact."""
    expected = truth.true_norms(network, images, loss)
    return truth.excess(squared_gradient_norms(network, images, design or AllOnes()), expected)


def test_blocks_that_a_small_factor_hides():
    found = {}
    for dtype in DTYPES:
        for scale, number in itertools.product((0.0, 1e-6, 1e-5, 1.0), (4, 6, 9, 5)):
            found["layer scale", scale, number] = wrong(sequence_first(scale).to(dtype), pictures(number, dtype))
        for factor, number in itertools.product((1e-10, 1e-6, 1.0), (2, 4, 5)):
            network = treacherous.views(factor).to(dtype)
            found["stacked views", factor, number] = wrong(network, pictures(number, dtype))
    truth.assert_none(found)


def test_forwards_that_look_like_a_batch_and_are_none():
    """Rows that are reordered, tokens, prompts and constants as many as images, functions that no torch function shows."""
    networks = {
        "half batches": (Between(lambda x: torch.cat([part * 2 for part in x.split(2)])), (6,)),
        "sorted and back": (Between(lambda x: x[x[:, 0].argsort()][x[:, 0].argsort().argsort()]), (6,)),
        "routed": (NAMED["routed"](), (5,)), "experts": (NAMED["experts"](), (5,)),
        "tokens first": (sequence_first(0.5), (2, 36)), "five prompts": (treacherous.prompts(5), (2, 3, 4, 5, 6, 12)),
        "six prompts": (treacherous.prompts(6), (2, 3, 4, 5, 6, 12)),
    }  # fmt: skip
    found = {}
    for name, (network, numbers) in networks.items():
        for number, seed in itertools.product(numbers, range(2)):
            found[name, number, seed] = wrong(network.double(), pictures(number, seed=seed))
    tokens = make("sequence_first")
    for number in (2, 3, 5):  # five tokens
        found["transformer", number] = wrong(tokens, toys.pictures(number))
    for gate, twice in itertools.product((0.0, 350.0), (False, True)):
        network = treacherous.custom(gate, twice).double()  # a gate at 350 is closed for the first batch, of 216 in all
        for more in (0, 1):
            found["custom function", gate, twice, more] = wrong(network, pictures(3) + more)
    truth.assert_none(found)


def step(network):
    """One of an optimizer's."""
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.optim.SGD(network.parameters(), lr=0.01).step()


def test_trained_further_is_planned_anew():
    """Each change in turn has to be noticed, and no change must not be."""
    network = Between().double()
    ways = []
    for change in (
        lambda: None,
        lambda: nn.init.normal_(network.first.bias),
        lambda: network.first.weight.data.mul_(2),
        lambda: step(network),
        lambda: network.load_state_dict({name: 1.1 * value for name, value in network.state_dict().items()}),
        lambda: nn.init.zeros_(network.first.weight.detach()[1, 1:2]),  # not among the entries that are looked at
        lambda: setattr(network, "extra", 3),
        lambda: setattr(network, "between", torch.sin),
        lambda: setattr(network.last, "bias", nn.Parameter(torch.rand(5).double())),
        lambda: network.first.register_forward_hook(lambda module, given, output: 2 * output),
        lambda: network.register_buffer("more", torch.zeros(3)),
        lambda: network.more.add_(1),
        lambda: setattr(network.last, "forward", lambda x: F.linear(x, 3 * network.last.weight, network.last.bias)),
    ):
        assert not wrong(network, pictures(4))
        ways.append(way_of(network, pictures(4)))
        change()
        ways.append(way_of(network, pictures(4)))
    assert ways[0] is ways[1] is ways[2]
    assert len(set(map(id, ways))) == 13


def test_gate_that_the_probes_leave_closed(monkeypatch):
    monkeypatch.setattr(costs, "limits", lambda device: costs.Limits(recheck=0))  # a comparison by chance would refuse
    found = {}
    for factor, bright in itertools.product((1.0, 1e-7), ([3], [0, 1, 2, 3], [5])):
        images = pictures(8)
        images[bright] = 0.9 + 0.1 * images[bright]
        found[factor, str(bright), "first"] = wrong(treacherous.gated(factor).double(), images)
        network = treacherous.gated(factor).double()
        squared_gradient_norms(network, pictures(8))  # compared with all gates closed
        found[factor, str(bright), "later"] = wrong(network, images)
    truth.assert_none(found)


def test_rows_and_tokens_that_leave_their_way_later():
    found = {}
    for corners in ([0], [0, 1, 2, 3], [1, 1]):
        network, images = NAMED["routed tokens"]().double(), pictures(4)
        squared_gradient_norms(network, images)
        for image in corners:  # one token each, or four in all: as many as images
            images[image, :, :2, :2] = 1.0
        images[0, :, 2:4, : 2 * (4 - len(corners))] = 1.0
        found["tokens", str(corners)] = wrong(network, images)
    for how, build in treacherous.ALONG_THE_BATCH.items():
        network, images = build().double(), pictures(5)
        found[how] = wrong(network, images)
        images[1] = 0.9 + 0.1 * images[1]
        found[how, "later"] = wrong(network, images)
    truth.assert_none(found)


COUPLED = (
    lambda x: x - x.mean(0),
    lambda x: x - 1e-13 * x.mean(0),
    lambda x: torch.softmax(x @ x.T, 1) @ x,
    lambda x: x.flip(0),
    lambda x: torch.cat([x[: len(x) // 2] + x[len(x) - len(x) // 2 :], x[len(x) // 2 :]]),
    lambda x: F.batch_norm(x, None, None, training=True) if len(x) > 1 else x,
)


def test_coupled_and_random_networks_are_refused_by_name():
    centred = nn.Sequential(
        nn.Flatten(), nn.Linear(432, 7), nn.Sequential(nn.ReLU(), Net(lambda self, x: x - x.mean(0))), nn.Linear(7, 5)
    )
    norm = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten())
    noisy = nn.Sequential(nn.Flatten(), Net(lambda self, x: F.dropout(x, 0.5)), nn.Linear(432, 5))
    seen = r"treat the images of a batch independently\. .*first seen (at `last` \(Linear\)|in the gradient)"
    by_batch = r"the other images of the batch, first seen at `2\.1` \(Net\)"
    for network, numbers, words in (
        *((Between(between), (4,), seen) for between in COUPLED),
        (centred, (1, 4), by_batch),
        (norm, (1, 4), r"the other images of the batch, first seen at `1` \(BatchNorm2d\)"),
        (noisy, (4,), r"same logits for the same image\. .*first seen at `1` \(Net\)\. Make it"),
    ):
        for number in numbers:
            with pytest.raises(Refusal, match=words):
                squared_gradient_norms(network.double(), pictures(number))


LARGE_BATCHES = {
    "from four on": lambda x: x - x.mean(0) if len(x) > 3 else x,
    "groups of four": lambda x: x if len(x) % 4 else (x.view(-1, 4, 8) - x.view(-1, 4, 8).mean(1, True)).view(-1, 8),
    "beyond a capacity": lambda x: torch.cat([x[:6], 0 * x[6:]]),
    "by a number": lambda x: x * (1 + 0.1 * max(0, len(x) - 3)),
    "by a tensor": lambda x: x * (1 + 0.1 * torch.relu(torch.tensor(float(len(x))) - 3)),
}


def test_coupling_that_only_larger_batches_show():
    for between, dtype in itertools.product(LARGE_BATCHES, DTYPES):
        network = Between(LARGE_BATCHES[between]).to(dtype)
        assert not wrong(network, pictures(3, dtype)), between
        with pytest.raises(Refusal, match=r"independently\. Got an output that depends .*at `last`"):
            squared_gradient_norms(network, pictures(8, dtype))
    squared_gradient_norms(Between(lambda x: torch.sin(3e4 * x)), pictures(5, torch.float32))  # which rounds badly


def test_flags_and_shared_settings_that_change_are_noticed():
    network, flagged = NAMED["configured"]().double(), Between().double()
    network.settings = settings = SimpleNamespace(couples=False, more={"scale": 1.0})
    for one in (network, flagged):
        squared_gradient_norms(one, pictures(4))
    before = way_of(network, pictures(4))
    settings.more["scale"] = 2.0
    assert way_of(network, pictures(4)) is not before
    settings.couples = flagged.flag = True
    for changed in (network, flagged):
        with pytest.raises(Refusal, match="independently"):
            squared_gradient_norms(changed, pictures(4))


def test_backward_that_is_not_linear_gets_its_own_logit_gradients():
    """What plain autograd gives for the loss as it is; there is no other truth for such a network."""
    found = {}
    for name, number in itertools.product(treacherous.NOT_LINEAR, (1, 4)):
        network = Between(treacherous.NOT_LINEAR[name]).double()
        for design, loss in ((AllOnes(), truth.all_ones), (Uniform(), truth.uniform)):
            found[name, number, design] = differs(network, pictures(number), loss, design)
    truth.assert_none(found)


def test_tensor_kept_from_call_to_call():
    """Filled before the way is made, or after it."""
    found, images = {}, pictures(4)
    kinds, fillings = ("dictionary", "attribute", "list"), ("no", "with a graph", "under no_grad", "used up")
    for kind, filled, ready in itertools.product(kinds, fillings, (False, True)):
        network, expected = Cached(kind).double(), []
        for image in images.split(1):
            network.clear()
            expected.append(truth.true_norms(network, image))
        network.clear()
        if ready:
            squared_gradient_norms(network, images)
        if filled != "no":
            with torch.set_grad_enabled(filled != "under no_grad"):
                logits = network(images)
            if filled == "used up":
                logits.sum().backward()
        kept = copy.copy(network.cache)
        for call in range(2):
            norms_ = squared_gradient_norms(network, images)
            found[kind, filled, ready, call] = truth.excess(norms_, torch.cat(expected))
            assert type(network.cache) is type(kept)
            assert not isinstance(kept, dict) or network.cache.keys() == kept.keys()
    truth.assert_none(found)


def test_networks_that_keep_tensors_and_cannot_be_copied_are_refused():
    network = Cached("attribute").double()
    network.lock = threading.Lock()
    with pytest.raises(Refusal, match=r"copy\.deepcopy, because it keeps tensors.* Got TypeError: cannot pickle"):
        squared_gradient_norms(network, pictures(4))


def test_weights_made_anew_in_every_call_and_cached_by_the_caller_are_exact():
    """The older normalisations of weights, which keep them as attributes, and parametrisations."""
    with pytest.warns(FutureWarning, match="weight_norm"):
        older = nn.utils.weight_norm(nn.Linear(432, 7))
    network = nn.Sequential(nn.Flatten(), older, nn.Linear(7, 5)).double().eval()
    truth.assert_none({number: differs(network, pictures(number)) for number in (1, 4, 8)})
    newer = parametrizations.weight_norm(nn.Linear(432, 7))
    network = nn.Sequential(nn.Flatten(), newer, nn.Tanh(), nn.Linear(7, 5)).double()
    for fill in (False, True):
        with parametrize.cached():
            if fill:
                with torch.no_grad():
                    network(pictures(2))
            found = squared_gradient_norms(network, pictures(4))
            assert parametrize._cache_enabled == 1
        truth.assert_exact(found, truth.true_norms(network, pictures(4)))


def test_buffers_stay_what_they_were():
    network = NAMED["counting"]().double()
    network.number = 0
    calls, average = network.calls, network.average
    for number in (1, 4, 40):
        found = squared_gradient_norms(network, pictures(number))
        assert network.calls is calls
        assert network.average is average
        assert float(calls) == network.number == 0
        assert torch.equal(average, torch.ones(8).double())
        truth.assert_exact(found, truth.pair_norms(network, pictures(number)))
    way = way_of(network, pictures(4))
    with torch.no_grad():
        network(pictures(2))
    assert way_of(network, pictures(4)) is way, "compared once, though buffers and a number move"


def test_forward_that_writes_into_its_input():
    """Always, or only what is brighter than 1: the probes are not."""

    class Sometimes(Between):
        def forward(self, x):
            return super().forward(x.div_(255) if x.max() > 1 else x)

    network, images = Sometimes().double(), pictures(4)
    squared_gradient_norms(network, images)
    bright = 255 * images
    truth.assert_exact(squared_gradient_norms(network, bright), truth.pair_norms(network, images))
    assert torch.equal(bright, 255 * images)
    for number in (1, 4):
        network, images = NAMED["in place"]().double(), pictures(number)
        expected = truth.pair_norms(network, images.clone())
        truth.assert_exact(squared_gradient_norms(network, images), expected)
        assert torch.equal(images, pictures(number))


def test_wrong_closed_form_is_found_out(monkeypatch):
    """Break a formula for a layer whose gradient is zero, because the weights behind it are: numbers stay right."""
    right = linear.weight_norms
    monkeypatch.setattr(linear, "weight_norms", lambda a, b: right(a, b) * (1.1 if a.shape[2] == 432 else 1.0))
    hidden, images = Between().double(), pictures(4)
    nn.init.zeros_(hidden.last.weight)
    assert way_of(hidden, images).reason == "closed forms do not give the loop's numbers"
    assert not differs(hidden, images)


def test_recheck_refuses_what_went_wrong_later(monkeypatch):
    """A formula that breaks after the proof, for whatever reason: named by parameter and image."""
    monkeypatch.setattr(costs, "limits", lambda device: costs.Limits(recheck=1e9))
    network, images = make("linear"), toys.pictures(40)
    squared_gradient_norms(network, images)
    right = linear.weight_norms
    monkeypatch.setattr(linear, "weight_norms", lambda a, b: right(a, b) * (1 + 0.1 * torch.ones(len(a)).cumsum(0)))
    words = r"same gradient .*Got another one for `1\.weight` of image \d+, in a batch of 20"
    with pytest.raises(Refusal, match=words):
        squared_gradient_norms(network, images)
    # two images' norms exchanged, while the image that goes through the loop is right
    monkeypatch.setattr(linear, "weight_norms", lambda a, b: right(a, b)[[1, 0, *range(2, len(a))]])
    monkeypatch.setattr(norms._chance, "randrange", lambda number: number - 1)
    with pytest.raises(Refusal, match=r"for `1\.weight` of image 0, in a batch of 20"):
        squared_gradient_norms(network, images)


def test_recheck_is_rare(monkeypatch):
    """A share of the cost of one per cent, in images of the fast way."""
    network, images = make("linear", torch.float32), toys.pictures(32, torch.float32)
    squared_gradient_norms(network, images)
    monkeypatch.setattr(norms, "_chance", random.Random(0))
    asked, compare = [], comparison._compare
    monkeypatch.setattr(comparison, "_compare", lambda *given: (asked.append(given[3]), compare(*given))[1])
    for _ in range(1000):
        squared_gradient_norms(network, images)
    cost = sum(0.7 * 32 * checks.logit_gradients + 2.5 * (checks.row is not None) for checks in asked)
    assert 0.005 < cost / 32_000 < 0.015
    assert {checks.logit_gradients for checks in asked} == {checks.row is None for checks in asked} == {True, False}


def test_threads_on_one_network():
    network, images = make("residual", torch.float32).train(), toys.pictures(4, torch.float32)
    expected, start = squared_gradient_norms(network, images), threading.Barrier(4)

    def work(_):
        start.wait()
        return all(torch.equal(squared_gradient_norms(network, images), expected) for _ in range(15))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [True] * 4
    assert all(module.training for module in network.modules())
    assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.filterwarnings("ignore:`torch.jit:")
def test_compiled_networks_are_exact():
    network, images = make("strided"), toys.pictures(4)
    for compiled in (torch.jit.script(network), torch.jit.trace(network, images[:2])):
        truth.assert_exact(squared_gradient_norms(compiled, images), truth.true_norms(network, images))


def test_networks_are_not_kept_alive():
    for name in ("residual", "weight_norm", "recurrent", "checkpointed", "cached"):
        network = Cached("list").double() if name == "cached" else make(name)
        squared_gradient_norms(network, pictures(4) if name == "cached" else toys.pictures(4))
        gone = weakref.ref(network)
        del network
        gc.collect()
        assert gone() is None, name
