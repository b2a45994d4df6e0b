"""PGD: BIM from a random place in the cube around the image."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_gradood.attacks.attack import Attack
from lightning_gradood.attacks.goals import Goal, TargetChoice, choose_targets
from lightning_gradood.attacks.logits import Logits
from lightning_gradood.attacks.randomness import image_generator
from lightning_gradood.attacks.steps import Steps
from lightning_gradood.gradients import sent


class PGD(Attack):
    """Projected gradient descent in the L∞ cube, from a start drawn for each image by `seed` and its id.

    Args:
        eps: Largest change of a pixel, of [0, 1].
        step: Change of a pixel at each step, of [0, 1].
        steps: Number of steps.
        random_start: Whether to start from a uniformly drawn place in the cube, clipped to [0, 1].
        targeted: Class to step towards; None steps away from the label.
        stop_at_success: Whether an image stays as it is once it is misclassified, or its target reached. By definition
            all steps are taken; stopping gives other, less confident images in less time.
        seed: For the start and for `targeted = "random"`.

    Raises:
        Refusal: `eps` or `step` is no float in (0, 1], or `steps` no positive integer.

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
    def passes(self) -> int:
        """One each step."""
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
        drawn = [
            torch.rand(images.shape[1:], generator=image_generator(self.seed, name), dtype=torch.float64)
            for name in ids
        ]  # in float64 whatever the images are in, so that both start from the same place
        change = self._steps.eps * sent(2 * torch.stack(drawn) - 1, images)
        return (images + change).clamp(0, 1) - images
