"""The logits as a probe: what softmax scores and energies are made of."""

import torch
from torch import Tensor, nn

from lightning_gradood.errors import Refusal
from lightning_gradood.gradients import exact_arithmetic, probing
from lightning_gradood.probes.probe import Probe


class LogitsProbe(Probe):
    """The network's logits in evaluation mode."""

    @property
    def name(self) -> str:
        """`logits`."""
        return "logits"

    def names(self, network: nn.Module) -> list[str]:
        """Empty: the classes are counted by the first reading."""
        return []

    def __call__(self, network: nn.Module, images: Tensor) -> Tensor:
        """Logits [N, classes] in the network's dtype.

        Raises:
            Refusal: if a logit is not finite.
        """
        with exact_arithmetic(), probing(network), torch.no_grad():
            logits: Tensor = network(images)
        refuse_broken_logits(logits)
        return logits


def refuse_broken_logits(logits: Tensor) -> None:
    """Refuse logits [N, classes] that are not finite, with their number."""
    broken = int((~torch.isfinite(logits)).any(dim=1).sum())
    if broken:
        raise Refusal(
            f"The network's logits should be finite. Got NaN or infinity for {broken} of {len(logits)} images. "
            "Check the weights and that pixels lie in [0, 1]."
        )
