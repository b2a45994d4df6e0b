"""Targets are the classes that were asked for and are reached; no attack takes more passes than it says."""

import torch

from lightning_gradood.perturbations import BIM, FGSM, PGD, AdvertorchAttack, CarliniWagner, IterLL

from .conftest import MOMENTUM


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


def test_attacks_cost_what_their_definitions_say(digits):
    rising = CarliniWagner(learning_rate=10.0, steps=20, searches=2)  # a loss that rises would abort advertorch's own
    for attack, passes in (
        (FGSM(), 1), (BIM(), 6), (PGD(), 10), (IterLL(), 11), (rising, 40), (BIM(targeted="least_likely"), 7),
        (BIM(targeted="next"), 6),
    ):  # fmt: skip
        seen = []
        hook = digits.network.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(len(args[0])))
        attack.craft(*digits)
        hook.remove()
        assert [images for images in seen if images > 1] == [100] * passes, attack
        assert sum(seen) <= 100 * passes + 1  # a single image tells the number of classes
