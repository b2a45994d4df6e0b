"""Attacks by import path: any class of advertorch, any function; and what is left where advertorch cannot be imported."""

import subprocess
import sys
from functools import partial

import pytest
import torch
from asserts import assert_refused

from lightning_gradood.perturbations import AdvertorchAttack, FunctionAttack
from lightning_gradood.perturbations.advertorch_parts import advertorch_class

from .conftest import ATTACKS, MOMENTUM, by_path


def test_advertorch_is_given_network_settings_and_labels(digits):
    batch = digits.images, digits.labels
    found = ATTACKS["advertorch/momentum"].craft(digits.network, *batch)
    direct = advertorch_class(MOMENTUM)(digits.network.requires_grad_(False), eps=0.03, nb_iter=5).perturb(*batch)
    digits.network.requires_grad_(True)
    assert torch.equal(found.images, direct)
    assert not hasattr(sys.modules["torch.autograd.gradcheck"], "zero_gradients")  # the mended import left nothing


@pytest.mark.filterwarnings("ignore")  # advertorch's own, about schedulers and SciPy's optimiser
def test_other_classes_of_advertorch_work(digits):
    """Integers for eps are taken, the number of classes is filled in, and random draws are of no consequence."""
    for name, settings in {
        "CarliniWagnerL2Attack": {"max_iterations": 40, "binary_search_steps": 1, "initial_const": 1.0},
        "DDNL2Attack": {"nb_iter": 5},
        "L2PGDAttack": {"eps": 1, "nb_iter": 3, "rand_init": False},
        "LBFGSAttack": {"binary_search_steps": 1, "max_iterations": 3},
        "LinfFABAttack": {"n_restarts": 1, "n_iter": 2, "eps": 0.1},
        "SinglePixelAttack": {"max_pixels": 3},
    }.items():
        attack = AdvertorchAttack(f"advertorch.attacks.{name}", settings, one_at_a_time=True)
        assert float(attack.perturb(digits.network, digits.images[:3], digits.labels[:3]).l2.max()) > 0, name


def test_a_function_is_given_everything_and_spoils_nothing(digits, monkeypatch):
    seen, before = [], digits.images.clone()

    def spy(network, images, labels):
        gradients_of = [parameter.requires_grad for parameter in network.parameters()]
        seen.append((network, network.training, any(gradients_of), labels.tolist(), torch.is_grad_enabled()))
        return images / 2

    monkeypatch.setattr(by_path("darker"), spy)
    with torch.no_grad():
        FunctionAttack(by_path("darker")).craft(digits.network, digits.images[:3], digits.labels[:3])
    assert seen == [(digits.network, False, False, digits.labels[:3].tolist(), True)]
    crafted = FunctionAttack(by_path("overwriting")).craft(digits.network, digits.images, digits.labels)
    assert torch.equal(digits.images, before)
    assert torch.equal(crafted.clean, before)
    assert torch.equal(crafted.images, before / 2)


def test_what_an_attack_should_not_do_is_refused(digits):
    state, settings = torch.get_rng_state(), {"eps": 0.03, "nb_iter": 2}
    drawing = AdvertorchAttack("advertorch.attacks.LinfPGDAttack", settings)
    ours = lambda name, **more: FunctionAttack(by_path(name), **more)  # noqa: E731
    random = "`one_at_a_time` should be true for an attack that draws random numbers"
    alone = "the images that the attack returns should be"
    cases = [
        (drawing, random),
        (ours("noisy"), random),
        (ours("darker", eps=0.01), "clean ones by at most `eps = 0.01` a pixel. Got a difference of 0.02"),
        (AdvertorchAttack(MOMENTUM, settings, eps=0.01), "at most `eps = 0"),
        (ours("too_bright"), "that FunctionAttack returns should be pixels in [0, 1]. Got values from 1 to"),
        (ours("undefined"), "should be pixels in [0, 1]. Got values from nan"),
        (ours("cropped"), "should be [100, 1, 8, 8], torch.float32, as those it was given. Got [100, 1, 8, 7]"),
        (ours("halves"), "Got [100, 1, 8, 8], torch.float16"),
        (ours("wordy"), "Got str. Return one image for each"),
        (ours("cropped", one_at_a_time=True), alone),
        (ours("wordy", one_at_a_time=True), alone),
    ]
    batch = digits.network, digits.images, digits.labels
    assert_refused(*((partial(attack.craft, *batch), words) for attack, words in cases))
    assert torch.equal(state, torch.get_rng_state())


SCRIPT = """
import sys

class Broken:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "advertorch":
            raise AttributeError("torch has no such function any more")

sys.meta_path.insert(0, Broken())
import torch
from torch import nn
from lightning_gradood.perturbations import BIM, FGSM, PGD, AdvertorchAttack, CarliniWagner, FunctionAttack, IterLL, Semantic
from lightning_gradood.core import Refusal
from lightning_gradood.perturbations import Corruption

images, labels = torch.rand(2, 3, 8, 8), torch.tensor([0, 1])
network = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
assert torch.equal(Semantic().perturb(network, images, labels).images, 1 - images)
assert Corruption("brightness", 3).perturb(network, images, labels).images.shape == images.shape
for make in (FGSM, BIM, PGD, IterLL, CarliniWagner, lambda: AdvertorchAttack("advertorch.attacks.MomentumIterativeAttack")):
    try:
        make()
    except Refusal as refusal:
        print(refusal)
"""


@pytest.mark.slow
def test_without_advertorch_only_the_attacks_that_need_it_are_refused():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first = "FGSM, BIM, PGD, IterLL, C&W and AdvertorchAttack need advertorch 0.2.3. Got, with torch "
    last = "AttributeError: torch has no such function any more. Install the torch of constraints.txt; all"
    assert [line.startswith(first) and last in line for line in done.stdout.splitlines()] == [True] * 6
