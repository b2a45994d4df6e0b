"""Measure what glibc's zeroing of large blocks costs: forward passes and an attack, by default and with blocks kept.

    OMP_NUM_THREADS=1 python -m benchmarks.kept_blocks --network efficientnet_lite0

The program keeps blocks by itself; a script of your own gets the same from the environment variables below, which this
script gives to one of two processes. Times are of the processor, peaks of the process, its libraries included.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys

import torch
from torchvision.models import get_model

from benchmarks.networks import NETWORKS
from lightning_gradood.gradients import AllOnes, squared_gradient_norms
from lightning_gradood.networks import efficientnet_lite0
from lightning_gradood.perturbations import FGSM

KEPT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "2147483647", "MALLOC_TOP_PAD_": "67108864"}


def measure(name: str) -> None:
    """Print processor time by the program and by the system, and the peak, of each kind of work in this process."""
    build, size = (efficientnet_lite0, 224) if name == "efficientnet_lite0" else NETWORKS.get(name, (None, 224))
    network = (build() if build else get_model(name, weights=None)).eval()
    images = torch.rand(64, 3, size, size)
    works = {
        "2 × 64 forward": lambda: [network(images) for _ in range(2)],
        "FGSM on 16": lambda: FGSM().craft(network, images[:16], [0] * 16),
        "norms of 32": lambda: squared_gradient_norms(network, images[:32], AllOnes()),
    }
    for work, run in works.items():
        with torch.no_grad():
            run()  # the first call looks the network over
            before = os.times()
            run()
        after, peak = os.times(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        user, system = after[0] - before[0], after[1] - before[1]
        print(f"  {work:15s} {user:6.2f} s + {system:5.2f} s of the system, peak so far {peak:.1f} GiB")


def main() -> None:
    """Measure in two processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="resnet18", help="of `benchmarks.networks` or torchvision")
    parser.add_argument("--here", action="store_true", help="measure in this process alone")
    settings = parser.parse_args()
    if settings.here:
        measure(settings.network)
        return
    for title, variables in (("default", {}), ("blocks kept", KEPT)):
        print(f"{settings.network}, {title}", flush=True)
        command = [sys.executable, "-m", "benchmarks.kept_blocks", "--network", settings.network, "--here"]
        subprocess.run(command, env=os.environ | variables, check=True)


if __name__ == "__main__":
    main()
