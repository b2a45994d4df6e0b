"""The class that an attack drives an image away from, or towards."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_gradood.core import Logits, image_generator

TargetChoice = Literal["least_likely", "next", "random"]
"""The class to reach: of the smallest logit when clean, the label's successor, or any other, drawn for each image."""


def choose_targets(
    choice: TargetChoice | None, predict: Logits, images: Tensor, labels: Tensor, seed: int, ids: Sequence[str]
) -> Tensor | None:
    """Choose the class that each image is driven to, int64 [N], or None without a choice.

    "next" and "random" never give the label itself; `seed` and an image's id decide "random".
    """
    if choice is None:
        return None
    if choice == "least_likely":
        with torch.no_grad():
            return predict(images).argmin(1)
    classes = predict.classes(images)
    if choice == "next":
        return (labels + 1) % classes
    steps = [int(torch.randint(1, classes, (), generator=image_generator(seed, f"{name}/target"))) for name in ids]
    return (labels + torch.tensor(steps, device=labels.device)) % classes


class Goal:
    """Classes to leave or, if `targeted`, to reach, int64 [N], as a loss of the logits; keeps which images achieved it.

    If `classes` is None they are the least likely ones by the first logits seen, which must be those of the full batch
    of clean images: that spares a forward pass.
    """

    def __init__(self, classes: Tensor | None, targeted: bool) -> None:
        self.classes = classes
        self.targeted = targeted
        self.achieved = torch.empty(0, dtype=torch.bool)
        """Bool [n], whether each image of the logits seen last is where it should be."""

    def loss(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Cross entropy of images with these `rows` in the full batch; a sum, so that images do not share it."""
        if self.classes is None:
            self.classes = logits.detach().argmin(1)
        classes = self.classes[rows]
        self.achieved = (logits.detach().argmax(1) == classes) == self.targeted
        return F.cross_entropy(logits, classes, reduction="sum")
