"""Bad input is one sentence, and the network is left as it was also then."""

from functools import partial

import pytest
import torch
from asserts import assert_refused, random_states, state_of
from torch import nn

from lightning_gradood.perturbations import (
    BIM,
    FGSM,
    PGD,
    AdvertorchAttack,
    CarliniWagner,
    FunctionAttack,
    IterLL,
    preset,
)

from .conftest import MOMENTUM, by_path

GRADIENT_ATTACKS = [FGSM(), BIM(), PGD(), CarliniWagner(steps=2), IterLL(), AdvertorchAttack(MOMENTUM)]
NAN, INF = float("nan"), float("inf")


def test_settings_without_meaning_are_refused():
    pixels = "`eps` should be above 0 and at most 1, as pixels are in"
    ours = lambda name, **more: partial(AdvertorchAttack, f"advertorch.attacks.{name}", **more)  # noqa: E731
    momentum = partial(AdvertorchAttack, MOMENTUM)
    cases = [
        (partial(kind, eps=value), pixels)
        for kind in (FGSM, BIM, PGD, IterLL)
        for value in (0.0, -0.1, 1.5, 0, 8, NAN, INF)
    ]
    cases += [
        (partial(FGSM, eps=8), "Got `eps = 8`. If 8 of 255 grey levels are meant, write 0.031373"),
        (partial(FGSM, eps=4.0), "If 4 of 255 grey levels are meant, write 0.015686"),
        (partial(preset, "lee"), "`preset` should be one of paper, modern, pilot. Got `preset = 'lee'`"),
        (ours("LinfFABAttack", targeted="next"), "LinfFABAttack can be: left out. Got `targeted = 'next'`"),
        (ours("JacobianSaliencyMapAttack"), "JacobianSaliencyMapAttack can be: given. Got `targeted = None`"),
        (partial(momentum, settings={"targeted": True}), "should be beside `settings`"),
        (partial(momentum, settings={"epsilon": 0.1}), "eps, nb_iter"),
        (partial(momentum, settings={"loss_fn": nn.ReLU()}), "should be plain data"),
    ]
    words = "`attack` should be the import path of an attack class of advertorch"
    for path in ("advertorch.attacks.Nothing", "torch.nn.Linear", "no_such_package.Attack", "..", "print"):
        cases.append((partial(AdvertorchAttack, path), words))
    words = "`function` should be the import path of a function of network, images and labels"
    for path in ("no_such_package.function", by_path("nothing"), by_path("not_callable"), "", "a b"):
        cases.append((partial(FunctionAttack, path), words))
    assert_refused(*cases)
    assert FGSM(eps=1.0).eps == 1.0


class Around(nn.Module):
    """What a function makes of a network and its images."""

    def __init__(self, network, function):
        super().__init__()
        self.network, self.function = network, function

    def forward(self, images):
        return self.function(self.network, images)


def test_networks_images_labels_and_ids_that_do_not_fit_are_refused(digits):
    grey, zeros, network, three = (3, 1, 8, 8), torch.zeros(3, dtype=torch.int64), digits.network, digits.images[:3]
    images = [
        (torch.zeros(grey, dtype=torch.uint8), "Got `images.dtype = torch.uint8`. Convert 8-bit pixels with `images"),
        (torch.zeros(grey, dtype=torch.float16), "`images` should be float32 or float64 pixels"),
        (torch.full(grey, 255.0), "`images` should be pixels in [0, 1]. Got values from 255 to 255. Divide"),
        (torch.full(grey, -1e-3), "Got values from -0.001 to -0.001"),
        (torch.full(grey, NAN), "Got values from nan to nan"),
        (torch.zeros(0, 1, 8, 8), "at least one image. Got `images.shape = [0, 1, 8, 8]`"),
        (torch.zeros(3), "`images` should be a batch [N, ...]"),
    ]
    labels = [
        (zeros[:2], "`labels` should be one class index for each image, integer [3]"),
        (torch.zeros(3), "Got `labels` of shape [3], torch.float32. Count classes from 0"),
        (torch.zeros(3, 10, dtype=torch.int64), "Got `labels` of shape [3, 10]"),
        (
            torch.tensor([0, -2, 1]),
            "or -1 where the prediction is meant. Got `labels` of shape [3], torch.int64, at least -2",
        ),
        (torch.tensor([0, 10, 1]), "below the network's number of classes, 10. Got `labels.max() = 10`. Give -1"),
    ]
    with torch.inference_mode():
        built_there = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    detached = Around(network, lambda network, images: network(images.detach()))  # autograd cannot follow to the input
    outputs = [lambda images, shape=shape: torch.zeros(shape) * images.sum() for shape in ([3], [3, 1], [2, 10])]
    outputs += [lambda images: torch.zeros(3, 10, 1) * images.sum(), lambda images: (images.sum(),)]
    shaped = [Around(network, lambda _, images, output=output: output(images)) for output in outputs]
    logits = "the network's output should be logits [N, classes], a row for each image and two"
    names = "`ids` should be one name for each of the 3 images"
    assert_refused(
        *((partial(FGSM().craft, network, one, zeros[: len(one)]), words) for one, words in images),
        *((partial(FGSM().craft, network, three, one), words) for one, words in labels),
        *((partial(PGD().craft, network, three, zeros, one), names) for one in (["a"], "abc", [])),
        *((partial(one.craft, detached, three, zeros), "= Around` without one") for one in GRADIENT_ATTACKS),
        *((partial(FGSM().craft, one, three, zeros + label), logits) for one in shaped for label in (0, -1)),
        (partial(FGSM().craft, built_there, three, zeros), "Got `1.weight`, an inference tensor. Build or load the"),
    )


@pytest.mark.parametrize("attack", GRADIENT_ATTACKS[1:], ids=lambda attack: type(attack).__name__)
def test_everything_is_restored_when_the_network_raises(attack, digits):
    passes = []

    def failing(network, images):
        passes.append(len(images))
        if len(passes) == 2:
            raise RuntimeError("out of memory, or some such thing")
        return network(images)

    network = Around(digits.network, failing).train()
    next(network.parameters()).requires_grad_(False)
    images = digits.images.clone()
    try:
        with torch.inference_mode():
            before = state_of(network), random_states()
            with pytest.raises(RuntimeError, match="some such thing"):
                attack.craft(network, images, digits.labels)
            assert (state_of(network), random_states()) == before
        assert torch.equal(images, digits.images)
    finally:
        digits.network.eval().requires_grad_(True)
