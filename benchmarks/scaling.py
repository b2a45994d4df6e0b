"""Measure images/s of `extract` on several processes with one thread each, compared with one process with one thread.

    python -m benchmarks.scaling --processes 1 2 4 --images 20000

Images are synthetic. Time is that of the slowest process from its first batch to its last, so that starting Python does not
count; with few images the first batches, in which the network is checked, do. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time

import torch

from benchmarks.memory import Noise
from lightning_gradood.data import DatasetSource, ImageDataModule
from lightning_gradood.networks import CifarResNet
from lightning_gradood.tasks import ClassificationTask
from lightning_gradood.trainer import Trainer


class Timed(Trainer):
    """Says how long the predict loop took, preparation and writing left out."""

    def predict(self, task, **given):
        """Note when the first process starts and ends to read."""
        read, times = task.reader.read, []

        def timed(source, batch):
            times.append(time.perf_counter())
            read(source, batch)
            times.append(time.perf_counter())

        task.reader.read = timed
        found = super().predict(task, **given)
        print(f"measured {self.global_rank} {max(times) - min(times)}", flush=True)
        return found


def main() -> None:
    """Print one row for each number of processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--alone", action="store_true", help="be one of the measured processes")
    settings = parser.parse_args()
    if settings.alone:
        extract(settings.processes[0], settings.images)
        return
    first = 0.0
    print(f"{'processes':>10}{'images/s':>10}{'times one':>11}")
    for processes in settings.processes:
        words = ["--alone", "--processes", str(processes), "--images", str(settings.images)]
        command = [sys.executable, "-m", "benchmarks.scaling", *words]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        slowest = max(map(float, re.findall(r"measured \d+ (\S+)", done.stdout)))
        rate = settings.images / slowest
        first = first or rate
        print(f"{processes:>10}{rate:>10.1f}{rate / first:>11.2f}", flush=True)


def extract(processes: int, images: int) -> None:
    """Extract once, on all processes."""
    torch.manual_seed(0)
    noise = {"noise": DatasetSource(lambda: Noise(images // 2, images))}
    data = ImageDataModule(normal=DatasetSource(lambda: Noise(images // 2, 0)), anomalies=noise)
    task = ClassificationTask(CifarResNet(blocks_per_stage=3, num_classes=3))
    given = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    strategy = "ddp" if processes > 1 else "auto"
    folder = os.environ.setdefault("SCALING_FOLDER", tempfile.mkdtemp())  # the processes it starts get it
    trainer = Timed(default_root_dir=folder, devices=processes, strategy=strategy, **given)
    trainer.extract(task, data, cache_dir=folder)


if __name__ == "__main__":
    main()
