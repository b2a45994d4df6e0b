"""Files that must be refused, made once for all tests."""

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lightning_gradood.networks import CifarResNet


class Malicious:
    """Makes the folder `executed` where it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


def write_images(folder: Path, count: int, seed: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    for row, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{row:03d}.png")
    return folder


def write_bad_inputs(folder: Path) -> None:
    """Write image folders and weights, each with one thing wrong; `good.pt` and `images` have none."""
    (folder / "empty").mkdir()
    for name, count in (("images", 6), ("broken", 6)):
        write_images(folder / name, count)
    (folder / "broken/003.png").write_bytes(b"cut off")
    network = CifarResNet(blocks_per_stage=1, num_classes=3)
    torch.save(network.state_dict(), folder / "good.pt")
    other = {name: part + 1 for name, part in network.state_dict().items()}
    torch.save({"student": network.state_dict(), "teacher": other}, folder / "two.pt")
    network.linear.bias.data[0] = torch.nan
    torch.save(network.state_dict(), folder / "nan.pt")
    torch.save(CifarResNet(2, 3).state_dict(), folder / "deeper.pt")
    torch.save(torch.nn.ModuleDict({"head": torch.nn.Linear(3, 3)}).state_dict(), folder / "flat.pt")
    torch.save({"state_dict": {"conv1.weight": Malicious()}}, folder / "malicious.ckpt")
