"""FGSM: one step along the sign of the gradient."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_gradood.attacks.attack import Attack
from lightning_gradood.attacks.compatibility import GradientSignAttack
from lightning_gradood.attacks.goals import Goal, TargetChoice, choose_targets
from lightning_gradood.attacks.logits import Logits
from lightning_gradood.attacks.settings import check_distance


class FGSM(Attack):
    """Fast gradient sign method: x + ε · sign(∇ₓ cross entropy), clipped to [0, 1].

    Args:
        eps: Change of each pixel, of [0, 1].
        targeted: Class to step towards; None steps away from the label.
        seed: For `targeted = "random"`.

    Raises:
        Refusal: `eps` is no float in (0, 1].

    Reference:
        Goodfellow et al. 2015, Explaining and Harnessing Adversarial Examples; advertorch's GradientSignAttack.

    Example:
        >>> FGSM(eps=8 / 255).passes
        1
    """

    def __init__(self, eps: float = 0.05, targeted: TargetChoice | None = None, seed: int = 0) -> None:
        check_distance("eps", eps)
        self.eps = eps
        self.targeted = targeted
        self.seed = seed

    @property
    def passes(self) -> int:
        """One."""
        return 1

    def _craft(
        self, network: nn.Module, images: Tensor, labels: Tensor, ids: Sequence[str]
    ) -> tuple[Tensor, Tensor | None]:
        predict = Logits(network, labels)
        targets = choose_targets(self.targeted, predict, images, labels, self.seed, ids)
        goal = Goal(labels if targets is None else targets, targeted=targets is not None)
        attack = GradientSignAttack(predict, loss_fn=goal.loss, eps=self.eps, targeted=goal.targeted)
        return attack.perturb(images, torch.arange(len(images), device=images.device)), targets
