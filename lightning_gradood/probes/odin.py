"""ODIN's probe: the softmax of each image after a small step towards its predicted class, at several temperatures."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_gradood.gradients import Predicted, exact, exact_arithmetic, probing, sent
from lightning_gradood.probes.grids import checked_grid
from lightning_gradood.probes.probe import Probe
from lightning_gradood.probes.steps import leaf, signs_of


class OdinProbe(Probe):
    """Largest softmax probability at temperature T of the image x − ε·sign(∇ₓ CE(z/T, ŷ)), for every T and ε.

    Pixels are those in [0, 1], neither divided by a standard deviation nor clipped afterwards; a gradient of 0 counts as
    positive. An image costs one forward pass, one backward pass for each temperature and one forward pass for each
    pair of a temperature and a magnitude above 0: with the default grids 41 forward and 4 backward passes.

    Args:
        temperatures: T, positive.
        magnitudes: ε, at least 0, in units of pixels in [0, 1].

    Raises:
        Refusal: if a grid is empty, repeats a value or holds one out of range.

    Reference:
        Liang et al. 2018; their `calData.py`, which perturbs normalised images.

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
        >>> probe = OdinProbe(temperatures=[1, 1000], magnitudes=[0, 0.01])
        >>> probe(network, torch.rand(5, 3, 2, 2)).shape
        torch.Size([5, 4])
        >>> probe.names(network)
        ['T=1 eps=0', 'T=1 eps=0.01', 'T=1000 eps=0', 'T=1000 eps=0.01']
    """

    TEMPERATURES = (1.0, 10.0, 100.0, 1000.0)
    MAGNITUDES = (0.0, 0.0005, 0.001, 0.0014, 0.002, 0.0024, 0.005, 0.01, 0.05, 0.1, 0.2)

    def __init__(self, temperatures: Sequence[float] = TEMPERATURES, magnitudes: Sequence[float] = MAGNITUDES) -> None:
        self.temperatures = checked_grid("temperatures", temperatures, positive=True)
        self.magnitudes = checked_grid("magnitudes", magnitudes)

    @property
    def name(self) -> str:
        """`odin`."""
        return "odin"

    @property
    def grid(self) -> list[tuple[float, float]]:
        """Temperature and magnitude of each column."""
        return [(temperature, magnitude) for temperature in self.temperatures for magnitude in self.magnitudes]

    def names(self, network: nn.Module) -> list[str]:
        """Temperature and magnitude of each column, as text."""
        return [f"T={temperature:g} eps={magnitude:g}" for temperature, magnitude in self.grid]

    def __call__(self, network: nn.Module, images: Tensor) -> Tensor:
        """Probabilities, float64 [N, T·ε], magnitudes varying fastest; the passes are in the network's dtype."""
        with exact_arithmetic(), probing(network):
            images = leaf(images)
            logits = network(images)
            columns = [column for T in self.temperatures for column in self._columns(network, images, logits, T)]
        return torch.stack(columns, dim=1)

    def describe(self) -> dict[str, object]:
        """Add both grids."""
        return super().describe() | {"temperatures": list(self.temperatures), "magnitudes": list(self.magnitudes)}

    def _columns(self, network: nn.Module, images: Tensor, logits: Tensor, temperature: float) -> list[Tensor]:
        signs = _signs(images, logits, temperature) if any(self.magnitudes) else None
        columns = []
        with torch.no_grad():
            for magnitude in self.magnitudes:
                moved = logits if signs is None or magnitude == 0 else network(images - magnitude * signs)
                columns.append(torch.softmax(exact(moved) / temperature, dim=1).amax(dim=1))
        return columns


def _signs(images: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """Signs of each image's own gradient; the seed's scale changes no sign and keeps float32 from underflow."""
    seed = Predicted(temperature).seed(exact(logits.detach()))
    largest = seed.abs().amax(dim=1, keepdim=True)
    seed = sent(seed / largest.where(largest > 0, 1.0), logits)
    (gradient,) = torch.autograd.grad(logits, images, seed, retain_graph=True)
    return signs_of(gradient)
