"""Measure a training step with the chosen number of threads and with every fixed number, quiet and beside busy jobs.

    python -m benchmarks.threads --busy 0 2

Busy jobs multiply matrices on one thread each. The choice is right where its images/s are at least 1 / 1.2 of the best fixed
number's; without busy jobs it should be no slower than torch's own number. Run it on a machine that is otherwise quiet.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

import torch

from benchmarks.networks import NETWORKS
from lightning_gradood.core import choose_threads, usable_processors

BUSY = "import torch\ntorch.set_num_threads(1)\na = torch.rand(512, 512)\nwhile True: a @ a"


def main() -> None:
    """Print one table for each number of busy jobs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=NETWORKS, default="resnet18")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 2], help="numbers of busy jobs")
    parser.add_argument("--steps", type=int, default=5)
    settings = parser.parse_args()
    os.environ.pop("OMP_NUM_THREADS", None)
    build, size = NETWORKS[settings.network]
    network, images = build().train(), torch.rand(settings.batch, 3, size, size)

    def step() -> None:
        """Forward and backward pass."""
        network(images).sum().backward()

    own, most = torch.get_num_threads(), int(usable_processors())
    for busy in settings.busy:
        jobs = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(busy)]
        try:
            time.sleep(5 if jobs else 0)  # they import torch first
            report(step, sorted({1, own, most}), settings, f"beside {busy} busy jobs, torch's own number is {own}")
        finally:
            for job in jobs:
                job.kill()
                job.wait()


def report(step, numbers: list[int], settings: argparse.Namespace, title: str) -> None:
    """Measure each number, and what is chosen."""
    choice = choose_threads(step, environment={})
    print(f"\n{settings.network}, batches of {settings.batch}, {title}\n{choice}")
    rates = {}
    for number in dict.fromkeys([*numbers, choice.number]):
        torch.set_num_threads(number)
        taken = []
        for _ in range(settings.steps + 1):
            begun = time.perf_counter()
            step()
            taken.append(time.perf_counter() - begun)
        rates[number] = settings.batch / statistics.median(taken[1:])
        print(
            f"{number:3} threads {rates[number]:8.1f} images/s{'  chosen' if number == choice.number else ''}",
            flush=True,
        )
    print(f"best fixed number: {max(rates.values()) / rates[choice.number]:.2f} x the chosen one's images/s")


if __name__ == "__main__":
    main()
