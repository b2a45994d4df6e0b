"""Random changes of whole training batches, on the device.

`augment` of the datamodule takes any `torch.nn.Module` that maps float images [N, C, H, W] in [0, 1] to such images;
torchvision.transforms.v2 has many, but they draw once per batch. The module here draws for each image.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import NonNegativeInt


class RandomCropFlip(nn.Module):
    """Shift each image by up to `padding` pixels and mirror every other one: the usual augmentation for CIFAR.

    Maps float images [N, C, H, W] to the same shape and dtype, with randomness from torch's generator of their device.

    Args:
        padding: The largest shift in pixels, in each direction.
        flip: Mirror each image left to right with probability one half.
        fill: What comes in at the edge: black, or the image reflected.

    Reference:
        He et al., Deep Residual Learning for Image Recognition, section 4.2, after Lee et al., Deeply-Supervised Nets.

    Example:
        >>> RandomCropFlip()(torch.rand(8, 3, 32, 32)).shape
        torch.Size([8, 3, 32, 32])
    """

    def __init__(
        self, padding: NonNegativeInt = 4, flip: bool = True, fill: Literal["zeros", "reflect"] = "zeros"
    ) -> None:
        super().__init__()
        self.padding = padding
        self.flip = flip
        self.fill = fill

    @override
    def forward(self, images: Tensor) -> Tensor:
        count, channels, height = images.shape[:3]
        padded = F.pad(images, [self.padding] * 4, mode="reflect" if self.fill == "reflect" else "constant")
        rows = self._offsets(images) + torch.arange(height, device=images.device)
        columns = self._offsets(images) + self._columns(images)
        n = torch.arange(count, device=images.device)[:, None, None, None]
        c = torch.arange(channels, device=images.device)[None, :, None, None]
        return padded[n, c, rows[:, None, :, None], columns[:, None, None, :]]

    def _offsets(self, images: Tensor) -> Tensor:  # [N, 1]
        return torch.randint(2 * self.padding + 1, (len(images), 1), device=images.device)

    def _columns(self, images: Tensor) -> Tensor:
        """The order of the columns of each image, [N, W]: ascending, or descending where it is mirrored."""
        width = images.shape[-1]
        columns = torch.arange(width, device=images.device).expand(len(images), width)
        if not self.flip:
            return columns
        mirrored = torch.rand((len(images), 1), device=images.device) < 0.5
        return torch.where(mirrored, width - 1 - columns, columns)
