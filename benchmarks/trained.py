"""Check the engine on torchvision's networks after a hundred steps of training on real images: prints a table.

    OMP_NUM_THREADS=1 python -m benchmarks.trained --images data/cifar10/train

For each network: the largest relative difference from plain autograd, one image at a time, in float64; and the relative
error in float32, against float64: median, 99 % quantile, largest, of the engine; of plain autograd, one image at a
time; and of plain autograd behind one forward pass of all images. The last tells rounding from formulas: a ReLU whose
input is zero to seven digits opens in one batch and not in another, and then two ways that are both right differ.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.transforms import v2

from benchmarks.contenders import all_ones, loop
from lightning_gradood.gradients import squared_gradient_norms, way_taken

NETWORKS: dict[str, int] = {
    "resnet18": 64, "densenet121": 64, "mobilenet_v3_small": 64, "efficientnet_b0": 64, "convnext_tiny": 64,
    "shufflenet_v2_x1_0": 64, "vit_b_16": 32, "swin_t": 64, "regnet_y_400mf": 64,
}  # fmt: skip
"""Names and image sizes; a transformer with 32 pixels has five tokens."""
FLOOR = 1e-12  # of an image's largest entry: entries below are zero but for rounding, e.g. an attention's key bias


def main() -> None:
    """Train, compare, print a line for each network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, default=Path("data/cifar10/train"), help="a folder for each class")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--compared", type=int, default=64, help="images on which the ways are compared")
    settings = parser.parse_args()
    print(
        "network             loss         way    float64   float32: engine           one at a time                in one batch"
    )
    for name in settings.networks:
        torch.manual_seed(0)
        images, classes = batches(settings.images, NETWORKS[name], settings.batch)
        extra = {"image_size": 32} if name == "vit_b_16" else {}
        network = getattr(torchvision.models, name)(num_classes=classes, **extra)
        losses = train(network, images, settings.steps)
        result = compared(network.eval(), _some(images, settings.compared))
        print(f"{name:20}{losses[0]:.2f} → {losses[-1]:.2f}  {result}", flush=True)


def batches(folder: Path, size: int, batch: int) -> tuple[Iterator[tuple[Tensor, Tensor]], int]:
    """Endless shuffled batches (images in [0, 1], labels), and the number of classes."""
    read = v2.Compose([v2.Resize((size, size)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    source = torchvision.datasets.ImageFolder(str(folder), read)

    def endless() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from torch.utils.data.DataLoader(source, batch, shuffle=True, drop_last=True)

    return endless(), len(source.classes)


def _some(batches: Iterator[tuple[Tensor, Tensor]], count: int) -> Tensor:
    images = next(batches)[0]
    while images.shape[0] < count:
        images = torch.cat([images, next(batches)[0]])
    return images[:count]


def train(network: nn.Module, images: Iterator[tuple[Tensor, Tensor]], steps: int) -> list[float]:
    """Train with AdamW and return the losses, each a mean over ten steps."""
    optimizer = torch.optim.AdamW(network.train().parameters(), lr=3e-4)
    losses = []
    for _ in range(steps):
        pixels, labels = next(images)
        loss = F.cross_entropy(network(pixels), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return [sum(losses[start : start + 10]) / 10 for start in range(0, steps, 10)]


def compared(network: nn.Module, images: Tensor) -> str:
    """Which way the engine took, its deviation in float64, and both ways' errors in float32."""
    copied = copy.deepcopy(network).double()
    truth = loop(copied)(images.double())
    double = _errors(squared_gradient_norms(copied, images.double()), truth).max()
    parts = images.split(8)  # a graph of more large images would not fit into memory
    together = torch.cat([in_one_batch(network, part) for part in parts])
    engine = torch.cat([squared_gradient_norms(network, part) for part in parts])
    ways = (engine, loop(network)(images), together)
    way = "fast" if way_taken(network, parts[0]) == "closed forms" else "loop"
    return f"{way}   {double:.1e}   " + "   ".join(_spread(_errors(norms, truth)) for norms in ways)


def in_one_batch(network: nn.Module, images: Tensor) -> Tensor:
    """Plain autograd again, but every image's loss behind one batched forward pass, which rounds as the engine's does."""
    parameters = list(network.parameters())
    losses = all_ones(network(images))
    rows = [torch.autograd.grad(loss, parameters, retain_graph=True) for loss in losses]
    return torch.stack([torch.stack([gradient.double().square().sum() for gradient in row]) for row in rows])


def _errors(norms: Tensor, truth: Tensor) -> Tensor:
    return (norms.double() - truth).abs() / (truth + FLOOR * truth.amax(1, keepdim=True))


def _spread(errors: Tensor) -> str:
    median, high = torch.quantile(errors.flatten(), torch.tensor([0.5, 0.99], dtype=errors.dtype)).tolist()
    return f"{median:.1e}  {high:.1e}  {errors.max():.1e}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
