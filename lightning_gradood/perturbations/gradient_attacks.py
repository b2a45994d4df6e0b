"""Attacks that follow the loss's gradient by the pixels, advertorch doing their steps; negative images; and presets.

Pixels, and so `eps` and `step`, are in [0, 1].
"""

from abc import ABC
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_gradood.core import FiniteNonNegative, FinitePositive, PositiveInt, Refusal, image_generator
from lightning_gradood.perturbations.advertorch_parts import advertorch, carlini_wagner
from lightning_gradood.perturbations.perturbation import Logits, Made, Perturbation

TargetChoice = Literal["least_likely", "next", "random"]
"""The class to reach: of the smallest logit when clean, the label's successor, or any other, drawn for each image."""


@dataclass(frozen=True)
class Goal:
    """Classes to leave or, if `targeted`, to reach, int64 [N], as a loss of the logits."""

    classes: Tensor
    targeted: bool

    def loss(self, logits: Tensor, _: Tensor) -> Tensor:
        """Cross entropy, a sum, so that images do not share it; the labels that advertorch hands on are not needed."""
        return F.cross_entropy(logits, self.classes, reduction="sum")


def choose_goal(
    choice: TargetChoice | None, predict: Logits, images: Tensor, labels: Tensor, seed: int, ids: Sequence[str]
) -> Goal:
    """Leave the label, or reach the chosen class; `seed` and an image's id decide "random"."""
    if choice is None:
        return Goal(labels, targeted=False)
    if choice == "least_likely":
        with torch.no_grad():
            return Goal(predict(images).argmin(1), targeted=True)
    classes, steps = predict.classes(images), torch.tensor(1)
    if choice == "random":
        streams = [image_generator(seed, f"{name}/target") for name in ids]
        steps = torch.stack([torch.randint(1, classes, (), generator=stream) for stream in streams])
    return Goal((labels + steps.to(labels.device)) % classes, targeted=True)


class _Attack(Perturbation, ABC):
    """A gradient attack, targeted or not; a subclass writes `_move`."""

    targeted: TargetChoice | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.eps is not None and not 0 < self.eps <= 1:
            raise Refusal(
                f"`eps` should be above 0 and at most 1, as pixels are in [0, 1]. Got `eps = {self.eps!r}`. "
                f"If 8 of 255 grey levels are meant, write {8 / 255:.6f}."
            )
        advertorch()  # refused here, before anything is trained, where it cannot be imported

    def _craft(self, network: nn.Module, images: Tensor, labels: Tensor, ids: Sequence[str]) -> Made:
        predict = Logits(network)
        goal = choose_goal(self.targeted, predict, images, labels, self.seed, ids)
        return self._move(predict, images, goal, ids), goal.classes if goal.targeted else None

    def _move(self, predict: Logits, images: Tensor, goal: Goal, ids: Sequence[str]) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class FGSM(_Attack):
    """Fast gradient sign method: x + ε · sign(∇ₓ cross entropy), clipped to [0, 1].

    Args:
        eps: Change of each pixel, in (0, 1].
        targeted: Class to step towards; None steps away from the label.
        seed: For `targeted = "random"`.

    Reference:
        Goodfellow et al. 2015, Explaining and Harnessing Adversarial Examples; advertorch's GradientSignAttack.
    """

    eps: FinitePositive = 0.05
    targeted: TargetChoice | None = None
    seed: int = 0

    def _move(self, predict: Logits, images: Tensor, goal: Goal, ids: Sequence[str]) -> Tensor:
        attack = advertorch().GradientSignAttack(predict, loss_fn=goal.loss, eps=self.eps, targeted=goal.targeted)
        moved: Tensor = attack.perturb(images, torch.arange(len(images)))
        return moved


class _SignSteps(_Attack):
    """Steps along the sign of the gradient within `eps` of the clean image, from it or from a place near it."""

    eps: float
    step: float
    steps: int

    def _start(self, images: Tensor, ids: Sequence[str]) -> Tensor:
        return torch.zeros_like(images)  # the change to start from

    def _move(self, predict: Logits, images: Tensor, goal: Goal, ids: Sequence[str]) -> Tensor:
        size = {"nb_iter": self.steps, "eps": self.eps, "eps_iter": self.step, "clip_min": 0.0, "clip_max": 1.0}
        aim = {"loss_fn": goal.loss, "delta_init": self._start(images, ids), "minimize": goal.targeted}
        walk = advertorch().iterative_projected_gradient.perturb_iterative
        moved: Tensor = walk(images, images, predict, **size, **aim).detach()
        return moved


@dataclass(frozen=True)
class BIM(_SignSteps):
    """Basic iterative method: `steps` steps along the sign of the gradient, from the clean image.

    Args:
        eps: Largest change of a pixel, in (0, 1].
        step: Change of a pixel at each step.
        targeted: Class to step towards; None steps away from the label.
        seed: For `targeted = "random"`.

    Reference:
        Kurakin et al. 2017, Adversarial Examples in the Physical World; advertorch's LinfBasicIterativeAttack.
    """

    eps: FinitePositive = 0.05
    step: FinitePositive = 0.01
    steps: PositiveInt = 6
    targeted: TargetChoice | None = None
    seed: int = 0


@dataclass(frozen=True)
class IterLL(_SignSteps):
    """Iterative least-likely class method: BIM towards the class with the smallest logit of the clean image.

    Args:
        eps: Largest change of a pixel, in (0, 1].
        step: Change of a pixel at each step.
        steps: 10 is Kurakin's min(ε + 4, 1.25 ε) for the default `eps`, in grey levels.

    Reference:
        Kurakin et al. 2017, section 2.3; advertorch's LinfBasicIterativeAttack, targeted.
    """

    eps: FinitePositive = 8 / 255
    step: FinitePositive = 1 / 255
    steps: PositiveInt = 10
    targeted: ClassVar[TargetChoice] = "least_likely"  # type: ignore[misc]  # no setting of its own


@dataclass(frozen=True)
class PGD(_SignSteps):
    """Projected gradient descent in the L∞ cube, from a start drawn for each image by `seed` and its id.

    Args:
        eps: Largest change of a pixel, in (0, 1].
        step: Change of a pixel at each step.
        random_start: Whether to start from a uniformly drawn place in the cube, clipped to [0, 1].
        targeted: Class to step towards; None steps away from the label.
        seed: For the start and for `targeted = "random"`.

    Reference:
        Madry et al. 2018, Towards Deep Learning Models Resistant to Adversarial Attacks; advertorch's LinfPGDAttack.
    """

    eps: FinitePositive = 0.05
    step: FinitePositive = 0.01
    steps: PositiveInt = 10
    random_start: bool = True
    targeted: TargetChoice | None = None
    seed: int = 0

    def _start(self, images: Tensor, ids: Sequence[str]) -> Tensor:
        if not self.random_start:
            return super()._start(images, ids)
        # in float64 whatever the images are in, so that both start from the same place
        streams = [image_generator(self.seed, name) for name in ids]
        drawn = [torch.rand(images.shape[1:], generator=stream, dtype=torch.float64) for stream in streams]
        change = self.eps * (2 * torch.stack(drawn) - 1).to(images)
        return (images + change).clamp(0, 1) - images


@dataclass(frozen=True)
class CarliniWagner(_Attack):
    """Carlini and Wagner's L2 attack: Adam on ‖x' − x‖² + c · max(margin + κ, 0); the smallest success of all steps.

    An image that no step changes far enough is returned as it was. Advertorch's early abort is off: it looks at the
    batch's summed loss.

    Args:
        confidence: κ, at least 0, the margin between logits that an adversarial image must have.
        c: Weight of the margin against the distance, above 0, in the first search.
        learning_rate: Adam's, above 0.
        steps: Optimisation steps in each search.
        searches: Searches for the best c, by bisection for each image; 1 keeps it as it is.
        targeted: Class to move towards; None moves away from the label.
        seed: For `targeted = "random"`.

    Reference:
        Carlini and Wagner 2017, Towards Evaluating the Robustness of Neural Networks; advertorch's attack.
    """

    confidence: FiniteNonNegative = 0.0
    c: FinitePositive = 1.0
    learning_rate: FinitePositive = 0.01
    steps: PositiveInt = 100
    searches: PositiveInt = 1
    targeted: TargetChoice | None = None
    seed: int = 0

    def _move(self, predict: Logits, images: Tensor, goal: Goal, ids: Sequence[str]) -> Tensor:
        attack = carlini_wagner()(
            predict,
            predict.classes(images),
            confidence=self.confidence,
            targeted=goal.targeted,
            learning_rate=self.learning_rate,
            binary_search_steps=self.searches,
            max_iterations=self.steps,
            abort_early=False,
            initial_const=self.c,
        )
        crafted: Tensor = attack.perturb(images, goal.classes)
        return crafted


@dataclass(frozen=True)
class Semantic(Perturbation):
    """Negative images, 1 − x; there is nothing to set, and the network is not run.

    Reference:
        Hosseini and Poovendran 2018, Semantic Adversarial Examples.
    """

    def _craft(self, network: nn.Module, images: Tensor, labels: Tensor, ids: Sequence[str]) -> Made:
        return 1 - images, None


def preset(name: str) -> dict[str, Perturbation]:
    """Make the attacks of a named set, by their short names: fgsm, bim, pgd, cw, iterll, semantic.

    "paper" is deep_Mahalanobis, the code of Lee et al. 2018, whose settings the paper most probably used; "modern" are
    those of today's robustness papers, ε = 8/255; "pilot" those of this package's first check, with `fgsm_05` besides.
    """
    return _PRESETS[name]()


_PRESETS: dict[str, Callable[[], dict[str, Perturbation]]] = {
    "paper": lambda: {
        "fgsm": FGSM(eps=0.05),
        "bim": BIM(eps=0.05, step=0.01, steps=6),
        "pgd": PGD(eps=0.05, step=0.01, steps=10),
        "cw": CarliniWagner(c=1.0, learning_rate=0.01, steps=100, searches=1),
        "iterll": IterLL(eps=8 / 255, step=1 / 255, steps=10),
        "semantic": Semantic(),
    },
    "modern": lambda: {
        "fgsm": FGSM(eps=8 / 255),
        "bim": BIM(eps=8 / 255, step=2 / 255, steps=10),
        "pgd": PGD(eps=8 / 255, step=2 / 255, steps=40),
        "cw": CarliniWagner(c=1.0, learning_rate=0.01, steps=100, searches=5),
        "iterll": IterLL(eps=8 / 255, step=1 / 255, steps=10),
        "semantic": Semantic(),
    },
    "pilot": lambda: {
        "fgsm": FGSM(eps=8 / 255),
        "fgsm_05": FGSM(eps=0.05),
        "bim": BIM(eps=0.05, step=0.01, steps=6),
        "pgd": PGD(eps=8 / 255, step=2 / 255, steps=20),
        "cw": CarliniWagner(c=1.0, learning_rate=0.01, steps=100, searches=1),
        "iterll": IterLL(eps=8 / 255, step=1 / 255, steps=12),
        "semantic": Semantic(),
    },
}
