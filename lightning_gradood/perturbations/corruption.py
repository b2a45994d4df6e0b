"""The fifteen corruptions by name and severity: `corrupt` for one 8-bit image, `Corruption` for batches of tensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_gradood.core import named_seed, read_yaml
from lightning_gradood.perturbations import corruption_kinds
from lightning_gradood.perturbations.perturbation import Made, Perturbation

Kind = Literal[
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow",
    "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
]  # fmt: skip
KINDS: tuple[Kind, ...] = get_args(Kind)
Severity = Literal[1, 2, 3, 4, 5]
"""From mild to severe; what that means depends on the size of the image, as in the published sets."""

Parameters = tuple[float, ...]
"""Settings of one kind at one severity, in the order of the parameters of the function of the same name."""


@cache
def published() -> dict[str, dict[Kind, list[Parameters]]]:
    """Parameters of each kind at severities 1 to 5 in the sets of the papers, by the set's name."""
    sets = read_yaml(Path(__file__).with_name("severities.yaml")).items()
    return {name: {kind: list(map(tuple, five)) for kind, five in kinds.items()} for name, kinds in sets}


LARGEST_CIFAR = 45  # √(32 · 64): as far from 32 as from 64, as a ratio
LARGEST_TINY = 119  # √(64 · 224)


def parameters_for(kind: Kind, severity: Severity, height: int, width: int) -> Parameters:
    """Settings of the function of the kind's name, as in the published set for images of about this size.

    Examples:
        >>> parameters_for("gaussian_noise", 5, 32, 32), parameters_for("gaussian_noise", 5, 224, 224)
        ((0.1,), (0.38,))
    """
    side = min(height, width)
    name = "CIFAR-10-C" if side <= LARGEST_CIFAR else "Tiny ImageNet-C" if side <= LARGEST_TINY else "ImageNet-C"
    return dict(enumerate(published()[name][kind], start=1))[severity]


def corrupt(
    pixels: NDArray[np.uint8], kind: Kind, severity: Severity, generator: np.random.Generator
) -> NDArray[np.uint8]:
    """Return an image, uint8 [H, W, 3], with one of the 15 corruptions of ImageNet-C and CIFAR-10-C, as a new array.

    Results are rounded to the nearest of the 256 levels, where the published scripts round down: a difference of at
    most one level that keeps the mean of an image. All that is random comes from `generator`.

    Reference:
        Hendrycks and Dietterich 2019, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations.

    Examples:
        >>> grey = np.full((32, 32, 3), 128, dtype=np.uint8)
        >>> int(corrupt(grey, "brightness", 1, np.random.default_rng(0)).max())
        141
    """
    parameters = parameters_for(kind, severity, *pixels.shape[:2])
    corrupted: NDArray[np.float64] = getattr(corruption_kinds, kind)(pixels / 255, generator, *parameters)
    return np.rint(np.clip(corrupted, 0, 1) * 255).astype(np.uint8)


@dataclass(frozen=True)
class Corruption(Perturbation):
    """Common corruptions that do not depend on the network: noise, blur, weather and what cameras and files do.

    Images are rounded to 8 bits, corrupted one by one on the CPU and returned in the dtype and on the device they came
    in. Grey images [N, 1, H, W] are corrupted as if they were in colour, and the mean of the three channels is
    returned. The random numbers of an image depend on `seed`, `kind`, `severity` and its id only.

    Args:
        kind: One of the 15 corruptions of ImageNet-C and CIFAR-10-C.
        severity: 1 (mild) … 5; what that means depends on the size of the image, as in the published sets.
        seed: Another seed draws other noise, snow and so on.
    """

    kind: Kind
    severity: Severity = 3
    seed: int = 0

    def __post_init__(self) -> None:
        parameters_for(self.kind, self.severity, 1, 1)  # a KeyError for what does not exist

    def _craft(self, network: nn.Module, images: Tensor, labels: Tensor, ids: Sequence[str]) -> Made:
        # torch refuses other than one or three channels
        colour = (images.cpu() * 255).round().to(torch.uint8).expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
        corrupted = []
        for pixels, name in zip(colour, ids, strict=True):
            seed = named_seed(self.seed, f"{self.kind}/{self.severity}/{name}", bits=128)
            corrupted.append(corrupt(pixels, self.kind, self.severity, np.random.default_rng(seed)))
        result = torch.from_numpy(np.stack(corrupted)).permute(0, 3, 1, 2).to(images.dtype) / 255
        if images.shape[1] == 1:
            result = result.mean(1, keepdim=True)
        return result.contiguous().to(images.device), None


def corruptions_at(severity: Severity) -> dict[str, Corruption]:
    """All 15 corruptions at one severity, by the name of their kind."""
    return {kind: Corruption(kind, severity) for kind in KINDS}
