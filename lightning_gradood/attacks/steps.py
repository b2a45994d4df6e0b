"""Steps along the sign of the gradient inside a cube around each image, which BIM, PGD and IterLL share."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_gradood.attacks.compatibility import perturb_iterative
from lightning_gradood.attacks.goals import Goal
from lightning_gradood.attacks.logits import Logits
from lightning_gradood.attacks.settings import check_count, check_distance


@dataclass(frozen=True)
class Steps:
    """How far and how often.

    Args:
        eps: Largest change of a pixel, of [0, 1].
        step: Change of a pixel at each step, of [0, 1].
        steps: Number of steps.
        stop_at_success: Whether an image stays as it is once its goal is achieved.
    """

    eps: float
    step: float
    steps: int
    stop_at_success: bool = False

    def __post_init__(self) -> None:
        check_distance("eps", self.eps)
        check_distance("step", self.step)
        check_count("steps", self.steps)

    def take(self, predict: Logits, images: Tensor, goal: Goal, start: Tensor | None = None) -> Tensor:
        """Walk from `images`, or from `images + start`.

        Args:
            predict: The network.
            images: [N, ...], clean.
            goal: Which classes to leave or reach.
            start: [N, ...], a first change inside `eps` and [0, 1]; none if not given.

        Returns:
            [N, ...], within [0, 1] and `eps` of `images`.

        Reference:
            advertorch's `perturb_iterative`.
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
        walked: Tensor = perturb_iterative(
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
