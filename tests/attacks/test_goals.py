"""Targets are the classes that were asked for and are reached; who has arrived stays; nothing is computed twice."""

import pytest
import torch
from torch import Tensor, nn

from lightning_gradood.attacks import BIM, FGSM, PGD, AdvertorchAttack, CarliniWagner, IterLL
from lightning_gradood.core import Perturbation

from .conftest import Digits
from .examples import MOMENTUM

TARGETED: list[type[Perturbation]] = [FGSM, BIM, PGD, CarliniWagner]


class Counting(nn.Module):
    """Remember how many images each forward pass saw."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.seen: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(len(images))
        logits: Tensor = self.network(images)
        return logits


@pytest.mark.parametrize("kind", TARGETED)
def test_targets_are_what_was_asked_for(kind: type[Perturbation], digits: Digits) -> None:
    network, images, labels = digits.network, digits.images[:30], digits.labels[:30]
    brief = {"steps": 2} if kind is CarliniWagner else {}
    least, after, drawn, none = (
        kind(targeted=choice, **brief).craft(network, images, labels).targets
        for choice in ("least_likely", "next", "random", None)
    )
    assert least is not None
    assert after is not None
    assert drawn is not None
    assert none is None
    assert torch.equal(least, network(images).argmin(1))
    assert torch.equal(after, (labels + 1) % 10)
    assert bool(((drawn != labels) & (drawn >= 0) & (drawn < 10)).all())
    assert len(set(((drawn - labels) % 10).tolist())) > 5


def test_images_reach_their_targets(digits: Digits) -> None:
    saliency = AdvertorchAttack("advertorch.attacks.JacobianSaliencyMapAttack", {"gamma": 0.5}, targeted="next")
    attacks: list[tuple[Perturbation, int, float]] = [
        (BIM(eps=0.1, steps=20, targeted="next"), 30, 0.6),
        (PGD(eps=0.1, steps=20, targeted="random"), 30, 0.6),
        (CarliniWagner(targeted="next"), 30, 0.6),
        (IterLL(eps=0.1, step=0.01, steps=20), 30, 0.6),
        (AdvertorchAttack(MOMENTUM, {"eps": 0.1, "nb_iter": 20}, targeted="next"), 30, 0.6),
        (saliency, 4, 0.0),
    ]
    for attack, number, share in attacks:
        found = attack.perturb(digits.network, digits.images[:number], digits.labels[:number])
        assert found.target_hit is not None
        assert float(found.target_hit.float().mean()) > share, attack
        assert bool(found.success[found.target_hit].all())


@pytest.mark.parametrize("kind", [BIM, IterLL])
def test_stopping_is_at_the_first_success_of_the_walk(kind: type[BIM] | type[IterLL], digits: Digits) -> None:
    """In float64: image by image the first place of 0, 1, 2 … steps where the goal is achieved, or the last place."""
    digits = digits.double()
    network, images, labels = digits.network, digits.images[:40], digits.labels[:40]
    steps = 10
    walk = [images] + [
        kind(eps=0.03, step=0.005, steps=number).craft(network, images, labels).images for number in range(1, steps + 1)
    ]
    targets = network(images).argmin(1)
    predictions = torch.stack([network(place).argmax(1) for place in walk])
    arrived = predictions == targets if kind is IterLL else predictions != labels
    arrived[-1] = True
    first = arrived.int().argmax(0)
    assert 0 < int((first < steps).sum()) < 40 or kind is BIM
    expected = torch.stack([walk[place][row] for row, place in enumerate(first.tolist())])
    found = kind(eps=0.03, step=0.005, steps=steps, stop_at_success=True).craft(network, images, labels)
    torch.testing.assert_close(found.images, expected, rtol=0, atol=1e-6)


def test_images_that_have_arrived_leave_the_working_batch_and_no_pass_is_added(digits: Digits) -> None:
    counting = Counting(digits.network).eval()
    BIM(steps=6, stop_at_success=True).craft(counting, digits.images, digits.labels)
    misled = torch.zeros(len(digits.images), dtype=torch.bool)
    expected = [len(digits.images)]
    for steps in range(5):  # a step sees the images that no smaller number of steps has misled
        images = BIM(steps=steps).craft(digits.network, digits.images, digits.labels).images if steps else digits.images
        misled |= digits.network(images).argmax(1) != digits.labels
        expected.append(int((~misled).sum()))
    assert counting.seen == [count for count in expected if count]
    assert counting.seen[-1] < len(digits.images) / 2
    counting = Counting(digits.network).eval()
    wrong = (digits.network(digits.images).argmax(1) + 1) % 10
    found = BIM(steps=6, stop_at_success=True).perturb(counting, digits.images, wrong)
    assert counting.seen == [100, 100]  # all have arrived: one step to see it, one pass to judge
    assert torch.equal(found.images, digits.images)
    assert bool(found.success.all())


def test_definitions_cost_what_they_say(digits: Digits) -> None:
    rising = CarliniWagner(learning_rate=10.0, steps=20, searches=2)  # a loss that rises would abort advertorch's own
    expected: list[tuple[Perturbation, int, int]] = [
        (FGSM(), 1, 1), (BIM(), 6, 6), (PGD(), 10, 10), (IterLL(), 10, 10), (rising, 40, 40),
        (BIM(targeted="least_likely"), 6, 7), (BIM(targeted="next"), 6, 6),
    ]  # fmt: skip
    for attack, said, passes in expected:
        counting = Counting(digits.network).eval()
        attack.craft(counting, digits.images, digits.labels)
        assert attack.passes == said
        assert [seen for seen in counting.seen if seen > 1] == [100] * passes, attack
        assert sum(counting.seen) <= 100 * passes + 1  # a single image tells the number of classes
