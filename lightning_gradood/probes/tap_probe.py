"""Probes that need nothing but a forward pass: its logits and what the network's taps give in it."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_gradood.errors import Refusal
from lightning_gradood.gradients import exact_arithmetic, probing
from lightning_gradood.probes.logits import refuse_broken_logits
from lightning_gradood.probes.probe import Probe
from lightning_gradood.probes.taps import tapped


class TapProbe(Probe):
    """Computes its values from logits and taps; `read_together` runs one forward pass for all of this kind."""

    @abstractmethod
    def taps_of(self, network: nn.Module) -> list[str]:
        """The taps it needs, as `tapped` names them."""

    @abstractmethod
    def from_taps(self, network: nn.Module, logits: Tensor, taps: Sequence[Tensor]) -> Tensor:
        """Its values, [N, width].

        Args:
            network: pixels in, logits out, in evaluation mode and frozen.
            logits: the network's output, [N, classes].
            taps: for each of `taps_of(network)` the averages [N, C_i].
        """

    def __call__(self, network: nn.Module, images: Tensor) -> Tensor:
        """Run a forward pass in evaluation mode and read it, [N, width]."""
        return read_taps([self], network, images)[1][0]


def read_taps(probes: Sequence[TapProbe], network: nn.Module, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Read several tap probes in one forward pass.

    Args:
        probes: what to read.
        network: pixels in, logits out; left as it was found.
        images: pixels in [0, 1], [N, C, H, W].

    Returns:
        Logits [N, classes] and for each probe its values [N, width].

    Raises:
        Refusal: if a logit or a feature is not finite.
    """
    wanted = [probe.taps_of(network) for probe in probes]
    names = list(dict.fromkeys(name for part in wanted for name in part))
    with exact_arithmetic(), probing(network), torch.no_grad():
        logits, averages = tapped(network, images, names)
        refuse_broken_logits(logits)
        found = dict(zip(names, averages, strict=True))
        _refuse_broken_taps(found)
        values = [
            probe.from_taps(network, logits, [found[name] for name in part])
            for probe, part in zip(probes, wanted, strict=True)
        ]
    return logits, values


def _refuse_broken_taps(found: dict[str, Tensor]) -> None:
    for name, values in found.items():
        broken = int((~torch.isfinite(values)).any(dim=1).sum())
        if broken:
            raise Refusal(
                f"The network's features should be finite. Got NaN or infinity from {name!r} for {broken} of "
                f"{len(values)} images. Check the weights and that pixels lie in [0, 1]."
            )
