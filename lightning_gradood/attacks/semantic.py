"""Semantic: the negative of an image, which people recognise and networks often do not."""

from collections.abc import Sequence

from torch import Tensor, nn

from lightning_gradood.core import Perturbation


class Semantic(Perturbation):
    """Negative images, 1 − x; there is nothing to set, and the network is not asked.

    Reference:
        Hosseini and Poovendran 2018, Semantic Adversarial Examples.

    Example:
        >>> Semantic().passes
        0
    """

    @property
    def passes(self) -> int:
        """None."""
        return 0

    def _craft(
        self, network: nn.Module, images: Tensor, labels: Tensor, ids: Sequence[str]
    ) -> tuple[Tensor, Tensor | None]:
        return 1 - images, None
