"""ODIN: the softmax probability at a high temperature, after a small step of the image towards its predicted class."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import exact_arithmetic, frozen_network, input_gradient, to_float64
from lightning_gradood.detectors.detector import Detector
from lightning_gradood.gradients import Predicted
from lightning_gradood.metrics import auroc
from lightning_gradood.probes import Probe, leaf, signs_of, validated_grid
from lightning_gradood.records import Records


class OdinProbe(Probe):
    """Largest softmax probability at temperature T of the image x − ε·sign(∇ₓ CE(z/T, ŷ)), for every T and ε.

    Pixels are those in [0, 1], neither divided by a standard deviation nor clipped afterwards; a gradient of 0 counts
    as positive. An image costs one forward pass, one backward pass for each temperature and one forward pass for each
    pair of a temperature and a magnitude above 0: with the default grids 41 forward and 4 backward passes.

    Args:
        temperatures: T, positive, each once.
        magnitudes: ε, at least 0, each once, in units of pixels in [0, 1].

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
        self.temperatures = validated_grid("temperatures", temperatures, positive=True)
        self.magnitudes = validated_grid("magnitudes", magnitudes)

    @property
    @override
    def name(self) -> str:
        return "odin"

    @property
    def grid(self) -> list[tuple[float, float]]:
        """Temperature and magnitude of each column."""
        return [(temperature, magnitude) for temperature in self.temperatures for magnitude in self.magnitudes]

    @override
    def names(self, network: nn.Module) -> list[str]:
        return [f"T={temperature:g} eps={magnitude:g}" for temperature, magnitude in self.grid]

    def __call__(self, network: nn.Module, images: Tensor) -> Tensor:
        """Probabilities, float64 [N, T·ε], magnitudes varying fastest; the passes are in the network's dtype."""
        with exact_arithmetic(), frozen_network(network):
            images = leaf(images)
            logits = network(images)
            columns = [column for T in self.temperatures for column in self._columns(network, images, logits, T)]
        return torch.stack(columns, dim=1)

    @override
    def describe(self) -> dict[str, object]:
        return super().describe() | {"temperatures": list(self.temperatures), "magnitudes": list(self.magnitudes)}

    def _columns(self, network: nn.Module, images: Tensor, logits: Tensor, temperature: float) -> list[Tensor]:
        signs = _signs(images, logits, temperature) if any(self.magnitudes) else None
        columns = []
        with torch.no_grad():
            for magnitude in self.magnitudes:
                moved = logits if signs is None or magnitude == 0 else network(images - magnitude * signs)
                columns.append(torch.softmax(to_float64(moved) / temperature, dim=1).amax(dim=1))
        return columns


def _signs(images: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """Signs of each image's own gradient; scaling the logits' gradients changes no sign and prevents underflow."""
    gradient_in_logits = Predicted(temperature).logit_gradient(to_float64(logits.detach()))
    largest = gradient_in_logits.abs().amax(dim=1, keepdim=True)
    gradient_in_logits = (gradient_in_logits / largest.where(largest > 0, 1.0)).to(logits)
    return signs_of(input_gradient(logits, images, gradient_in_logits, keep=True))


class ODIN(Detector):
    """Minus the largest softmax probability at temperature T after a step of ε towards the predicted class, in [−1, 0).

    The pair with the highest AUROC on `val` is taken, the first of equals. The cost is that of reading the whole grid,
    see `OdinProbe`; shorter grids are cheaper in proportion.

    Args:
        temperatures: T, positive.
        magnitudes: ε, at least 0, in units of pixels in [0, 1].

    Reference:
        Liang et al. 2018, section 3; the grid of deep_Mahalanobis (Lee et al. 2018), `OOD_Baseline_and_ODIN.py`.
    """

    name = "odin"

    def __init__(
        self,
        temperatures: Sequence[float] = OdinProbe.TEMPERATURES,
        magnitudes: Sequence[float] = OdinProbe.MAGNITUDES,
        name: str = "odin",
    ) -> None:
        self._probe = OdinProbe(temperatures, magnitudes)
        self.temperatures, self.magnitudes = self._probe.temperatures, self._probe.magnitudes
        self.name = name
        self._column: int | None = None

    @property
    @override
    def probes(self) -> Sequence[Probe]:
        return [self._probe]

    @override
    def fit(self, records: Records, seed: int) -> list[dict[str, float]]:
        val = records.where(split="val")
        values, labels = val.probe(self._probe.name), val.anomalous
        self._column = int(np.argmax([auroc(-column, labels) for column in values.T]))
        return []

    @override
    def score(self, records: Records) -> np.ndarray:
        return -records.probe(self._probe.name)[:, self._fitted(self._column)]

    @override
    def state_dict(self) -> dict[str, Tensor]:
        column = self._fitted(self._column)
        temperature, magnitude = self._probe.grid[column]
        values = {"temperature": temperature, "magnitude": magnitude, "column": column}
        return {name: torch.tensor(value) for name, value in values.items()}

    @override
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._column = int(state["column"])
