"""Networks as people bring them: outputs that hold the logits, other dtypes, no gradient, other sizes; library and task alike."""

import itertools
from collections import namedtuple
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lightning_gradood.core import Refusal, logits_in, uncompiled
from lightning_gradood.detectors import OdinProbe
from lightning_gradood.gradients import squared_gradient_norms, way_taken
from lightning_gradood.networks import Logits, architecture, classifier
from lightning_gradood.perturbations import FGSM, PGD
from lightning_gradood.probes import FeatureProbe, LogitsProbe, PenultimateProbe
from lightning_gradood.tasks import ClassificationTask, check_network

IMAGES = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2])
READERS = [LogitsProbe(), PenultimateProbe(), FeatureProbe(("0",)), OdinProbe((1.0,), (0.0, 0.01))]
ATTACKS = FGSM(eps=8 / 255), PGD(eps=8 / 255, steps=2)


def plain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()


class Wrapping(nn.Sequential):
    """Returns its logits in something."""

    wrap = staticmethod(lambda images, logits: logits)

    def forward(self, images):
        return self.wrap(images, super().forward(images))


Named = namedtuple("Named", ["features", "logits"])
WRAPS = {
    "tuple": lambda images, logits: (logits, images),
    "list": lambda images, logits: [logits],
    "loss and maps first": lambda images, logits: (logits.sum(), images, logits),
    "dict": lambda images, logits: {"features": images.mean((2, 3)), "logits": logits},
    "dict without the name": lambda images, logits: {"loss": None, "scores": logits},
    "named tuple": lambda images, logits: Named(images.mean((2, 3)), logits),
    "object": lambda images, logits: SimpleNamespace(hidden=images, logits=logits),
}


def test_logits_are_found_and_said_once():
    bare = plain()
    expected = {probe: probe(bare, IMAGES) for probe in READERS}
    attack = ATTACKS[1]
    attacked = attack.perturb(bare, IMAGES, LABELS).images
    for kind, wrap in WRAPS.items():
        network = Wrapping(*plain()).eval()
        network.wrap = wrap
        with pytest.warns(UserWarning, match=r"The network returns a \w+; .*, is taken as logits\."):
            norms = squared_gradient_norms(network, IMAGES)
        assert torch.allclose(norms, squared_gradient_norms(bare, IMAGES)), kind
        for probe, values in expected.items():  # a second warning would be an error
            assert torch.allclose(probe(network, IMAGES), values), (kind, probe)
        assert torch.equal(attack.perturb(network, IMAGES, LABELS).images, attacked), kind
        assert check_network(network, IMAGES, 5) == 5
        assert torch.equal(ClassificationTask(network)(IMAGES), bare(IMAGES)), kind
    # an output without a tensor of rows stays what it is
    for output in ({"loss": None}, "text", (torch.zeros(()), torch.zeros(2, 3, 1))):
        assert logits_in(output) is output


def test_a_network_computes_in_its_own_dtype_whatever_the_images_are(tmp_path):
    floating = (torch.float16, torch.float32, torch.float64)
    for dtype, image_dtype in itertools.product((torch.float16, torch.bfloat16, torch.float64), floating):
        network, images = plain().to(dtype), IMAGES.to(image_dtype)
        same = images.to(dtype)
        with torch.no_grad():
            assert torch.equal(LogitsProbe()(network, images), network(same))
        assert torch.equal(squared_gradient_norms(network, images), squared_gradient_norms(network, same))
        if image_dtype != torch.float16:
            found = ATTACKS[0].perturb(network, images, LABELS)
            assert found.images.dtype == image_dtype
            assert (found.linf > 0).all()
    exact = plain()
    torch.save(exact.state_dict(), tmp_path / "weights.pt")
    for dtype in (torch.float16, torch.bfloat16, torch.float64):  # a task casts before it reads weights
        task = ClassificationTask(plain().to(dtype), weights=str(tmp_path / "weights.pt"))
        task.load_initial_weights()
        assert all(torch.equal(one, task.network.state_dict()[name]) for name, one in exact.state_dict().items())


class Cut(torch.autograd.Function):
    """The identity, whose backward was forgotten."""

    @staticmethod
    def forward(_ctx, images):
        return images.clone()

    @staticmethod
    def backward(_ctx, _gradient):
        return None


class Cutting(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, images):
        return self.last(Cut.apply(self.first(images)).mean((2, 3)))


def test_gradients_that_do_not_exist_are_refused_and_those_that_are_zero_are_not():
    words = r"backward returns no gradient, so that none reaches `first.weight`, `first.bias`"
    with pytest.raises(Refusal, match=words):
        squared_gradient_norms(Cutting(), IMAGES)
    for read in (*(partial(one.perturb, labels=LABELS) for one in ATTACKS), OdinProbe((1.0,), (0.01,))):
        with pytest.raises(Refusal, match=r"should depend on its input through autograd"):
            read(Cutting(), images=IMAGES)
    dead = plain()
    with torch.no_grad():
        dead[0].bias.fill_(-100.0)
    norms = squared_gradient_norms(dead, IMAGES)
    assert (norms[:, :2] == 0).all()
    assert (norms[:, 3] > 0).all()


def test_programs_and_single_images_are_refused_everywhere():
    program = torch.export.export(plain().train(), (IMAGES,)).module()
    for read in (squared_gradient_norms, LogitsProbe(), partial(ATTACKS[0].perturb, labels=LABELS)):
        with pytest.raises(Refusal, match=r"Got a program of torch\.export"):
            read(program, IMAGES)
        with pytest.raises(Refusal, match=r"Got `images.shape = \[3, 8, 8\]`\. Give one image a leading dimension"):
            read(plain(), IMAGES[0])
    with pytest.raises(Refusal, match=r"Got `images.dtype = torch.uint8`"):
        LogitsProbe()(plain(), (IMAGES * 255).byte())


def with_last(*last):
    return nn.Sequential(*plain(), *last).eval()


SIGMOID = with_last(nn.Sigmoid())
PROBABILITIES = {
    "softmax": with_last(nn.Softmax(1)), "log_softmax": with_last(nn.LogSoftmax(1)), "sigmoid": SIGMOID,
    "sigmoid, one output": nn.Sequential(*plain(), nn.Linear(5, 1), nn.Sigmoid(), nn.Flatten(0), nn.Unflatten(0, (-1, 1))),
}  # fmt: skip


class Zero(nn.Module):
    """A head that is yet to be trained."""

    def __init__(self, outputs):
        super().__init__()
        self.head = nn.Linear(192, outputs)
        nn.init.zeros_(self.head.weight), nn.init.zeros_(self.head.bias)

    def forward(self, images):
        return self.head(images.flatten(1))


@pytest.mark.parametrize("kind", PROBABILITIES)
def test_probabilities_are_refused_and_give_the_logits_back(kind):
    network, name = PROBABILITIES[kind], kind.partition(",")[0]
    with pytest.raises(Refusal, match=rf"Got outputs of {name}, whose .* write --model.outputs {name} to take"):
        check_network(network, IMAGES, None)
    told = ClassificationTask(network, outputs=name).network
    check_network(told, IMAGES, None)
    expected, found = network[:-1](IMAGES) if len(network) == 6 else network[:6](IMAGES), told(IMAGES)
    if "softmax" in name:
        expected = expected - expected.mean(1, keepdim=True)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    parameter = network[0].weight
    ours, theirs = (torch.autograd.grad(one[:, 0].sum(), parameter)[0] for one in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_logits_that_resemble_probabilities_pass_and_saturated_probabilities_stay_finite():
    honest = (Zero(3), Zero(1), with_last(nn.ReLU()), with_last(nn.Hardtanh(0.1, 0.9)), plain())
    honest += (torch.jit.script(plain()), uncompiled(torch.jit.trace(plain(), IMAGES)))
    assert [check_network(network, IMAGES, None) for network in honest] == [3, 1, 5, 5, 5, 5, 5]
    certain = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], requires_grad=True)
    for outputs in ("softmax", "sigmoid"):
        found = Logits(nn.Identity(), outputs)(certain)
        (gradient,) = torch.autograd.grad(found.sum(), certain)
        assert found.isfinite().all()
        assert gradient.isfinite().all()
        assert found.argmax(1).tolist() == [0, 1]


class Drifting(nn.Module):
    """Counts its calls in a buffer."""

    def __init__(self):
        super().__init__()
        self.inner = plain()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, images):
        self.calls += 1
        return self.inner(images) + 1e-3 * self.calls


class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = plain()

    def forward(self, images):
        return nn.functional.dropout(self.inner(images), 0.5, training=True)


@pytest.mark.parametrize("network", [Drifting(), Dropping()])
def test_a_network_that_answers_otherwise_in_a_second_call_is_refused_at_once(network):
    with pytest.raises(Refusal, match=r"Got others in a second call, e.g. because dropout is on"):
        check_network(network, IMAGES, None)


class Cast(nn.Module):
    """Computes in bfloat16 whatever the caller asks for."""

    def __init__(self):
        super().__init__()
        self.inner = plain()

    def forward(self, images):
        with torch.autocast("cpu", torch.bfloat16):
            return self.inner(images)


def test_a_network_with_autocast_within_is_read_in_float32_with_one_line():
    network, bare = Cast(), plain()
    with pytest.warns(UserWarning, match=r"computes in torch.bfloat16; logits are cast to float32"):
        norms = squared_gradient_norms(network, IMAGES)
    torch.testing.assert_close(norms, squared_gradient_norms(bare, IMAGES), rtol=0.05, atol=0)
    for probe in (*READERS[:2], FeatureProbe(("inner.0",))):  # a second warning would be an error
        found, expected = probe(network, IMAGES), replaced(probe)(bare, IMAGES)
        assert found.numpy().dtype == "float32"
        torch.testing.assert_close(found, expected, rtol=0.05, atol=0.01)
    assert check_network(network, IMAGES, 5) == 5


def replaced(probe):
    return FeatureProbe(("0",)) if isinstance(probe, FeatureProbe) else probe


def whole():
    return torch.compile(plain(), backend="eager")


def part():
    network = plain()
    network[0] = torch.compile(network[0], backend="eager")
    return network


def in_place():
    network = plain()
    network.compile(backend="eager")
    return network


@pytest.mark.parametrize("compiled", [whole, part, in_place])
def test_compiled_networks_are_read_as_they_were_and_a_task_says_that_it_unwraps_them(compiled, capsys):
    assert architecture(uncompiled(plain())) == architecture(plain()), "cache keys stay"
    network = compiled()
    assert torch.equal(squared_gradient_norms(network, IMAGES), squared_gradient_norms(plain(), IMAGES))
    assert way_taken(network, IMAGES) == "closed forms"
    assert torch.equal(PenultimateProbe()(compiled(), IMAGES), PenultimateProbe()(plain(), IMAGES))
    capsys.readouterr()
    network = classifier(compiled(), None, "logits")
    assert capsys.readouterr().err == "torch.compile is taken off the network, whose modules are read one by one.\n"
    assert list(network.state_dict()) == list(plain().state_dict())
    assert [type(one) for one in uncompiled(network).modules()] == [type(one) for one in plain().modules()]
    assert capsys.readouterr().err == ""
