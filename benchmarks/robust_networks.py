"""Two small CIFAR-10 networks of α,β-CROWN, whose adversarially trained weights (L∞, 2/255) docs/results.md attacks."""

from __future__ import annotations

from torch import Tensor, nn
from typing_extensions import override  # typing has it from Python 3.12 on


class Block(nn.Module):
    """Two 3×3 convolutions with bias, and a 1×1 shortcut where the size changes."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1)
        same = stride == 1 and inside == outside
        self.shortcut = nn.Sequential() if same else nn.Sequential(nn.Conv2d(inside, outside, 1, stride))

    @override
    def forward(self, images: Tensor) -> Tensor:
        return (self.conv2(self.conv1(images).relu()) + self.shortcut(images)).relu()


class RobustResNet(nn.Module):
    """A stem of stride 2, layers of two blocks each, and two linear layers; no batch norm."""

    def __init__(self, stem: int, widths: tuple[int, ...], features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, stem, 3, 2, 1)
        self.layer1 = nn.Sequential(Block(stem, widths[0], 2), Block(widths[0], widths[0], 1))
        if len(widths) > 1:
            self.layer2 = nn.Sequential(Block(widths[0], widths[1], 2), Block(widths[1], widths[1], 1))
        self.linear1, self.linear2 = nn.Linear(features, 100), nn.Linear(100, 10)

    @override
    def forward(self, images: Tensor) -> Tensor:
        found = self.layer1(self.conv1(images).relu())
        found = self.layer2(found) if hasattr(self, "layer2") else found
        return self.linear2(self.linear1(found.flatten(1)).relu())


def resnet2b() -> nn.Module:
    """ResNet-2B: 8 channels, then one layer of 16."""
    return RobustResNet(8, (16,), 1024)


def resnet4b() -> nn.Module:
    """ResNet-4B: 16 channels, then two layers of 32."""
    return RobustResNet(16, (32, 32), 512)
