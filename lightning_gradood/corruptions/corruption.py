"""The fifteen corruptions by name: `corrupt` for one 8-bit image, `Corruption` for batches of tensors."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import Perturbation, Refusal, named_seed
from lightning_gradood.corruptions.blur import defocus_blur, glass_blur, motion_blur, zoom_blur
from lightning_gradood.corruptions.digital import brightness, contrast, elastic_transform, jpeg_compression, pixelate
from lightning_gradood.corruptions.noise import Image, gaussian_noise, impulse_noise, shot_noise
from lightning_gradood.corruptions.severities import KINDS, Kind, parameters_for
from lightning_gradood.corruptions.weather import fog, frost, snow

FUNCTIONS: dict[Kind, Callable[..., Image]] = {
    "gaussian_noise": gaussian_noise,
    "shot_noise": shot_noise,
    "impulse_noise": impulse_noise,
    "defocus_blur": defocus_blur,
    "glass_blur": glass_blur,
    "motion_blur": motion_blur,
    "zoom_blur": zoom_blur,
    "snow": snow,
    "frost": frost,
    "fog": fog,
    "brightness": brightness,
    "contrast": contrast,
    "elastic_transform": elastic_transform,
    "pixelate": pixelate,
    "jpeg_compression": jpeg_compression,
}


def corrupt(pixels: NDArray[np.uint8], kind: Kind, severity: int, generator: np.random.Generator) -> NDArray[np.uint8]:
    """Return the image with one of the 15 corruptions of ImageNet-C and CIFAR-10-C.

    Results are rounded to the nearest of the 256 levels, where the published scripts round down: a difference of at most
    one level that keeps the mean of an image.

    Args:
        pixels: uint8 [H, W, 3], red, green and blue.
        kind: One of the 15.
        severity: 1 (mild) … 5; `severities` says what that means, which depends on the size of the image.
        generator: All that is random.

    Returns:
        uint8 [H, W, 3], a new array.

    Raises:
        Refusal: Any of the first three is something else.

    Reference:
        Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations, ICLR 2019.

    Example:
        >>> grey = np.full((32, 32, 3), 128, dtype=np.uint8)
        >>> int(corrupt(grey, "brightness", 1, np.random.default_rng(0)).max())
        141
    """
    check(kind, severity)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise Refusal(
            "`pixels` should be uint8 [H, W, 3]. "
            f"Got `pixels` of {pixels.dtype} {list(pixels.shape)}. Scale to 0 … 255, and repeat grey images three times."
        )
    parameters = parameters_for(kind, severity, *pixels.shape[:2])
    corrupted = FUNCTIONS[kind](pixels / 255, generator, *parameters)
    return np.rint(np.clip(corrupted, 0, 1) * 255).astype(np.uint8)


def check(kind: str, severity: int) -> None:
    """Refuse a kind or severity that does not exist.

    Raises:
        Refusal: `kind` is none of the 15, or `severity` is not one of the integers 1 to 5.
    """
    if kind not in KINDS:
        raise Refusal(f"`kind` should be one of {', '.join(KINDS)}. Got `kind = {kind!r}`. Choose one of these.")
    if type(severity) is not int or not 1 <= severity <= 5:
        raise Refusal(
            "`severity` should be an integer from 1 (mild) to 5. "
            f"Got `severity = {severity!r}`. Write e.g. 3; there is nothing in between or beyond."
        )


class Corruption(Perturbation):
    """Common corruptions that do not know the network: noise, blur, weather and what cameras and files do.

    Images are rounded to 8 bits, corrupted one by one on the CPU and returned in the dtype and on the device they came
    in. Grey images [N, 1, H, W] are corrupted as if they were in colour, and the mean of the three channels is returned.
    The random numbers of an image depend on `seed`, `kind`, `severity` and its id only.

    Args:
        kind: One of the 15 corruptions of ImageNet-C and CIFAR-10-C.
        severity: 1 (mild) … 5; what that means depends on the size of the image, as in the published sets.
        seed: Another seed draws other noise, snow and so on.

    Raises:
        Refusal: `kind` or `severity` does not exist.

    Reference:
        Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations, ICLR 2019.

    Example:
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))
        >>> corrupted = Corruption("fog", severity=3).craft(network, torch.rand(2, 3, 32, 32), torch.tensor([0, 1]))
        >>> corrupted.images.shape
        torch.Size([2, 3, 32, 32])
    """

    def __init__(self, kind: Kind, severity: int = 3, seed: int = 0) -> None:
        check(kind, severity)
        self.kind = kind
        self.severity = severity
        self.seed = seed

    @property
    @override
    def passes(self) -> int:
        return 0  # no network is asked

    @override
    def _craft(
        self, network: nn.Module, images: Tensor, labels: Tensor, ids: Sequence[str]
    ) -> tuple[Tensor, Tensor | None]:
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise Refusal(
                "`images` should be [N, 3, H, W] or grey [N, 1, H, W]. "
                f"Got `images.shape = {list(images.shape)}`. Leave corruptions out for images of other kinds."
            )
        colour = (images.cpu() * 255).round().to(torch.uint8).expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
        pairs = zip(colour, ids, strict=True)
        corrupted = [corrupt(pixels, self.kind, self.severity, self._generator(name)) for pixels, name in pairs]
        result = torch.from_numpy(np.stack(corrupted)).permute(0, 3, 1, 2).to(images.dtype) / 255
        if images.shape[1] == 1:
            result = result.mean(1, keepdim=True)
        return result.contiguous().to(images.device), None

    def _generator(self, name: str) -> np.random.Generator:
        """The random numbers of one image, the same in every batch, order and process."""
        return np.random.default_rng(named_seed(self.seed, f"{self.kind}/{self.severity}/{name}", bits=128))


def corruptions_at(severity: int) -> dict[str, Corruption]:
    """Return all 15 corruptions at one severity, by the name of their kind.

    Args:
        severity: 1 (mild) … 5.

    Raises:
        Refusal: `severity` does not exist.

    Example:
        >>> list(corruptions_at(1))[:3]
        ['gaussian_noise', 'shot_noise', 'impulse_noise']
    """
    return {kind: Corruption(kind, severity) for kind in KINDS}
