"""Image statistics as a detector: an audit of whether a source is easy for a reason other than its content."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import to_float64
from lightning_gradood.detectors.detector import Detector, Fitted
from lightning_gradood.detectors.logistic import Logistic, fit_logistic
from lightning_gradood.detectors.tensor_scores import TensorFitted, TensorReadings
from lightning_gradood.probes import Probe
from lightning_gradood.records import Records

_BLOCK = 8  # pixels; JPEG transforms blocks of this size
_FLOOR = 1e-12  # added before logarithms; far below the variance of one grey level, (1/255)²/12 = 1e-6


@dataclass(frozen=True)
class ImageStatisticsProbe(Probe):
    """Four simple statistics of each image, float64 [N, 4].

    - mean of all pixels and channels;
    - their variance (divided by their number);
    - high-frequency energy: the part of a channel's variance in waves of fewer than four pixels, averaged over
      channels;
    - blockiness: mean absolute step between neighbouring pixels across the borders of 8×8 blocks, counted from the
      upper left corner, minus that within blocks, averaged over the two directions; 0 where an image has no border.

    Reference:
        Wang, Sheikh, Bovik 2002 for the blockiness, as a difference so that flat images have one.
    """

    name: ClassVar[str] = "image_statistics"

    @override
    def names(self, network: nn.Module) -> list[str]:
        return ["mean", "variance", "high_frequency", "blockiness"]

    @override
    def __call__(self, network: nn.Module, images: Tensor) -> Tensor:
        pixels = to_float64(images)
        flat = pixels.flatten(1)
        blockiness = (_blockiness(pixels) + _blockiness(pixels.transpose(2, 3))) / 2
        return torch.stack([flat.mean(1), flat.var(1, correction=0), _high_frequency(pixels), blockiness], dim=1)


def _high_frequency(pixels: Tensor) -> Tensor:
    height, width = pixels.shape[2:]
    vertical, horizontal = (np.fft.fftfreq(side) for side in (height, width))
    high = torch.from_numpy(np.hypot(vertical[:, None], horizontal) > 0.25).to(pixels.device)  # cycles a pixel
    power = _transformed(pixels) / (height * width) ** 2  # sums to the mean square, by Parseval
    energy: Tensor = (power * high).sum(dim=(2, 3)).mean(dim=1)
    return energy


def _transformed(pixels: Tensor) -> Tensor:
    """Squared absolute values of the Fourier transform over the last two dimensions."""
    if not torch.compiler.is_compiling():
        whole: Tensor = torch.fft.fft2(pixels).abs().square()
        return whole
    down, across = (np.fft.fft(np.eye(side)) for side in pixels.shape[2:])  # for ONNX, whose own is in float32
    parts = [torch.from_numpy(part.copy()) for part in (down.real, down.imag, across.real, across.imag)]
    real, imaginary = parts[0] @ pixels, parts[1] @ pixels
    both: Tensor = (real @ parts[2] - imaginary @ parts[3]).square() + (real @ parts[3] + imaginary @ parts[2]).square()
    return both


def _blockiness(pixels: Tensor) -> Tensor:
    """Blockiness of the borders between columns."""
    steps = pixels.diff(dim=3).abs().mean(dim=(1, 2))
    border = list(range(_BLOCK - 1, steps.shape[1], _BLOCK))
    inside = [place for place in range(steps.shape[1]) if place not in border]
    return steps[:, border].mean(dim=1) - steps[:, inside].mean(dim=1) if border else steps.new_zeros(len(steps))


@dataclass(frozen=True)
class ImageStatistics(Detector):
    """Logistic regression on mean, log variance, log high-frequency energy and JPEG blockiness.

    Where it does well, a source is easy because of how the images were resized or compressed: the numbers of other
    detectors on it say little.
    """

    name: str = "image_statistics"
    probes: ClassVar[Sequence[Probe]] = (ImageStatisticsProbe(),)

    @override
    def fit(self, records: Records, seed: int) -> Fitted:
        train = records.where(split="train")
        return FittedImageStatistics(fit_logistic(_inputs(TensorReadings.of(train)).numpy(), train.anomalous))


@dataclass(frozen=True, eq=False)
class FittedImageStatistics(TensorFitted):
    """A logistic regression on the statistics."""

    logistic: Logistic

    @override
    def tensor_score(self, read: TensorReadings) -> Tensor:
        return self.logistic.score(_inputs(read))


def _inputs(read: TensorReadings) -> Tensor:
    mean, variance, high_frequency, blockiness = read.probe(ImageStatisticsProbe.name).unbind(dim=1)
    return torch.stack([mean, (variance + _FLOOR).log(), (high_frequency + _FLOOR).log(), blockiness], dim=1)
