"""The images themselves as a probe, so that adversarial ones can be kept for other tools."""

from typing import Literal

import torch
from torch import Tensor, nn

from lightning_gradood.probes.probe import Probe


class PixelProbe(Probe):
    """The pixels as the network gets them, channels first and flattened.

    Args:
        dtype: `uint8` rounds to 0 … 255; `float16` keeps pixels in [0, 1] to about three digits, `float32` as they are.
    """

    def __init__(self, dtype: Literal["uint8", "float16", "float32"] = "uint8") -> None:
        self.dtype = dtype

    @property
    def name(self) -> str:
        """`pixels/<dtype>`."""
        return f"pixels/{self.dtype}"

    def names(self, network: nn.Module) -> list[str]:
        """Empty: there are too many pixels to name."""
        return []

    def __call__(self, network: nn.Module, images: Tensor) -> Tensor:
        """Pixels [N, C·H·W]."""
        pixels = images.flatten(1)
        if self.dtype == "uint8":
            return (pixels * 255).round().to(torch.uint8)
        return pixels.half() if self.dtype == "float16" else pixels.float()
