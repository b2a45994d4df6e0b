"""Toy images and networks for the tests of the tasks."""

import torch
from lightning.pytorch import Callback, Trainer
from torch import nn
from torch.utils.data import DataLoader


def as_loader(batches):
    """Batches as one loader; Lightning would take a list for one loader each."""
    return DataLoader(batches, batch_size=None)


class Rates(Callback):
    def __init__(self):
        self.rates, self.losses = [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(float(outputs["loss"]))


def batches(number=4, size=16, seed=0):
    """Batches of images whose brightest channel is their class, with labels and something a task ignores."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(number):
        labels = torch.randint(3, (size,), generator=generator)
        images = 0.6 * torch.rand(size, 3, 4, 4, generator=generator)
        images[torch.arange(size), labels] += 0.2
        made.append((images, labels, torch.arange(size)))
    return made


def loader(number=4, **settings):
    return as_loader(batches(number, **settings))


def network(seed=0):
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(8, 3))


def cosine(optimizer, steps):
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)


def trainer(**settings):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "accelerator": "cpu", "devices": 1, "log_every_n_steps": 1}
    return Trainer(**(quiet | {"max_epochs": 1, "num_sanity_val_steps": 0} | settings))
