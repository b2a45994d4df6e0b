"""Corrupt one 8-bit image: the function that everything else in this room serves."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lightning_gradood.corruptions.blur import defocus_blur, glass_blur, motion_blur, zoom_blur
from lightning_gradood.corruptions.digital import brightness, contrast, jpeg_compression, pixelate
from lightning_gradood.corruptions.elastic import elastic_transform
from lightning_gradood.corruptions.frost import frost
from lightning_gradood.corruptions.noise import Image, gaussian_noise, impulse_noise, shot_noise
from lightning_gradood.corruptions.severities import KINDS, Kind, parameters_for
from lightning_gradood.corruptions.weather import fog, snow
from lightning_gradood.errors import Refusal

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
