"""The network as attacks call it: a misfit is one sentence, not a traceback from inside another library."""

import torch
from torch import Tensor, nn

from lightning_gradood.errors import Refusal


class Logits:
    """Apply a network and refuse an output that cannot be attacked.

    Args:
        network: Pixels in [0, 1] in, logits [N, classes] out.
        labels: int64, classes that must be among the network's.
    """

    def __init__(self, network: nn.Module, labels: Tensor) -> None:
        self.network = network
        self.labels: Tensor | None = labels

    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits [N, classes] of `images`, with a graph to these if they require gradients.

        Raises:
            Refusal: The output is no such thing, or has fewer classes than the labels say.
        """
        logits: Tensor = self.network(images)
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images) or logits.shape[1] < 2:
            got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise Refusal(
                f"the network's output should be logits [N, classes] with N = {len(images)} here and two classes or more. "
                f"Got `output = {got}`. Wrap the network so that forward(images) returns its logits alone."
            )
        if torch.is_grad_enabled() and images.requires_grad and not logits.requires_grad:
            raise Refusal(
                "the network's output should depend on its input through autograd, as the attack follows that gradient. "
                f"Got `network = {type(self.network).__name__}` without one. Remove torch.no_grad, detach, .data or argmax "
                "from its forward, or choose an attack that needs no gradient, such as Semantic."
            )
        self._check_labels(logits.shape[1])
        return logits

    def classes(self, images: Tensor) -> int:
        """Count the network's classes by the logits of a single image."""
        with torch.no_grad():
            return self(images[:1]).shape[1]

    def _check_labels(self, classes: int) -> None:
        if self.labels is None:  # seen before: looking again would wait for the device at every step
            return
        if len(self.labels) and (largest := int(self.labels.max())) >= classes:
            raise Refusal(
                f"`labels` should be below the network's number of classes, {classes}. Got `labels.max() = {largest}`. "
                "Give -1 for images whose class the network does not know."
            )
        self.labels = None
