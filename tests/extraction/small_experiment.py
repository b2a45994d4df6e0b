"""A small experiment on scikit-learn's digits: sources, a convolutional network, and one call that probes them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import lightning.pytorch as pl
import torch
from torch import nn

from lightning_gradood.data import DigitsSource, ImageDataModule, Limits, Perturbations
from lightning_gradood.detectors import MahalanobisProbe
from lightning_gradood.extraction import ProbeCallback
from lightning_gradood.gradients import AllOnes
from lightning_gradood.probes import GradientProbe, LogitsProbe
from lightning_gradood.records import RecordCache
from lightning_gradood.tasks import ClassificationTask

QUIET = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "accelerator": "cpu"}
LAYERS = ["2", "penultimate"]
STEPPING = (0.0, 0.01)


def data(limit=12, normal=(0, 1), **settings):
    """`limit` images of the digits 0 and 1, and as many nines; settings of perturbations may stand by themselves."""
    limits = Limits(images=limit, sources=settings.pop("limits", None))
    names = [one.name for one in fields(Perturbations) if one.name in settings]
    made = Perturbations(**{name: settings.pop(name) for name in names})
    settings = {"probe_batch_size": 5, "limits": limits, "perturbations": made} | settings
    return ImageDataModule(DigitsSource(list(normal), "test"), {"nine": DigitsSource([9], "test")}, **settings)


def trained_data(**settings):
    return data(**({"train": DigitsSource([0, 1], "train")} | settings))


def task(seed=0, **settings):
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 4, 3, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    return ClassificationTask(nn.Sequential(*layers, nn.Linear(16, 2)), **settings)


def probes():
    return [GradientProbe(AllOnes()), LogitsProbe()]


@dataclass(frozen=True)
class CountedProbe(MahalanobisProbe):
    """A probe that learns from training images; counts the images it is prepared on, in a list for each object."""

    layers: Sequence[str] = tuple(LAYERS)
    prepared: list[int] = field(default_factory=list, init=False, repr=False)

    def prepare(self, network, batches):
        seen = list(batches)
        self.prepared.append(sum(len(images) for images, _ in seen))
        return super().prepare(network, seen)


def probe(folder, task, data, reading=None, only_missing=False, ckpt_path=None, **settings):
    callback = ProbeCallback(reading or probes(), RecordCache(folder), only_missing=only_missing)
    callbacks = [callback, *settings.pop("callbacks", [])]  # a bar comes after the work that it counts
    trainer = pl.Trainer(callbacks=callbacks, **(QUIET | {"devices": 1} | settings))
    trainer.predict(task, datamodule=data, ckpt_path=ckpt_path, return_predictions=False)
    return callback


def tables(callback):
    return {(one.source, one.probe): read(callback, one) for one in callback.entries}


def read(callback, entry):
    """All records of an entry."""
    return callback.cache.read(entry.key, [*callback.cache.done(entry.key)])
