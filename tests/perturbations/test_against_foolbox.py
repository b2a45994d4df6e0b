"""foolbox is the judge of the gradient attacks: equal pixels for steps of signs, equal success and size for C&W."""

import copy
import warnings

import pytest
import torch

from lightning_gradood.perturbations import BIM, FGSM, PGD, CarliniWagner, IterLL

from .conftest import Digits

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # foolbox 3.3.4 imports a name that SciPy has moved
    import foolbox
    from foolbox.criteria import Misclassification, TargetedMisclassification


def steps(size, number, kind=foolbox.attacks.LinfBasicIterativeAttack):
    return kind(abs_stepsize=size, steps=number, random_start=False)


PROJECTED = steps(2 / 255, 20, foolbox.attacks.LinfProjectedGradientDescentAttack)
STEPS = {
    "fgsm": (FGSM(eps=0.05), foolbox.attacks.LinfFastGradientAttack(), "leave"),
    "bim": (BIM(eps=0.05, step=0.01, steps=6), steps(0.01, 6), "leave"),
    "pgd": (PGD(eps=8 / 255, step=2 / 255, steps=20, random_start=False), PROJECTED, "leave"),
    "iterll": (IterLL(), steps(1 / 255, 10), "least likely"),
    "fgsm, targeted": (FGSM(targeted="next"), steps(0.05, 1), "next"),
    "bim, targeted": (BIM(targeted="next"), steps(0.01, 6), "next"),
}


def judged(network, images, labels, attack, goal, eps):
    """What foolbox makes of the images."""
    frozen = copy.deepcopy(network).requires_grad_(False)  # foolbox would leave gradients in the parameters
    model = foolbox.PyTorchModel(frozen, bounds=(0, 1))
    logits = frozen(images)
    criterion = {
        "leave": Misclassification(labels),
        "least likely": TargetedMisclassification(logits.argmin(1)),
        "next": TargetedMisclassification((labels + 1) % logits.shape[1]),
    }[goal]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # foolbox's own
        return attack.run(model, images, criterion, **({} if eps is None else {"epsilon": eps})).detach()


@pytest.mark.parametrize("name", STEPS)
def test_signed_steps_are_equal(name, digits):
    ours, theirs, goal = STEPS[name]
    double = digits.double()
    for given in (digits, Digits(double.network, double.images[:50], double.labels[:50])):
        expected = judged(given.network, given.images, given.labels, theirs, goal, ours.eps)
        found = ours.craft(given.network, given.images, given.labels)
        assert float((found.images - given.images).abs().max()) > 0.9 * ours.eps
        equal = ((found.images - expected).abs() <= 1e-6).flatten(1).all(1)
        # float32 may round a gradient near zero to either sign, and the image goes another way from there on
        assert int((~equal).sum()) <= (2 if given is digits else 0)


@pytest.mark.parametrize(("searches", "confidence"), [(1, 0.0), (3, 0.0), (1, 2.0)])
def test_carlini_wagner_succeeds_as_often_and_as_near(searches, confidence, digits):
    network, images, labels = digits.network, digits.images, digits.labels
    ours = CarliniWagner(searches=searches, confidence=confidence, c=0.05, steps=50)
    settings = {"steps": 50, "stepsize": 0.01, "initial_const": 0.05, "abort_early": False}
    theirs = foolbox.attacks.L2CarliniWagnerAttack(searches, confidence=confidence, **settings)
    expected = judged(network, images, labels, theirs, "leave", None)
    failed = expected.flatten(1).abs().sum(1) == 0  # foolbox returns black images then, and ours the clean ones
    found = ours.perturb(network, images, labels)
    changed = (found.images != images).flatten(1).any(1)
    assert torch.equal(changed, ~failed)
    assert bool(found.success[changed].all())
    both = changed & (network(images).argmax(1) == labels)
    assert int(both.sum()) > 20
    distance = (expected - images).double().flatten(1).norm(dim=1)[both].mean()
    assert float(found.l2[both].mean()) == pytest.approx(float(distance), rel=0.01)
