"""Targets are the classes that were asked for and are reached; who has arrived stays; nothing is computed twice."""

import pytest
import torch

from lightning_gradood.perturbations import BIM, FGSM, PGD, AdvertorchAttack, CarliniWagner, IterLL

from .conftest import MOMENTUM, counted


def test_targets_are_what_was_asked_for(digits):
    network, images, labels = digits.network, digits.images[:30], digits.labels[:30]
    for kind in (FGSM, BIM, PGD, CarliniWagner):
        brief = {"steps": 2} if kind is CarliniWagner else {}
        least, after, drawn, none = (
            kind(targeted=choice, **brief).craft(network, images, labels).targets
            for choice in ("least_likely", "next", "random", None)
        )
        assert none is None
        assert torch.equal(least, network(images).argmin(1)), kind
        assert torch.equal(after, (labels + 1) % 10), kind
        assert bool(((drawn != labels) & (drawn >= 0) & (drawn < 10)).all()), kind
        assert len(set(((drawn - labels) % 10).tolist())) > 5, kind


def test_images_reach_their_targets(digits):
    saliency = AdvertorchAttack("advertorch.attacks.JacobianSaliencyMapAttack", {"gamma": 0.5}, targeted="next")
    for attack, number, share in (
        (BIM(eps=0.1, steps=20, targeted="next"), 30, 0.6),
        (PGD(eps=0.1, steps=20, targeted="random"), 30, 0.6),
        (CarliniWagner(targeted="next"), 30, 0.6),
        (IterLL(eps=0.1, step=0.01, steps=20), 30, 0.6),
        (AdvertorchAttack(MOMENTUM, {"eps": 0.1, "nb_iter": 20}, targeted="next"), 30, 0.6),
        (saliency, 4, 0.0),
    ):
        found = attack.perturb(digits.network, digits.images[:number], digits.labels[:number])
        assert float(found.target_hit.float().mean()) > share, attack
        assert bool(found.success[found.target_hit].all())


@pytest.mark.parametrize("kind", [BIM, IterLL])
def test_stopping_is_at_the_first_success_of_the_walk(kind, digits):
    """In float64: image by image the first place of 0, 1, 2 … steps where the goal is achieved, or the last place."""
    digits, steps = digits.double(), 10
    network, images, labels = digits.network, digits.images[:40], digits.labels[:40]
    attacks = [kind(eps=0.03, step=0.005, steps=number) for number in range(1, steps + 1)]
    walk = [images] + [attack.craft(network, images, labels).images for attack in attacks]
    predictions = torch.stack([network(place).argmax(1) for place in walk])
    arrived = predictions == network(images).argmin(1) if kind is IterLL else predictions != labels
    arrived[-1] = True
    first = arrived.int().argmax(0)
    assert 0 < int((first < steps).sum()) < 40 or kind is BIM
    expected = torch.stack([walk[place][row] for row, place in enumerate(first.tolist())])
    found = kind(eps=0.03, step=0.005, steps=steps, stop_at_success=True).craft(network, images, labels)
    torch.testing.assert_close(found.images, expected, rtol=0, atol=1e-6)


def test_images_that_have_arrived_leave_the_working_batch_and_no_pass_is_added(digits):
    network, clean, labels, stopping = digits.network, digits.images, digits.labels, BIM(steps=6, stop_at_success=True)
    with counted(network) as seen:
        stopping.craft(network, clean, labels)
    misled, expected = torch.zeros(len(clean), dtype=torch.bool), [len(clean)]
    for steps in range(5):  # a step sees the images that no smaller number of steps has misled
        images = BIM(steps=steps).craft(network, clean, labels).images if steps else clean
        misled |= network(images).argmax(1) != labels
        expected.append(int((~misled).sum()))
    assert seen == [count for count in expected if count]
    assert seen[-1] < len(clean) / 2
    wrong = (network(clean).argmax(1) + 1) % 10
    with counted(network) as seen:
        found = stopping.perturb(network, clean, wrong)
    assert seen == [100, 100]  # all have arrived: one step to see it, one pass to judge
    assert torch.equal(found.images, clean)
    assert bool(found.success.all())


def test_attacks_cost_what_their_definitions_say(digits):
    rising = CarliniWagner(learning_rate=10.0, steps=20, searches=2)  # a loss that rises would abort advertorch's own
    for attack, passes in (
        (FGSM(), 1), (BIM(), 6), (PGD(), 10), (IterLL(), 10), (rising, 40), (BIM(targeted="least_likely"), 7),
        (BIM(targeted="next"), 6),
    ):  # fmt: skip
        with counted(digits.network) as seen:
            attack.craft(digits.network, digits.images, digits.labels)
        assert [images for images in seen if images > 1] == [100] * passes, attack
        assert sum(seen) <= 100 * passes + 1  # a single image tells the number of classes
