"""Networks as people bring them: outputs that hold the logits, other dtypes, no gradient, other sizes; library and task alike."""

import itertools
from collections import namedtuple
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from lightning_gradood.attacks import FGSM, PGD
from lightning_gradood.core import Refusal, logits_in, wanted_size
from lightning_gradood.detectors import OdinProbe
from lightning_gradood.gradients import squared_gradient_norms
from lightning_gradood.metrics import auroc
from lightning_gradood.probes import FeatureProbe, LogitsProbe, PenultimateProbe
from lightning_gradood.tasks import ClassificationTask
from lightning_gradood.tasks.classification import auxiliary_logits, check_network

IMAGES = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2])
READERS = [LogitsProbe(), PenultimateProbe(), FeatureProbe(["0"]), OdinProbe((1.0,), (0.0, 0.01))]


def plain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()


class Wrapping(nn.Sequential):
    """Returns its logits in something."""

    wrap = staticmethod(lambda images, logits: logits)

    def forward(self, images):
        """Logits, wrapped."""
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
    attack = PGD(eps=8 / 255, steps=2)
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


def test_no_hook_is_left_behind():
    network = plain()
    with pytest.raises(Refusal):
        LogitsProbe()(network, IMAGES[0])
    squared_gradient_norms(network, IMAGES)
    assert not network._forward_hooks
    assert not network._forward_pre_hooks


def test_an_output_without_a_tensor_stays_what_it_is():
    assert logits_in({"loss": None}) == {"loss": None}
    assert logits_in("text") == "text"
    assert isinstance(logits_in((torch.zeros(()), torch.zeros(2, 3, 1))), tuple)


@pytest.mark.parametrize("name", ["googlenet", pytest.param("inception_v3", marks=pytest.mark.slow)])
def test_auxiliary_logits_are_trained_with_their_weights(name):
    network = torchvision.models.get_model(name, weights=None, num_classes=4, init_weights=False)
    size = 299 if name == "inception_v3" else 64
    task = ClassificationTask(network)
    task.log = lambda *_, **__: None  # needs a trainer
    images, labels = torch.rand(2, 3, size, size), torch.tensor([1, 3])
    torch.manual_seed(1)
    found = task.training_step((images, labels), 0)
    torch.manual_seed(1)
    output = network(images)
    entropy = nn.functional.cross_entropy
    expected = entropy(output.logits, labels)
    if name == "googlenet":
        expected = expected + 0.3 * (entropy(output.aux_logits1, labels) + entropy(output.aux_logits2, labels))
    else:
        expected = expected + 0.4 * entropy(output.aux_logits, labels)
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    assert auxiliary_logits((torch.zeros(2, 4), torch.zeros(2, 4))) == []


def test_a_network_computes_in_its_own_dtype_whatever_the_images_are():
    floating = (torch.float16, torch.float32, torch.float64)
    for dtype, image_dtype in itertools.product((torch.float16, torch.bfloat16, torch.float64), floating):
        network, images = plain().to(dtype), IMAGES.to(image_dtype)
        same = images.to(dtype)
        with torch.no_grad():
            assert torch.equal(LogitsProbe()(network, images), network(same))
        assert torch.equal(squared_gradient_norms(network, images), squared_gradient_norms(network, same))
        if image_dtype != torch.float16:
            found = FGSM(eps=8 / 255).perturb(network, images, LABELS)
            assert found.images.dtype == image_dtype
            assert (found.linf > 0).all()


def test_a_task_casts_its_network_to_float32_before_weights_are_read(tmp_path):
    exact = plain()
    torch.save(exact.state_dict(), tmp_path / "weights.pt")
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        task = ClassificationTask(plain().to(dtype), weights=str(tmp_path / "weights.pt"))
        task.load_initial_weights()
        assert all(torch.equal(one, task.network.state_dict()[name]) for name, one in exact.state_dict().items())


class Cut(torch.autograd.Function):
    """The identity, whose backward was forgotten."""

    @staticmethod
    def forward(_ctx, images):
        """The same."""
        return images.clone()

    @staticmethod
    def backward(_ctx, _gradient):
        """None."""
        return None


class Cutting(nn.Module):
    """A layer, the forgotten backward, a layer."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, images):
        """Logits."""
        return self.last(Cut.apply(self.first(images)).mean((2, 3)))


def quantised():
    class Dynamic(nn.Module):
        """A dynamically quantised layer as torch makes them: numbers out, no graph."""

        def __init__(self):
            super().__init__()
            self.first, self.weight = nn.Conv2d(3, 4, 3), torch.randn(5, 4)

        def forward(self, images):
            """Logits."""
            with torch.no_grad():
                return self.first(images).mean((2, 3)) @ self.weight.T

    return Dynamic()


def test_gradients_that_do_not_exist_are_refused():
    with pytest.raises(
        Refusal, match=r"backward returns no gradient, so that none reaches `first.weight`, `first.bias`"
    ):
        squared_gradient_norms(Cutting(), IMAGES)
    for network in (Cutting, quantised):
        for read in (
            lambda network: FGSM(eps=8 / 255).perturb(network, IMAGES, LABELS),
            lambda network: PGD(eps=8 / 255, steps=2).perturb(network, IMAGES, LABELS),
            lambda network: OdinProbe((1.0,), (0.01,))(network, IMAGES),
        ):
            with pytest.raises(Refusal, match=r"should depend on its input through autograd"):
                read(network())


def test_a_dead_layer_is_no_fault():
    network = plain()
    with torch.no_grad():
        network[0].bias.fill_(-100.0)
    norms = squared_gradient_norms(network, IMAGES)
    assert (norms[:, :2] == 0).all()
    assert (norms[:, 3] > 0).all()


def test_programs_and_single_images_are_refused_everywhere():
    program = torch.export.export(plain().train(), (IMAGES,)).module()
    for read in (
        squared_gradient_norms,
        LogitsProbe(),
        lambda network, images: FGSM(eps=8 / 255).perturb(network, images, LABELS),
    ):
        with pytest.raises(Refusal, match=r"Got a program of torch\.export"):
            read(program, IMAGES)
        with pytest.raises(Refusal, match=r"Got `images.shape = \[3, 8, 8\]`\. Give one image a leading dimension"):
            read(plain(), IMAGES[0])
    with pytest.raises(Refusal, match=r"Got `images.dtype = torch.uint8`"):
        LogitsProbe()(plain(), (IMAGES * 255).byte())


def test_labels_and_scores_may_be_lists_arrays_or_tensors_of_any_dtype():
    attack = FGSM(eps=8 / 255)
    expected = attack.perturb(plain(), IMAGES, LABELS).images
    for labels in ([0, 1, 2], (0, 1, 2), np.array([0, 1, 2]), np.array([0, 1, 2], dtype=np.uint8)):
        assert torch.equal(attack.perturb(plain(), IMAGES, labels).images, expected)
    scores, labels = torch.tensor([0.5, 0.25, 1.0, 2.0]), torch.tensor([0, 0, 1, 1])
    kinds = (torch.bfloat16, torch.float16, torch.float64)
    for given in (scores.tolist(), scores.clone().requires_grad_(), *(scores.to(kind) for kind in kinds)):
        assert auroc(given, labels) == auroc(given, labels.tolist()) == 1.0


class Sized(nn.Module):
    """Says which size it takes, and raises something odd at another."""

    def __init__(self, **said):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        for name, value in said.items():
            setattr(self, name, value)

    def forward(self, images):
        """Raise."""
        raise AssertionError


def test_the_wanted_size_is_said_where_it_is_known():
    for said, size in (
        ({"image_size": 224}, "224 × 224"),
        ({"img_size": (192, 256)}, "192 × 256"),
        ({"config": SimpleNamespace(image_size=384)}, "384 × 384"),
        ({"pretrained_cfg": {"input_size": (3, 240, 240)}}, "240 × 240"),
        ({}, ""),
    ):
        assert wanted_size(Sized(**said)) == size
        wanted = f" of {size} pixels, which it was built for; these are" if size else ""
        with pytest.raises(Refusal, match=rf"should accept images{wanted} of shape \[3, 8, 8\]"):
            check_network(Sized(**said), IMAGES, 5)
    small = torchvision.models.VisionTransformer(224, 32, 1, 1, 8, 8)
    with pytest.raises(Refusal, match=r"should accept images of 224 × 224 pixels"):
        check_network(small, IMAGES, None)
