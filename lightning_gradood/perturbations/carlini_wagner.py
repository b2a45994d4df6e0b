"""C&W: the smallest change in L2 that an optimiser finds."""

from collections.abc import Sequence

from torch import Tensor, nn
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import Logits, check_above_zero, check_at_least, check_count
from lightning_gradood.perturbations.advertorch_compatibility import advertorch
from lightning_gradood.perturbations.goals import TargetChoice, choose_targets
from lightning_gradood.perturbations.perturbation import Perturbation


class CarliniWagner(Perturbation):
    """Carlini and Wagner's L2 attack: Adam on ‖x' − x‖² + c · max(margin + κ, 0); the smallest success of all steps.

    An image that no step changes far enough is returned as it was. Images do not influence each other: advertorch's
    early abort, which looks at the batch's summed loss, is off.

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

    Example:
        >>> CarliniWagner(searches=5, steps=100).passes
        500
    """

    def __init__(
        self,
        confidence: float = 0.0,
        c: float = 1.0,
        learning_rate: float = 0.01,
        steps: int = 100,
        searches: int = 1,
        targeted: TargetChoice | None = None,
        seed: int = 0,
    ) -> None:
        check_at_least("confidence", confidence, 0.0, example=0.0)
        check_above_zero("c", c, example=1.0)
        check_above_zero("learning_rate", learning_rate, example=0.01)
        check_count("steps", steps)
        check_count("searches", searches)
        advertorch()
        self.confidence = confidence
        self.c = c
        self.learning_rate = learning_rate
        self.steps = steps
        self.searches = searches
        self.targeted = targeted
        self.seed = seed

    @property
    @override
    def passes(self) -> int:
        return self.searches * self.steps

    def _craft(
        self, network: nn.Module, images: Tensor, labels: Tensor, ids: Sequence[str]
    ) -> tuple[Tensor, Tensor | None]:
        predict = Logits(network, labels)
        targets = choose_targets(self.targeted, predict, images, labels, self.seed, ids)
        attack = advertorch().carlini_wagner(
            predict,
            predict.classes(images),
            confidence=self.confidence,
            targeted=targets is not None,
            learning_rate=self.learning_rate,
            binary_search_steps=self.searches,
            max_iterations=self.steps,
            abort_early=False,
            initial_const=self.c,
        )
        crafted: Tensor = attack.perturb(images, labels if targets is None else targets)
        return crafted, targets
