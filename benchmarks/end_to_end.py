"""Measure which share of `detect` with six attacks goes into the network passes that the definitions require.

    OMP_NUM_THREADS=1 python -m benchmarks.end_to_end --images 256

Required are: for each attack, images × its passes of a forward and a backward to the input; for each clean and each attacked
image, one forward and one backward through the activations (floor B of benchmarks.run), less than which no gradient norm
needs. All else is overhead: closed forms, judging, records, detectors, figures. Detectors take the same few seconds
whatever the number of images.
"""

from __future__ import annotations

import argparse
import tempfile
import time

import torch
from torch import nn

from benchmarks.attacks import passes_of, plain_pass
from benchmarks.clock import interleaved
from benchmarks.contenders import CONTENDERS
from lightning_gradood.core import as_float
from lightning_gradood.data import DigitsSource, ImageDataModule, Limits, Perturbations
from lightning_gradood.networks import resnet18, resnet20
from lightning_gradood.perturbations import preset
from lightning_gradood.report import ReportCallback
from lightning_gradood.tasks import ClassificationTask
from lightning_gradood.trainer import Trainer

NETWORKS = {"resnet18": resnet18, "resnet20": resnet20}


def main() -> None:
    """Run `detect` once between two measurements of the passes, and print the share."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=NETWORKS, default="resnet20")
    parser.add_argument("--images", type=int, default=256, help="normal images, all attacked by all six")
    parser.add_argument("--preset", choices=["paper", "modern"], default="paper")
    settings = parser.parse_args()
    torch.manual_seed(0)
    network = NETWORKS[settings.network](num_classes=10).eval()
    data = ImageDataModule(
        normal=DigitsSource(list(range(10))),
        limits=Limits(images=settings.images),
        perturbations=Perturbations(settings.preset),
    )
    before = passes(network, data)
    whole = detect(network, data)
    craft, probe = ((a + b) / 2 for a, b in zip(before, passes(network, data), strict=True))
    crafting = settings.images * sum(map(passes_of, preset(settings.preset).values())) * craft
    frozen_network = settings.images * (1 + len(preset(settings.preset))) * probe
    print(f"\n{settings.network}, {settings.images} images, preset {settings.preset}, one thread, CPU seconds")
    print(f"required to craft {crafting:8.1f}\nrequired to probe {frozen_network:8.1f}\ndetect in all     {whole:8.1f}")
    print(f"share of required passes: {(crafting + frozen_network) / whole:.1%}")


def passes(network: nn.Module, data: ImageDataModule) -> tuple[float, float]:
    """CPU seconds per image of an attack's pass, and of the least that probing needs."""
    images = as_float(data.sources.normal.images(range(min(data.probe_batch_size, len(data.sources.normal)))))
    labels = torch.zeros(len(images), dtype=torch.int64)
    floor = CONTENDERS["floor B"](network)

    def craft() -> None:
        network.requires_grad_(False)
        plain_pass(network, images, labels)
        network.requires_grad_(True)

    works = {"craft": craft, "probe": lambda: floor(images)}
    found = interleaved(works, 7, "cpu")
    return found["craft"] / len(images), found["probe"] / len(images)


def detect(network: nn.Module, data: ImageDataModule) -> float:
    """CPU seconds of stage two on an empty cache, as the command line runs it."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            default_root_dir=f"{folder}/run", accelerator="cpu", logger=False, callbacks=[ReportCallback()]
        )
        start = time.process_time()
        trainer.detect(ClassificationTask(network), data, cache_dir=f"{folder}/records")
        return time.process_time() - start


if __name__ == "__main__":
    main()
