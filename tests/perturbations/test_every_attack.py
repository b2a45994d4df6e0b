"""What holds for every attack and every preset, whatever it does to the images."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from asserts import random_states, state_of
from torch import nn

from lightning_gradood.core import decode, encode
from lightning_gradood.perturbations import BIM, FGSM, PGD, CarliniWagner, Crafted, IterLL, Semantic, noise_like, preset

from .conftest import ATTACKS

NUMBER = 12
IDS = [f"digits/{row}" for row in range(NUMBER)]


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack(name, digits):
    attack, network = ATTACKS[name], digits.network
    images, labels = digits.images[:NUMBER].clone(), digits.labels[:NUMBER].clone()
    labels[::4] = (labels[::4] + 1) % 10  # what the network predicts for the others
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    generators = random_states()
    found = attack.perturb(network, images, labels, IDS)
    assert torch.equal(images, digits.images[:NUMBER])

    # pixels near the clean ones, and what is reported of them
    assert (found.images.shape, found.images.dtype) == (images.shape, images.dtype)
    assert not found.images.requires_grad
    assert 0 <= float(found.images.min()) <= float(found.images.max()) <= 1
    change = (found.images.double() - images.double()).flatten(1)
    assert attack.eps is None or float(change.abs().max()) <= attack.eps + 1e-6
    torch.testing.assert_close(found.l2, change.norm(dim=1))
    torch.testing.assert_close(found.linf, change.norm(float("inf"), dim=1))
    predictions = network(found.images).argmax(1)
    assert torch.equal(found.success, predictions != labels)

    # through JSON the same attack comes back, and a network in training is left as it was
    again = decode(json.loads(json.dumps(encode(attack))))
    assert again == attack
    first, second, *_ = network.train().parameters()
    first.requires_grad_(False)
    second.grad = torch.ones_like(second)
    before = state_of(network)
    try:
        crafted = again.craft(network, images, labels.tolist(), IDS)
        assert state_of(network) == before
        assert bool((second.grad == 1).all())
    finally:
        network.eval().requires_grad_(True)
        second.grad = None
    assert torch.equal(crafted.clean, images)
    assert torch.equal(crafted.images, found.images)  # in train mode it would have been another network
    assert (found.target_hit is None) == (crafted.targets is None)
    assert found.target_hit is None or torch.equal(found.target_hit, predictions == crafted.targets)

    # modes of the caller, unknown labels and global random numbers play no part
    some = torch.where(network(images).argmax(1) == labels, -1, labels)
    assert 0 < int((some == -1).sum()) < NUMBER
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        guessed = attack.craft(network, images.clone(), some.clone(), IDS)  # inference tensors
        assert torch.is_inference_mode_enabled()
    assert torch.equal(guessed.labels, labels)
    assert torch.equal(guessed.images, found.images)
    assert random_states() == generators

    # an image follows its id into any order, batch size and memory layout; in float64, where rounding decides nothing
    order = torch.randperm(NUMBER, generator=torch.Generator().manual_seed(1))
    shuffled = attack.craft(network, images[order], labels[order], [IDS[row] for row in order]).images
    assert torch.equal(shuffled, found.images[order])
    double = digits.double().network
    whole = attack.craft(double, images.double(), labels, IDS).images
    for part in (slice(0, 5), slice(5, 12), slice(3, 4)):
        alone = attack.craft(double, images[part].double(), labels[part], IDS[part]).images
        torch.testing.assert_close(alone, whole[part], rtol=0, atol=1e-6)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 5))
    colour = torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    plain, last = (
        attack.craft(linear, colour.to(memory_format=layout), torch.arange(4)).images
        for layout in (torch.contiguous_format, torch.channels_last)
    )
    assert torch.equal(plain, last)


def test_seed_and_id_decide_what_is_drawn(digits):
    batch = digits.network, digits.images[:NUMBER], digits.labels[:NUMBER]
    for name in ("paper/pgd", "bim/random", "function/noisy"):
        attack = ATTACKS[name]
        found = attack.craft(*batch, IDS).images
        assert not torch.equal(replace(attack, seed=1).craft(*batch, IDS).images, found), name
        assert not torch.equal(attack.craft(*batch, [f"other/{row}" for row in IDS]).images, found), name
    barely, double = PGD(step=1e-6, steps=1), digits.double()
    single = barely.craft(*batch, IDS).images
    inner = (batch[1] > 0.05) & (batch[1] < 0.95)
    assert float((single - batch[1])[inner].abs().mean()) == pytest.approx(0.025, rel=0.1)  # uniform within eps
    precise = barely.craft(double.network, double.images[:NUMBER], double.labels[:NUMBER], IDS).images
    torch.testing.assert_close(single.double(), precise, rtol=0, atol=1e-5)  # both start from the same place


def test_eight_bit_images_are_grey_levels_and_judging_needs_only_logits(digits):
    crafted = ATTACKS["paper/fgsm"].craft(digits.network, digits.images[:NUMBER], digits.labels[:NUMBER], IDS)
    rounded = crafted.eight_bit()
    levels = rounded.images.double() * 255
    assert float((levels - levels.round()).abs().max()) < 1e-4
    assert 0.1 / 255 < float((rounded.images - crafted.images).abs().max()) <= 0.5 / 255 + 1e-7
    images, clean = torch.tensor([[[[0.3, 0.4]]], [[[0.0, 1.0]]]]), torch.zeros(2, 1, 1, 2)
    crafted = Crafted(images, clean, torch.tensor([0, 1]), torch.tensor([2, 2]))
    judged = crafted.judge(torch.tensor([[0.0, 1.0, 5.0], [0.0, 3.0, 1.0]]))
    assert (judged.success.tolist(), judged.target_hit.tolist()) == ([True, False], [True, False])
    assert judged.l2.tolist() == pytest.approx([0.5, 1.0])
    assert judged.linf.tolist() == pytest.approx([0.4, 1.0])
    assert replace(crafted, targets=None).judge(torch.zeros(2, 3)).target_hit is None


def test_presets_are_those_of_the_papers_and_paper_is_the_default():
    defaults = [FGSM(), BIM(), PGD(), CarliniWagner(), IterLL(), Semantic()]
    assert list(preset("paper").values()) == defaults
    steps = BIM(8 / 255, 2 / 255, 10), PGD(8 / 255, 2 / 255, 40)
    assert list(preset("modern").values()) == [FGSM(8 / 255), *steps, CarliniWagner(searches=5), *defaults[4:]]
    assert {one for one in preset("pilot") if one not in preset("paper")} == {"fgsm_05"}


def test_noise_has_the_norm_of_the_attack_and_belongs_to_seed_and_id(digits):
    crafted = CarliniWagner(steps=40).craft(digits.network, digits.images[:20], digits.labels[:20])
    ids, logits = [str(row) for row in range(20)], torch.zeros(20, 10)
    noisy = noise_like(replace(crafted, targets=digits.labels[:20]), ids)
    assert 0 <= float(noisy.images.min()) <= float(noisy.images.max()) <= 1
    wanted = crafted.judge(logits).l2
    torch.testing.assert_close(noisy.judge(logits).l2, wanted, rtol=1e-5, atol=1e-6)
    assert not torch.equal(noisy.images, crafted.images)
    assert noisy.targets is None
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0)).tolist()
    assert torch.equal(noise_like(crafted.at(order), [ids[row] for row in order]).images, noisy.images[order])
    assert not torch.equal(noise_like(crafted, ids, seed=1).images, noisy.images)
    one, other = noise_like(crafted.at([0, 0]), ["one", "other"]).images
    assert not torch.equal(one, other)
    assert torch.equal(noise_like(replace(crafted, images=crafted.clean), ids).images, crafted.clean)
    # the negative of black is farther than half of all clipped noise can go: as near as possible
    black = Semantic().craft(nn.Flatten(), torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64))
    far = noise_like(black, ["a", "b"]).images
    assert bool(((far == 0) | (far > 0.99)).all())
