"""Stopping at success: who has arrived stays, who has not goes on as if alone, and nothing is computed twice."""

import pytest
import torch
from torch import Tensor, nn

from lightning_gradood.attacks import BIM, FGSM, PGD, CarliniWagner, IterLL
from lightning_gradood.core import Perturbation

from .conftest import Digits


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


@pytest.mark.parametrize("kind", [BIM, IterLL])
def test_it_is_the_first_success_of_the_walk(kind: type[BIM] | type[IterLL], digits: Digits) -> None:
    """In float64: image by image the first place of 0, 1, 2 … steps where the goal is achieved, or the last place."""
    digits = digits.double()
    network, images, labels = digits.network, digits.images[:40], digits.labels[:40]
    steps = 10
    walk = [images] + [
        kind(eps=0.03, step=0.005, steps=number).craft(network, images, labels).images for number in range(1, steps + 1)
    ]
    targets = network(images).argmin(1)
    expected, stopped = walk[-1].clone(), set()
    for row in range(len(images)):
        for place in walk[:-1]:
            prediction = network(place[row : row + 1]).argmax(1)[0]
            if (prediction == targets[row]) if kind is IterLL else (prediction != labels[row]):
                expected[row] = place[row]
                stopped.add(row)
                break
    assert 0 < len(stopped) < 40 or kind is BIM
    found = kind(eps=0.03, step=0.005, steps=steps, stop_at_success=True).craft(network, images, labels)
    torch.testing.assert_close(found.images, expected, rtol=0, atol=1e-6)


def test_images_leave_the_working_batch_and_no_pass_is_added(digits: Digits) -> None:
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


def test_nothing_is_left_to_do_when_all_have_arrived(digits: Digits) -> None:
    counting = Counting(digits.network).eval()
    wrong = (digits.network(digits.images).argmax(1) + 1) % 10
    found = BIM(steps=6, stop_at_success=True).perturb(counting, digits.images, wrong)
    assert counting.seen == [100, 100]  # one step to see it, one to judge
    assert torch.equal(found.images, digits.images)
    assert bool(found.success.all())


@pytest.mark.parametrize(
    ("attack", "passes"),
    [
        (FGSM(), 1),
        (BIM(), 6),
        (PGD(), 10),
        (IterLL(), 10),
        (CarliniWagner(learning_rate=10.0, steps=20, searches=2), 40),  # a loss that rises would abort advertorch's own
        (BIM(targeted="least_likely"), 7),
        (BIM(targeted="next"), 6),
    ],
)
def test_definitions_cost_what_they_say(attack: Perturbation, passes: int, digits: Digits) -> None:
    counting = Counting(digits.network).eval()
    attack.craft(counting, digits.images, digits.labels)
    assert [seen for seen in counting.seen if seen > 1] == [100] * passes
    assert sum(counting.seen) <= 100 * passes + 1  # a single image tells the number of classes
