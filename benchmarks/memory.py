"""Measure the peak memory of a process that extracts: constant in the number of images and of sources.

    OMP_NUM_THREADS=1 python -m benchmarks.memory --images 10000 200000 --sources 1 8

Images are synthetic, of 8 x 8 pixels, made one by one and not kept (`limits.memory_gib = 0`); the network is tiny, so that
whatever grows with the number of images shows. Each row is a fresh process; peak is its resident memory at most, start what it
held before the first image. What remains is an id and a label for each image, about 0.2 kB.
"""

from __future__ import annotations

import argparse
import re
import resource
import subprocess
import sys
import tempfile
import time

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_gradood.data import DatasetSource, ImageDataModule, Limits
from lightning_gradood.networks import CifarResNet
from lightning_gradood.tasks import ClassificationTask
from lightning_gradood.trainer import Trainer


class Noise(Dataset[tuple[Tensor, int]]):
    """Images of noise, each made when it is asked for.

    Args:
        number: of images.
        seed: of the first image.
    """

    def __init__(self, number: int, seed: int) -> None:
        self.targets, self.seed = [row % 3 for row in range(number)], seed

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        generator = torch.Generator().manual_seed(self.seed + row)
        return torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8, generator=generator), self.targets[row]


def main() -> None:
    """Print one row for each number of images and of sources."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 200_000], help="in all sources together")
    parser.add_argument("--sources", type=int, nargs="+", default=[1, 8], help="anomalous ones beside the normal one")
    parser.add_argument("--alone", action="store_true", help="measure one row in this process")
    settings = parser.parse_args()
    if settings.alone:
        measure(settings.images[0], settings.sources[0])
        return
    print(f"{'images':>8}{'sources':>9}{'start MB':>10}{'peak MB':>9}{'images/s':>10}")
    peaks = []
    for images in settings.images:
        for sources in settings.sources:
            command = [
                sys.executable,
                "-m",
                "benchmarks.memory",
                "--alone",
                "--images",
                str(images),
                "--sources",
                str(sources),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            start, peak, rate = map(float, re.findall(r"measured (\S+) (\S+) (\S+)", done.stdout)[0])
            peaks.append(peak)
            print(f"{images:>8}{sources:>9}{start:>10.0f}{peak:>9.0f}{rate:>10.0f}", flush=True)
    print(f"largest peak: {max(peaks) / min(peaks):.3f} x the smallest")


def measure(images: int, sources: int) -> None:
    """Extract in this process."""
    each = images // (sources + 1)
    torch.manual_seed(0)
    made = {
        f"noise{number}": DatasetSource(lambda number=number: Noise(each, number * images)) for number in range(sources)
    }
    data = ImageDataModule(
        normal=DatasetSource(lambda: Noise(each, sources * images)), anomalies=made, limits=Limits(memory_gib=0)
    )
    task = ClassificationTask(CifarResNet(blocks_per_stage=1, num_classes=3))
    start = _peak()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            default_root_dir=folder,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
        )
        begun = time.perf_counter()
        trainer.extract(task, data, cache_dir=folder)
        rate = each * (sources + 1) / (time.perf_counter() - begun)
    print(f"measured {start} {_peak()} {rate}")


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
