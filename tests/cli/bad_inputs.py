"""Files that must be refused, made once for all tests."""

import os
import pickle
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


def write_bad_inputs(folder: Path, config: str) -> None:
    """Write image folders, weights and experiment files, each with one thing wrong (`good.pt` and `images` have none)."""
    _write_folders(folder)
    _write_weights(folder)
    (folder / "no_yaml.yaml").write_text("trainer: {max_epochs: 3\nmodel: [")
    (folder / "no_text.yaml").write_bytes((folder / "images/000.png").read_bytes())
    (folder / "no_normal.yaml").write_text("\n".join(line for line in config.splitlines() if " normal:" not in line))
    network = "class_path: lightning_gradood.networks.CifarResNet\n      "
    (folder / "no_class.yaml").write_text(config.replace(network, ""))


def _write_folders(folder: Path) -> None:
    (folder / "empty").mkdir()
    write_images(folder / "images", 6)
    write_images(folder / "two", 2)
    write_images(folder / "broken", 6)
    (folder / "broken/003.png").write_bytes(b"cut off")
    for name in "abcd":
        write_images(folder / "four_classes" / name, 3)


def _write_weights(folder: Path) -> None:
    network = CifarResNet(blocks_per_stage=1, num_classes=3)
    torch.save(network.state_dict(), folder / "good.pt")
    network.linear.bias.data[0] = torch.nan
    torch.save(network.state_dict(), folder / "nan.pt")
    torch.save(CifarResNet(2, 3).state_dict(), folder / "deeper.pt")
    torch.save(CifarResNet(1, 5).state_dict(), folder / "five_classes.pt")
    torch.save({"state_dict": {"conv1.weight": Malicious()}}, folder / "malicious.ckpt")
    with open(folder / "malicious.pkl", "wb") as file:
        pickle.dump(Malicious(), file)
