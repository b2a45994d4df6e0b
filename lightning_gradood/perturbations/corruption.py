"""The fifteen corruptions by name and severity: `corrupt` for one 8-bit image, `Corruption` for batches of tensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_gradood.core import named_seed
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


def _each(*values: float) -> tuple[Parameters, ...]:
    return tuple((value,) for value in values)


CIFAR_10_C: dict[Kind, tuple[Parameters, ...]] = {
    "gaussian_noise": _each(0.04, 0.06, 0.08, 0.09, 0.10),
    "shot_noise": _each(500, 250, 100, 75, 50),
    "impulse_noise": _each(0.01, 0.02, 0.03, 0.05, 0.07),
    "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    "glass_blur": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    "motion_blur": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    "zoom_blur": ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
    "snow": (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95), (0.1, 0.2, 1, 0.5, 10, 4, 0.9), (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85), (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
    "frost": ((1, 0.2, 0.2), (1, 0.3, 0.2), (0.9, 0.4, 0.2), (0.85, 0.4, 0.2), (0.75, 0.45, 0.2)),
    "fog": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    "brightness": _each(0.05, 0.1, 0.15, 0.2, 0.3),
    "contrast": _each(0.75, 0.5, 0.4, 0.3, 0.15),
    "elastic_transform": ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    "pixelate": _each(0.95, 0.9, 0.85, 0.75, 0.65),
    "jpeg_compression": _each(80, 65, 58, 50, 40),
}  # fmt: skip

TINY_IMAGENET_C: dict[Kind, tuple[Parameters, ...]] = {
    "gaussian_noise": _each(0.04, 0.08, 0.12, 0.15, 0.18),
    "shot_noise": _each(250, 100, 50, 30, 15),
    "impulse_noise": _each(0.01, 0.02, 0.05, 0.08, 0.14),
    "defocus_blur": ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
    "glass_blur": ((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
    "motion_blur": ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
    "zoom_blur": CIFAR_10_C["zoom_blur"],
    "snow": (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.8), (0.1, 0.2, 1, 0.5, 10, 4, 0.8), (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.65), (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6),
    ),
    "frost": ((1, 0.3, 0.3), (0.9, 0.4, 0.3), (0.8, 0.45, 0.3), (0.75, 0.5, 0.3), (0.7, 0.55, 0.3)),
    "fog": ((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)),
    "brightness": _each(0.1, 0.2, 0.3, 0.4, 0.5),
    "contrast": _each(0.4, 0.3, 0.2, 0.1, 0.05),
    "elastic_transform": ((0, 0, 0.08), (0.05, 0.3, 0.06), (0.1, 0.08, 0.06), (0.1, 0.03, 0.03), (0.16, 0.03, 0.02)),
    "pixelate": _each(0.9, 0.8, 0.7, 0.6, 0.5),
    "jpeg_compression": _each(65, 58, 50, 40, 25),
}  # fmt: skip

_SIDE = 244 / 224  # the published script writes 244 for the side of its images of 224 pixels; so are its images

IMAGENET_C: dict[Kind, tuple[Parameters, ...]] = {
    "gaussian_noise": _each(0.08, 0.12, 0.18, 0.26, 0.38),
    "shot_noise": _each(60, 25, 12, 5, 3),
    "impulse_noise": _each(0.03, 0.06, 0.09, 0.17, 0.27),
    "defocus_blur": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    "glass_blur": ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    "motion_blur": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    "zoom_blur": ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    "snow": (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8), (0.2, 0.3, 2, 0.5, 12, 4, 0.7), (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65), (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
    "frost": ((1, 0.4, 1), (0.8, 0.6, 1), (0.7, 0.7, 1), (0.65, 0.7, 1), (0.6, 0.75, 1)),
    "fog": ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    "brightness": TINY_IMAGENET_C["brightness"],
    "contrast": TINY_IMAGENET_C["contrast"],
    "elastic_transform": (
        (2 * _SIDE, 0.7 * _SIDE, 0.1 * _SIDE), (2 * _SIDE, 0.08 * _SIDE, 0.2 * _SIDE),
        (0.05 * _SIDE, 0.01 * _SIDE, 0.02 * _SIDE), (0.07 * _SIDE, 0.01 * _SIDE, 0.02 * _SIDE),
        (0.12 * _SIDE, 0.01 * _SIDE, 0.02 * _SIDE),
    ),
    "pixelate": _each(0.6, 0.5, 0.4, 0.3, 0.25),
    "jpeg_compression": _each(25, 18, 15, 10, 7),
}  # fmt: skip

LARGEST_CIFAR = 45  # √(32 · 64): as far from 32 as from 64, as a ratio
LARGEST_TINY = 119  # √(64 · 224)


def parameters_for(kind: Kind, severity: Severity, height: int, width: int) -> Parameters:
    """Settings of the function of the kind's name, as in the published set for images of about this size.

    Examples:
        >>> parameters_for("gaussian_noise", 5, 32, 32), parameters_for("gaussian_noise", 5, 224, 224)
        ((0.1,), (0.38,))
    """
    side = min(height, width)
    table = CIFAR_10_C if side <= LARGEST_CIFAR else TINY_IMAGENET_C if side <= LARGEST_TINY else IMAGENET_C
    return dict(enumerate(table[kind], start=1))[severity]


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
