"""BIM: FGSM in small steps, each clipped to the cube around the image."""

from collections.abc import Sequence

from torch import Tensor, nn

from lightning_gradood.attacks.attack import Attack
from lightning_gradood.attacks.goals import Goal, TargetChoice, choose_targets
from lightning_gradood.attacks.logits import Logits
from lightning_gradood.attacks.steps import Steps


class BIM(Attack):
    """Basic iterative method: `steps` steps along the sign of the gradient, from the clean image.

    Args:
        eps: Largest change of a pixel, of [0, 1].
        step: Change of a pixel at each step, of [0, 1].
        steps: Number of steps.
        targeted: Class to step towards; None steps away from the label.
        stop_at_success: Whether an image stays as it is once it is misclassified, or its target reached. By definition
            all steps are taken; stopping gives other, less confident images in less time.
        seed: For `targeted = "random"`.

    Raises:
        Refusal: `eps` or `step` is no float in (0, 1], or `steps` no positive integer.

    Reference:
        Kurakin et al. 2017, Adversarial Examples in the Physical World; advertorch's LinfBasicIterativeAttack.

    Example:
        >>> BIM(eps=8 / 255, step=2 / 255, steps=10).passes
        10
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
    def passes(self) -> int:
        """One each step."""
        return self.steps

    def _craft(
        self, network: nn.Module, images: Tensor, labels: Tensor, ids: Sequence[str]
    ) -> tuple[Tensor, Tensor | None]:
        predict = Logits(network, labels)
        targets = choose_targets(self.targeted, predict, images, labels, self.seed, ids)
        goal = Goal(labels if targets is None else targets, targeted=targets is not None)
        return self._steps.take(predict, images, goal), targets
