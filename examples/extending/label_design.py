"""A label design of your own: all classes but the predicted one, each equally likely."""

import torch
from torch import Tensor

from lightning_gradood.gradients import LabelDesign


class AnythingElse(LabelDesign):
    """Softmax cross entropy with the label 1 / (C - 1) everywhere but at the predicted class."""

    @property
    def name(self) -> str:
        """The column is `gradients/anything_else`."""
        return "anything_else"

    def logit_gradient(self, logits: Tensor) -> Tensor:
        """Softmax minus label, [N, C]; each row is of one image alone."""
        label = torch.full_like(logits, 1 / (logits.shape[1] - 1))
        label.scatter_(1, logits.argmax(1, keepdim=True), 0.0)
        return torch.softmax(logits, 1) - label
