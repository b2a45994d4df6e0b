"""Measure a training step with ways in which torch's threads may wait for each other, quiet and beside busy jobs.

    python -m benchmarks.threads --busy 0 4

A ResNet-20 on images of 32 × 32 pixels, on as many threads as there are processors; busy jobs multiply matrices on one thread
each. The program runs with a spin count of 10,000. Run it on a machine that is otherwise quiet.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

import torch

from lightning_gradood.networks import CifarResNet

BUSY = "import torch\ntorch.set_num_threads(1)\na = torch.rand(512, 512)\nwhile True: a @ a"
WAYS = {
    "default": {},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "spin count 10,000": {"GOMP_SPINCOUNT": "10000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}


def main() -> None:
    """Print a line for each way and number of busy jobs; the variables count when torch is loaded, in a process for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 4], help="numbers of busy jobs")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--measure", action="store_true", help="measure in this process, as the others are asked to")
    settings = parser.parse_args()
    if settings.measure:
        measure(settings.batch, settings.steps)
        return
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    command = [sys.executable, "-m", "benchmarks.threads", "--measure"]
    command += ["--batch", str(settings.batch), "--steps", str(settings.steps)]
    for busy in settings.busy:
        jobs = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(busy)]
        try:
            for name, variables in WAYS.items():
                done = subprocess.run(command, env=plain | variables, check=True, capture_output=True, text=True)
                print(f"{busy} busy jobs, {name}: {done.stdout.strip()}", flush=True)
        finally:
            for job in jobs:
                job.kill()
                job.wait()


def measure(batch: int, steps: int) -> None:
    """Time forward, backward and update, after one step to warm up."""
    network, images = CifarResNet(blocks_per_stage=3).train(), torch.rand(batch, 3, 32, 32)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    taken = []
    for _ in range(steps + 1):
        begun = time.perf_counter()
        optimizer.zero_grad()
        network(images).logsumexp(1).sum().backward()
        optimizer.step()
        taken.append(1e3 * (time.perf_counter() - begun))
    print(f"median {statistics.median(taken[1:]):.0f} ms, {min(taken[1:]):.0f} to {max(taken[1:]):.0f}")


if __name__ == "__main__":
    main()
