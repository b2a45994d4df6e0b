"""Learning-rate schedules that learn the number of steps from the trainer.

A schedule is any class whose first two parameters are the optimizer and the total number of optimizer steps; it is
advanced after every step.
"""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR


class OneCycle(OneCycleLR):
    """Rise to the optimizer's learning rate and anneal to zero.

    Args:
        optimizer: whose `lr` is the peak.
        total_steps: optimizer steps of the whole training, given by the task.
        warmup: fraction of the steps spent rising.

    Reference:
        Smith and Topin 2018, "Super-Convergence".
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, warmup: float = 0.3) -> None:
        peaks = [group["lr"] for group in optimizer.param_groups]
        super().__init__(optimizer, max_lr=peaks, total_steps=total_steps, pct_start=warmup)


class Cosine(CosineAnnealingLR):
    """Anneal the learning rate to zero along half a cosine.

    Args:
        optimizer: whose `lr` is the start.
        total_steps: optimizer steps of the whole training, given by the task.

    Reference:
        Loshchilov and Hutter 2017, Eq. 5 without restarts.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int) -> None:
        super().__init__(optimizer, T_max=total_steps)
