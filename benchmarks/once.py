"""Measure what happens once: the checks of a network's first call, and the peak memory of one large call.

    OMP_NUM_THREADS=1 python -m benchmarks.once --images 4096

The checks are the first call's time less a later one's, on a copy of a network that is warm already, and are compared
with a run over 10,000 images. Memory is what the process holds at its peak above what it held before the call, with the
network and the images already there.
"""

from __future__ import annotations

import argparse
import copy
import statistics

import torch

from benchmarks.clock import peak_bytes, seconds
from benchmarks.networks import NETWORKS
from lightning_gradood.gradients import squared_gradient_norms


def main() -> None:
    """Measure the checks of each network, then one large call."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["resnet18", "densenet_bc_100_12"])
    parser.add_argument("--images", type=int, default=4096, help="in the large call; 0 for none")
    parser.add_argument("--batch", type=int, default=64, help="images in a call whose checks are timed")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    settings = parser.parse_args()
    for name in settings.networks:
        network, images = _made(name, settings.batch, settings.device)
        if settings.images:  # first of all, so that nothing is warm that would hide its memory
            large = torch.rand(settings.images, *images.shape[1:], device=settings.device)
            peak = peak_bytes(lambda: squared_gradient_norms(network, large), settings.device)  # noqa: B023
            print(
                f"{name}: one call with {settings.images} images peaks {peak / 1e6:.0f} MB above the network",
                flush=True,
            )
        checks, image = _checks(network, images, settings.device)
        share = checks / (10_000 * image)
        print(f"{name}: checks {checks:.2f} s, {1000 * image:.1f} ms/image: {share:.2%} of 10,000 images", flush=True)


def _made(name: str, batch: int, device: str) -> tuple[torch.nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    build, size = NETWORKS[name]
    return build().eval().to(device), torch.rand(batch, 3, size, size, device=device)


def _checks(network: torch.nn.Module, images: torch.Tensor, device: str) -> tuple[float, float]:
    """Seconds of the checks, and of one image later; medians of five copies of the network."""
    squared_gradient_norms(network, images)
    first, later = [], []
    for _ in range(5):
        copied = copy.deepcopy(network)
        for times in (first, later):
            times.append(seconds(lambda: squared_gradient_norms(copied, images), device))  # noqa: B023
    median = statistics.median(later)
    return statistics.median(first) - median, median / images.shape[0]


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
