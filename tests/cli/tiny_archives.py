"""The data sets of the paper's experiments in miniature, in their own formats and under their own names."""

import io
import pickle
import shutil
import tarfile

import numpy as np
from PIL import Image
from pytorch_ood.dataset.img import LSUNResize, TinyImageNetResize
from scipy.io import savemat
from torchvision.datasets import CIFAR10, SVHN


def accept_any_checksum(monkeypatch):
    """Let files of the right name pass: those of the real archives would have to be the real ones."""
    monkeypatch.setattr(CIFAR10, "tgz_md5", None)
    monkeypatch.setattr(CIFAR10, "train_list", [[name, None] for name, _ in CIFAR10.train_list])
    monkeypatch.setattr(CIFAR10, "test_list", [[name, None] for name, _ in CIFAR10.test_list])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": None})
    for split in ("train", "test"):
        monkeypatch.setitem(SVHN.split_list, split, [*SVHN.split_list[split][:2], None])
    for kind in (TinyImageNetResize, LSUNResize):
        monkeypatch.setattr(kind, "tgz_md5", None)


def place_cifar10(folder, images=20):
    """Put `cifar-10-python.tar.gz` there, as it is downloaded: six batches of pickled pixels and the class names."""
    files = {"batches.meta": {"label_names": [f"class {n}" for n in range(10)]}}
    for seed, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
        labels = [row % 10 for row in range(images)]
        files[name] = {"data": _pixels(seed, images, labels).reshape(images, 3072), "labels": labels}
    packed = {f"cifar-10-batches-py/{name}": pickle.dumps(content) for name, content in files.items()}
    _pack(folder / "cifar-10-python.tar.gz", packed)


def place_svhn(folder, images=20):
    """Put `train_32x32.mat` and `test_32x32.mat` there; SVHN's class of the digit 0 is 10."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, split in enumerate(("train", "test")):
        labels = [row % 10 for row in range(images)]
        pixels = _pixels(10 + seed, images, labels).transpose(2, 3, 1, 0)
        savemat(folder / f"{split}_32x32.mat", {"X": pixels, "y": np.array([[label or 10 for label in labels]]).T})


def place_odin(folder, name, images=12, unpacked=True):
    """Put one of ODIN's archives there, `Imagenet_resize` or `LSUN_resize`, and unpack it as it is when downloaded."""
    files = {}
    for row, pixels in enumerate(_pixels(len(name), images, [0] * images)):
        Image.fromarray(pixels.transpose(1, 2, 0)).save(file := io.BytesIO(), format="PNG")
        files[f"{name}/{name}/{row}.jpg"] = file.getvalue()
    archive = _pack(folder / f"{name}.tar.gz", files)
    if unpacked:
        shutil.unpack_archive(archive, folder)


def place_everything(folder):
    place_cifar10(folder)
    place_svhn(folder / "svhn")
    for name in ("Imagenet_resize", "LSUN_resize"):
        place_odin(folder / "odin", name)


def _pixels(seed, images, labels):
    """Noise around a grey level of its own for every class; uint8 [images, 3, 32, 32]."""
    noise = np.random.default_rng(seed).integers(0, 30, (images, 3, 32, 32))
    return (noise + 20 * np.array(labels)[:, None, None, None]).astype(np.uint8)


def _pack(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path
