"""What holds for every attack and every preset, whatever it does to the images."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_gradood.attacks import PGD
from lightning_gradood.core import Crafted, Perturbation, Perturbed

from .conftest import Digits
from .examples import ATTACKS

NUMBER = 12
IDS = [f"digits/{row}" for row in range(NUMBER)]
every_attack = pytest.mark.parametrize("name", ATTACKS)


@pytest.fixture(scope="module")
def found(digits: Digits) -> dict[str, Perturbed]:
    """What each attack does to the same images, worked out once."""
    return _Found(digits)


class _Found(dict[str, Perturbed]):
    def __init__(self, digits: Digits) -> None:
        self.digits = digits

    def __missing__(self, name: str) -> Perturbed:
        self[name] = ATTACKS[name].perturb(*_batch(self.digits), IDS)
        return self[name]


def _batch(digits: Digits) -> tuple[nn.Module, Tensor, Tensor]:
    return digits.network, digits.images[:NUMBER], digits.labels[:NUMBER]


@every_attack
def test_images_are_images_near_the_clean_ones(name: str, digits: Digits, found: dict[str, Perturbed]) -> None:
    images, clean = found[name].images, digits.images[:NUMBER]
    assert images.shape == clean.shape
    assert images.dtype == clean.dtype
    assert not images.requires_grad
    assert float(images.min()) >= 0
    assert float(images.max()) <= 1
    eps = ATTACKS[name].eps
    if eps is not None:
        assert float((images - clean).abs().max()) <= eps + 1e-6


@every_attack
def test_what_is_reported_is_so(name: str, digits: Digits, found: dict[str, Perturbed]) -> None:
    network, clean, labels = _batch(digits)
    perturbed = found[name]
    predictions = network(perturbed.images).argmax(1)
    assert torch.equal(perturbed.success, predictions != labels)
    change = (perturbed.images.double() - clean.double()).flatten(1)
    torch.testing.assert_close(perturbed.l2, change.norm(dim=1))
    torch.testing.assert_close(perturbed.linf, change.norm(float("inf"), dim=1))
    crafted = ATTACKS[name].craft(network, clean, labels, IDS)
    if crafted.targets is None:
        assert perturbed.target_hit is None
    else:
        assert perturbed.target_hit is not None
        assert torch.equal(perturbed.target_hit, predictions == crafted.targets)


@every_attack
def test_deterministic_and_the_global_generators_stay(name: str, digits: Digits, found: dict[str, Perturbed]) -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    before = torch.get_rng_state(), repr(np.random.get_state()), random.getstate()
    again = ATTACKS[name].craft(*_batch(digits), IDS)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (repr(np.random.get_state()), random.getstate())
    assert torch.equal(again.images, found[name].images)


@every_attack
def test_order_does_not_matter(name: str, digits: Digits, found: dict[str, Perturbed]) -> None:
    network, images, labels = _batch(digits)
    order = torch.randperm(NUMBER, generator=torch.Generator().manual_seed(1))
    shuffled = ATTACKS[name].craft(network, images[order], labels[order], [IDS[row] for row in order])
    if "stopping" in name:  # the working batch changes its shape, and with it rounding
        torch.testing.assert_close(shuffled.images, found[name].images[order], rtol=0, atol=1e-5)
    else:
        assert torch.equal(shuffled.images, found[name].images[order])


@every_attack
def test_the_other_images_do_not_matter(name: str, digits: Digits) -> None:
    """In float64 equal whatever the batch's size: 12 images, 5 + 7, one alone."""
    network, images, labels = _batch(digits.double())
    whole = ATTACKS[name].craft(network, images, labels, IDS).images
    for part in (slice(0, 5), slice(5, 12), slice(3, 4)):
        alone = ATTACKS[name].craft(network, images[part], labels[part], IDS[part]).images
        torch.testing.assert_close(alone, whole[part], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in ATTACKS if name.startswith("paper") or "stopping" in name])
def test_single_precision_hardly_depends_on_the_batch(name: str, digits: Digits) -> None:
    network, images, labels = digits.network, digits.images[:100], digits.labels[:100]
    ids = [str(row) for row in range(100)]
    whole = ATTACKS[name].perturb(network, images, labels, ids)
    parts = [
        ATTACKS[name].perturb(network, images[rows], labels[rows], [ids[row] for row in rows])
        for rows in torch.arange(100).split(7)
    ]
    same = (torch.cat([part.images for part in parts]) - whole.images).abs().flatten(1).amax(1) <= 1e-6
    assert same.float().mean() >= 0.9
    success = torch.cat([part.success for part in parts]).float().mean()
    assert abs(float(success - whole.success.float().mean())) <= 0.01


@every_attack
def test_network_and_clean_images_stay_as_they_were(name: str, digits: Digits, found: dict[str, Perturbed]) -> None:
    network, images, labels = _batch(digits)
    state = {key: value.clone() for key, value in network.state_dict().items()}
    parameters = list(network.parameters())
    copy = images.clone()
    network.train()
    parameters[0].requires_grad_(False)
    parameters[1].grad = grad = torch.ones_like(parameters[1])
    try:
        crafted = ATTACKS[name].craft(network, images, labels, IDS)
        assert all(module.training for module in network.modules())
        assert [parameter.requires_grad for parameter in parameters] == [False] + [True] * (len(parameters) - 1)
        assert [parameter.grad is None for parameter in parameters] == [True, False] + [True] * (len(parameters) - 2)
        assert parameters[1].grad is grad
        assert bool((grad == 1).all())
    finally:
        network.eval().requires_grad_(True)
        parameters[1].grad = None
    assert all(torch.equal(state[key], value) for key, value in network.state_dict().items())
    assert torch.equal(images, copy)
    assert torch.equal(crafted.clean, copy)
    assert torch.equal(crafted.images, found[name].images)  # in train mode it would have been another network


@every_attack
def test_works_in_inference_mode(name: str, digits: Digits, found: dict[str, Perturbed]) -> None:
    with torch.inference_mode():
        network, images, labels = _batch(digits)
        perturbed = ATTACKS[name].perturb(network, images.clone(), labels.clone(), IDS)  # inference tensors
        assert torch.is_inference_mode_enabled()
    assert torch.equal(perturbed.images, found[name].images)


@every_attack
def test_autocast_is_off(name: str, digits: Digits, found: dict[str, Perturbed]) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ATTACKS[name].craft(*_batch(digits), IDS).images, found[name].images)


@pytest.mark.parametrize("name", [name for name in ATTACKS if "paper" in name])
def test_channels_last_images_are_taken(name: str) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 5))
    images = torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 3])
    plain = ATTACKS[name].craft(network, images, labels).images
    last = ATTACKS[name].craft(network, images.to(memory_format=torch.channels_last), labels).images
    assert torch.equal(plain, last)


@every_attack
def test_an_unknown_label_is_the_prediction(name: str, digits: Digits) -> None:
    network, images, labels = _batch(digits)
    predicted = network(images).argmax(1)
    some = torch.where(torch.arange(NUMBER) % 2 == 0, -1, labels)
    crafted = ATTACKS[name].craft(network, images, some, IDS)
    expected = torch.where(some < 0, predicted, labels)
    assert torch.equal(crafted.labels, expected)
    assert torch.equal(crafted.images, ATTACKS[name].craft(network, images, expected, IDS).images)
    assert int(some.min()) == -1  # the caller's labels are not filled in


@pytest.mark.parametrize("name", ["paper/pgd", "bim/random", "function/noisy"])
def test_seed_and_id_decide_what_is_drawn(name: str, digits: Digits, found: dict[str, Perturbed]) -> None:
    attack = ATTACKS[name]
    settings = attack.describe()["settings"]
    assert isinstance(settings, dict)
    other_seed = type(attack)(**settings | {"seed": 1}).craft(*_batch(digits), IDS)
    other_ids = attack.craft(*_batch(digits), [f"other/{row}" for row in range(NUMBER)])
    assert not torch.equal(other_seed.images, found[name].images)
    assert not torch.equal(other_ids.images, found[name].images)


@every_attack
def test_the_description_is_data_that_makes_the_same_attack(
    name: str, digits: Digits, found: dict[str, Perturbed]
) -> None:
    description = json.loads(json.dumps(ATTACKS[name].describe()))
    kind = type(ATTACKS[name])
    assert description["attack"] == f"{kind.__module__}.{kind.__name__}"
    assert description["version"] == 1
    again: Perturbation = kind(**description["settings"])
    assert torch.equal(again.craft(*_batch(digits), IDS).images, found[name].images)


def test_eight_bit_images_are_grey_levels(digits: Digits) -> None:
    crafted = ATTACKS["paper/fgsm"].craft(*_batch(digits), IDS)
    rounded = crafted.eight_bit()
    levels = rounded.images.double() * 255
    assert float((levels - levels.round()).abs().max()) < 1e-4
    assert float((rounded.images - crafted.images).abs().max()) <= 0.5 / 255 + 1e-7
    assert float((rounded.images - crafted.images).abs().max()) > 0.1 / 255
    assert torch.equal(rounded.clean, crafted.clean)
    assert torch.equal(rounded.labels, crafted.labels)


def test_judging_needs_only_logits() -> None:
    clean = torch.zeros(2, 1, 1, 2)
    crafted = Crafted(torch.tensor([[[[0.3, 0.4]]], [[[0.0, 1.0]]]]), clean, torch.tensor([0, 1]), torch.tensor([2, 2]))
    judged = crafted.judge(torch.tensor([[0.0, 1.0, 5.0], [0.0, 3.0, 1.0]]))
    assert judged.success.tolist() == [True, False]
    assert judged.target_hit is not None
    assert judged.target_hit.tolist() == [True, False]
    assert judged.l2.tolist() == pytest.approx([0.5, 1.0])
    assert judged.linf.tolist() == pytest.approx([0.4, 1.0])
    assert replace(crafted, targets=None).judge(torch.zeros(2, 3)).target_hit is None


def test_both_precisions_start_from_the_same_place(digits: Digits) -> None:
    barely = PGD(step=1e-6, steps=1)
    single, double = (barely.craft(*_batch(either), IDS).images for either in (digits, digits.double()))
    assert float((single - digits.images[:NUMBER]).abs().max()) > 0.04
    torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-5)
