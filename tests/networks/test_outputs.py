"""Networks as people bring them: outputs that hold the logits, other dtypes, no gradient, other sizes; library and task alike."""

import itertools
from collections import namedtuple
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lightning_gradood.core import Refusal, logits_in
from lightning_gradood.detectors import OdinProbe
from lightning_gradood.gradients import squared_gradient_norms
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
