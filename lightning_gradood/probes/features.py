"""Features as probes: what the network's layers give, averaged over the image."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_gradood.errors import Refusal
from lightning_gradood.probes.tap_probe import TapProbe
from lightning_gradood.probes.taps import PENULTIMATE, tap_names


class FeatureProbe(TapProbe):
    """Spatial averages of the network's taps, side by side.

    Args:
        taps: modules of the network, as in `network.named_modules()`, or `penultimate`; by default those of `tap_names`.

    Raises:
        Refusal: if `taps` is empty or names one twice.

    Reference:
        deep_Mahalanobis (Lee et al. 2018), `lib_generation.py`.
    """

    def __init__(self, taps: list[str] | None = None) -> None:
        if taps is not None and (not taps or len(set(taps)) < len(taps)):
            raise Refusal(
                f"`taps` should name different modules, at least one. Got `taps = {taps}`. Leave it out for the usual ones."
            )
        self.taps = taps
        self._widths: dict[str, int] = {}

    @property
    def name(self) -> str:
        """`features/taps`, or `features/` and the taps that the user named, joined by `+`."""
        return "features/" + ("taps" if self.taps is None else "+".join(self.taps))

    def names(self, network: nn.Module) -> list[str]:
        """`<tap>.<channel>` for each column of the last reading; empty before the first, as only a pass counts channels."""
        return [f"{tap}.{channel}" for tap, width in self._widths.items() for channel in range(width)]

    def taps_of(self, network: nn.Module) -> list[str]:
        """Those the user named, or the usual ones."""
        return tap_names(network) if self.taps is None else list(self.taps)

    def from_taps(self, network: nn.Module, logits: Tensor, taps: Sequence[Tensor]) -> Tensor:
        """Averages [N, ΣC_i], in the network's dtype."""
        self._widths = {name: tap.shape[1] for name, tap in zip(self.taps_of(network), taps, strict=True)}
        return torch.cat(list(taps), dim=1)


class PenultimateProbe(TapProbe):
    """The penultimate features: the input of the last nn.Linear that a forward pass runs."""

    @property
    def name(self) -> str:
        """`features/penultimate`."""
        return f"features/{PENULTIMATE}"

    def names(self, network: nn.Module) -> list[str]:
        """Empty: they are counted by the first reading."""
        return []

    def taps_of(self, network: nn.Module) -> list[str]:
        """`penultimate`."""
        return [PENULTIMATE]

    def from_taps(self, network: nn.Module, logits: Tensor, taps: Sequence[Tensor]) -> Tensor:
        """Features [N, D], in the network's dtype."""
        return taps[0]


def columns_of_taps(names: Sequence[str]) -> dict[str, list[int]]:
    """Say which columns of a `FeatureProbe` belong to which tap.

    Args:
        names: `<tap>.<channel>`, as records keep them.

    Returns:
        Tap to its columns, taps in order of appearance.

    Example:
        >>> columns_of_taps(["relu.0", "relu.1", "layer1.0"])
        {'relu': [0, 1], 'layer1': [2]}
    """
    columns: dict[str, list[int]] = {}
    for column, name in enumerate(names):
        columns.setdefault(name.rpartition(".")[0], []).append(column)
    return columns
