"""IterLL: small steps towards the class that the network finds least likely."""

from collections.abc import Sequence

from torch import Tensor, nn

from lightning_gradood.attacks.attack import Attack
from lightning_gradood.attacks.goals import Goal
from lightning_gradood.attacks.logits import Logits
from lightning_gradood.attacks.steps import Steps


class IterLL(Attack):
    """Iterative least-likely class method: BIM towards the class with the smallest logit of the clean image.

    Args:
        eps: Largest change of a pixel, of [0, 1].
        step: Change of a pixel at each step, of [0, 1].
        steps: Number of steps; 10 is Kurakin's min(ε + 4, 1.25 ε) for the default `eps`, in grey levels.
        stop_at_success: Whether an image stays as it is once the least likely class is reached. By definition all steps
            are taken.

    Raises:
        Refusal: `eps` or `step` is no float in (0, 1], or `steps` no positive integer.

    Reference:
        Kurakin et al. 2017, Adversarial Examples in the Physical World, section 2.3; advertorch's
        LinfBasicIterativeAttack, targeted.

    Example:
        >>> IterLL().passes
        10
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
    def passes(self) -> int:
        """One each step: the first step's logits are those of the clean image and name its target."""
        return self.steps

    def _craft(
        self, network: nn.Module, images: Tensor, labels: Tensor, ids: Sequence[str]
    ) -> tuple[Tensor, Tensor | None]:
        goal = Goal(None, targeted=True)
        return self._steps.take(Logits(network, labels), images, goal), goal.classes
