"""Extraction in a Lightning Trainer of your own: train a classifier, read its gradients, fit a detector.

    python examples/own_script.py                 # one process
    python examples/own_script.py --devices 2     # two processes, DDP

It uses the two LightningModules, the DataModule and the callback; nothing of the command line.
"""

import argparse

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_only

from lightning_gradood.data import DigitsSource, ImageDataModule, Limits, Perturbations
from lightning_gradood.detectors import MLP
from lightning_gradood.evaluation import evaluate
from lightning_gradood.extraction import ProbeCallback
from lightning_gradood.gradients import AllOnes
from lightning_gradood.networks import CifarResNet
from lightning_gradood.perturbations import FGSM
from lightning_gradood.probes import GradientProbe
from lightning_gradood.records import RecordCache, Records
from lightning_gradood.tasks import ClassificationTask, MLPSettings


def main(devices: int, cache: str, images: int) -> None:
    """Train, extract, detect.

    Args:
        devices: processes on the CPU.
        cache: folder in which records are kept; what is there already is not read again.
        images: of each source.
    """
    pl.seed_everything(0)
    settings = {"accelerator": "cpu", "devices": devices, "strategy": "ddp" if devices > 1 else "auto"}
    settings |= {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}

    known = list(range(9))
    data = ImageDataModule(
        train=DigitsSource(known, "train"),
        normal=DigitsSource(known, "test"),
        anomalies={"digit_9": DigitsSource([9])},
        perturbations=Perturbations(attacks={"fgsm": FGSM(eps=0.1)}),
        limits=Limits(images=images),
        batch_size=32,
    )
    task = ClassificationTask(CifarResNet(blocks_per_stage=1, num_classes=9))
    pl.Trainer(max_epochs=1, **settings).fit(task, datamodule=data)

    probes = ProbeCallback([GradientProbe(AllOnes())], RecordCache(cache))
    pl.Trainer(callbacks=[probes], **settings).predict(task, datamodule=data, return_predictions=False)
    detect(data, probes)


@rank_zero_only
def detect(data: ImageDataModule, probes: ProbeCallback) -> None:
    """Fit one MLP for each source of anomalies on the records, and print its AUROC."""
    for source in data.sources.anomaly_names:
        records = Records.concatenate([probes.records("normal"), probes.records(source)])
        detector = MLP([AllOnes()], MLPSettings())
        outcome = evaluate(detector, records.with_splits(data.sources.manifest.split_of), source=source, seed=0)
        low, high = outcome.auroc_interval
        print(f"{source}: AUROC {outcome.metrics['test']['auroc']:.3f} [{low:.3f}, {high:.3f}]")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--cache", default="runs/.records")
    parser.add_argument("--images", type=int, default=100)
    arguments = parser.parse_args()
    main(arguments.devices, arguments.cache, arguments.images)
