"""Gradient-sign attacks: FGSM, BIM, PGD and IterLL.

All take steps along the sign of the loss's gradient within a distance of each pixel. FGSM takes one; BIM takes small
ones; PGD starts at a random place; IterLL steps towards the class with the smallest logit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import Logits, check_count, check_distance, image_generator
from lightning_gradood.perturbations.advertorch_compatibility import advertorch
from lightning_gradood.perturbations.goals import Goal, TargetChoice, choose_targets
from lightning_gradood.perturbations.perturbation import Perturbation


@dataclass(frozen=True)
class Steps:
    """Number and size of the steps; pixels, `eps` and `step` are in [0, 1]."""

    eps: float  # largest change of a pixel
    step: float
    steps: int
    stop_at_success: bool = False  # an image stays as it is once its goal is achieved

    def __post_init__(self) -> None:
        check_distance("eps", self.eps)
        check_distance("step", self.step)
        check_count("steps", self.steps)
        advertorch()  # refused here, before anything is trained, where it cannot be imported

    def take(self, predict: Logits, images: Tensor, goal: Goal, start: Tensor | None = None) -> Tensor:
        """Step from `images`, or from `images + start`, as advertorch's `perturb_iterative`; [N, ...].

        The result, and so `start`, stays within [0, 1] and `eps` of `images`.
        """
        change = torch.zeros_like(images) if start is None else start
        rows = torch.arange(len(images), device=images.device)
        if not self.stop_at_success:
            return self._walk(self.steps, predict, images, rows, goal, change)
        crafted = images + change
        for _ in range(self.steps):
            moved = self._walk(1, predict, images[rows], rows, goal, change)
            going = ~goal.achieved  # by the logits before this step, so that looking costs no pass of its own
            rows, change = rows[going], change.detach()[going]
            crafted[rows] = moved[going]
            if len(rows) == 0:
                break
        return crafted

    def _walk(self, steps: int, predict: Logits, images: Tensor, rows: Tensor, goal: Goal, change: Tensor) -> Tensor:
        """Take `steps` steps; `change` is moved along in place."""
        walked = advertorch().walk(
            images,
            rows,  # advertorch hands them on to the loss
            predict,
            nb_iter=steps,
            eps=self.eps,
            eps_iter=self.step,
            loss_fn=goal.loss,
            delta_init=change,
            minimize=goal.targeted,
            clip_min=0.0,
            clip_max=1.0,
        )
        return walked.detach()


class FGSM(Perturbation):
    """Fast gradient sign method: x + ε · sign(∇ₓ cross entropy), clipped to [0, 1].

    Args:
        eps: Change of each pixel, in (0, 1].
        targeted: Class to step towards; None steps away from the label.
        seed: For `targeted = "random"`.

    Reference:
        Goodfellow et al. 2015, Explaining and Harnessing Adversarial Examples; advertorch's GradientSignAttack.
    """

    passes = 1

    def __init__(self, eps: float = 0.05, targeted: TargetChoice | None = None, seed: int = 0) -> None:
        check_distance("eps", eps)
        advertorch()
        self.eps = eps
        self.targeted = targeted
        self.seed = seed

    def _craft(
        self, network: nn.Module, images: Tensor, labels: Tensor, ids: Sequence[str]
    ) -> tuple[Tensor, Tensor | None]:
        predict = Logits(network, labels)
        targets = choose_targets(self.targeted, predict, images, labels, self.seed, ids)
        goal = Goal(labels if targets is None else targets, targeted=targets is not None)
        attack = advertorch().sign_step(predict, loss_fn=goal.loss, eps=self.eps, targeted=goal.targeted)
        return attack.perturb(images, torch.arange(len(images), device=images.device)), targets


class BIM(Perturbation):
    """Basic iterative method: `steps` steps along the sign of the gradient, from the clean image.

    Args:
        eps: Largest change of a pixel, in (0, 1].
        step: Change of a pixel at each step, in (0, 1].
        targeted: Class to step towards; None steps away from the label.
        stop_at_success: Whether an image stays as it is once it is misclassified, or its target reached. By definition
            all steps are taken; stopping gives other, less confident images in less time.
        seed: For `targeted = "random"`.

    Reference:
        Kurakin et al. 2017, Adversarial Examples in the Physical World; advertorch's LinfBasicIterativeAttack.
    """

    def __init__(
        self,
        eps: float = 0.05,
        step: float = 0.01,
        steps: int = 6,
        targeted: TargetChoice | None = None,
        stop_at_success: bool = False,
        seed: int = 0,
    ) -> None:
        self.eps = eps
        self.step = step
        self.steps = steps
        self.targeted = targeted
        self.stop_at_success = stop_at_success
        self.seed = seed
        self._steps = Steps(eps, step, steps, stop_at_success)

    @property
    @override
    def passes(self) -> int:
        return self.steps

    def _craft(
        self, network: nn.Module, images: Tensor, labels: Tensor, ids: Sequence[str]
    ) -> tuple[Tensor, Tensor | None]:
        predict = Logits(network, labels)
        targets = choose_targets(self.targeted, predict, images, labels, self.seed, ids)
        goal = Goal(labels if targets is None else targets, targeted=targets is not None)
        return self._steps.take(predict, images, goal), targets


class IterLL(Perturbation):
    """Iterative least-likely class method: BIM towards the class with the smallest logit of the clean image.

    Args:
        eps: Largest change of a pixel, in (0, 1].
        step: Change of a pixel at each step, in (0, 1].
        steps: 10 is Kurakin's min(ε + 4, 1.25 ε) for the default `eps`, in grey levels.
        stop_at_success: As in `BIM`, once the least likely class is reached.

    Reference:
        Kurakin et al. 2017, Adversarial Examples in the Physical World, section 2.3; advertorch's
        LinfBasicIterativeAttack, targeted.
    """

    def __init__(
        self, eps: float = 8 / 255, step: float = 1 / 255, steps: int = 10, stop_at_success: bool = False
    ) -> None:
        self.eps = eps
        self.step = step
        self.steps = steps
        self.stop_at_success = stop_at_success
        self._steps = Steps(eps, step, steps, stop_at_success)

    @property
    @override
    def passes(self) -> int:
        return self.steps  # the first step's logits are those of the clean image and name its target

    def _craft(
        self, network: nn.Module, images: Tensor, labels: Tensor, ids: Sequence[str]
    ) -> tuple[Tensor, Tensor | None]:
        goal = Goal(None, targeted=True)
        return self._steps.take(Logits(network, labels), images, goal), goal.classes


class PGD(Perturbation):
    """Projected gradient descent in the L∞ cube, from a start drawn for each image by `seed` and its id.

    Args:
        eps: Largest change of a pixel, in (0, 1].
        step: Change of a pixel at each step, in (0, 1].
        random_start: Whether to start from a uniformly drawn place in the cube, clipped to [0, 1].
        targeted: Class to step towards; None steps away from the label.
        stop_at_success: As in `BIM`.
        seed: For the start and for `targeted = "random"`.

    Reference:
        Madry et al. 2018, Towards Deep Learning Models Resistant to Adversarial Attacks; advertorch's LinfPGDAttack.

    Example:
        >>> PGD(eps=8 / 255, step=2 / 255, steps=40).passes
        40
    """

    def __init__(
        self,
        eps: float = 0.05,
        step: float = 0.01,
        steps: int = 10,
        random_start: bool = True,
        targeted: TargetChoice | None = None,
        stop_at_success: bool = False,
        seed: int = 0,
    ) -> None:
        self.eps = eps
        self.step = step
        self.steps = steps
        self.random_start = random_start
        self.targeted = targeted
        self.stop_at_success = stop_at_success
        self.seed = seed
        self._steps = Steps(eps, step, steps, stop_at_success)

    @property
    @override
    def passes(self) -> int:
        return self.steps

    def _craft(
        self, network: nn.Module, images: Tensor, labels: Tensor, ids: Sequence[str]
    ) -> tuple[Tensor, Tensor | None]:
        predict = Logits(network, labels)
        targets = choose_targets(self.targeted, predict, images, labels, self.seed, ids)
        goal = Goal(labels if targets is None else targets, targeted=targets is not None)
        return self._steps.take(predict, images, goal, self._start(images, ids)), targets

    def _start(self, images: Tensor, ids: Sequence[str]) -> Tensor | None:
        if not self.random_start:
            return None
        # in float64 whatever the images are in, so that both start from the same place
        drawn = [
            torch.rand(images.shape[1:], generator=image_generator(self.seed, name), dtype=torch.float64)
            for name in ids
        ]
        change = self._steps.eps * (2 * torch.stack(drawn) - 1).to(images)
        return (images + change).clamp(0, 1) - images
