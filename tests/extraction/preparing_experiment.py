"""The small experiment with training images, and a probe that counts how often it is prepared on them."""

from collections.abc import Iterable

from small_experiment import data
from torch import Tensor, nn

from lightning_gradood.data import DigitsSource, ImageDataModule
from lightning_gradood.detectors import MahalanobisProbe

LAYERS = ["2", "penultimate"]
STEPPING = (0.0, 0.01)


def trained_data(**settings: object) -> ImageDataModule:
    """Return the small experiment's data with training images of the digits 0 and 1."""
    return data(**({"train": DigitsSource([0, 1], "train")} | settings))


class CountedProbe(MahalanobisProbe):
    """Counts the images it is prepared on, and how often it is loaded."""

    def __init__(self, magnitudes: tuple[float, ...] = (0.0,)) -> None:
        super().__init__(magnitudes, LAYERS)
        self.prepared, self.loaded = 0, 0

    def prepare(self, network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        seen = list(batches)
        self.prepared += sum(len(images) for images, _ in seen)
        return super().prepare(network, seen)

    def load(self, state: dict[str, Tensor]) -> None:
        self.loaded += 1
        super().load(state)
