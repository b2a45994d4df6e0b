"""Trained networks by name, of torchvision, timm, Hugging Face and pytorch-ood, with the images that they expect.

A name becomes what an experiment file says of any other network: class path and arguments, a file of weights, the
statistics of its pixels and a transform. So nothing is fetched when a guard is loaded.
"""

import hashlib
import inspect
import os
import pkgutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from lightning_gradood.core import (
    Component,
    Picture,
    PositiveInt,
    Refusal,
    atomic_write,
    decode,
    did_you_mean,
    encode,
    first_line,
    packages_of,
    say,
)
from lightning_gradood.networks.architectures import Normalized
from lightning_gradood.networks.hugging_face_networks import described_online, hugging_face, published
from lightning_gradood.networks.weights import load_weights, outputs_in

_V2 = "torchvision.transforms.v2"
_AS_TRAINED = {"transform_input": True, "init_weights": False}  # what torchvision sets where it reads trained weights


@dataclass(frozen=True)
class CentreSquare(Component):
    """The largest central square of a picture, resized: what networks for photographs expect, where nothing else is known.

    Args:
        size: Its height and width in pixels. By default as the network of an experiment file was trained, with the whole
            pre-processing that torchvision, timm or Hugging Face name for it; 32 for our networks, 224 for others.
    """

    size: PositiveInt | None = None

    def __call__(self, picture: Picture) -> Picture:
        """Cut and resize one picture."""
        size = self.size or 224
        if isinstance(picture, Image.Image):
            return ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC)
        from torchvision.transforms.v2 import functional  # takes as long to import as torch

        square: Tensor = functional.center_crop(functional.resize(picture, [size]), [size])
        return square


@dataclass(frozen=True)
class TrainedNetwork:
    """What a name stands for.

    Args:
        class_path, arguments: of the network, with as many outputs as were trained and without what fetches weights.
        outputs: their number.
        weights: the file.
        mean, std: of each channel, pixels in [0, 1].
        transform: resizing and cropping to the network's images, as an experiment file names it.
    """

    class_path: str
    arguments: dict[str, Any]
    outputs: int
    weights: str
    mean: list[float]
    std: list[float]
    transform: dict[str, Any]

    def build(self) -> nn.Module:
        """Return the network with its weights, from pixels in [0, 1], in eval mode."""
        described = encode({"class_path": self.class_path, "init_args": self.arguments})
        network: nn.Module = decode(described, packages_of(described))
        load_weights(network, self.weights)
        return Normalized(network, self.mean, self.std).eval()


def trained_network(
    class_path: str, arguments: Mapping[str, Any] = MappingProxyType({}), weights: str | None = None
) -> TrainedNetwork | None:
    """Resolve a network that is named with trained weights; None for any other.

    Named are `torchvision.models.*` with `weights`, timm's functions with `pretrained`, `hugging_face` with a folder or an
    id, for which `hf:NAME` stands, and `pytorch_ood.model.load_model` with an `identifier`. A file that is not in
    torch.hub's folder of checkpoints (or in Hugging Face's cache) is downloaded there.

    Args:
        class_path: of the function that builds the network.
        arguments: of that function.
        weights: a file of the user's own to take instead; `DEFAULT` names torchvision's default weights.

    Raises:
        Refusal: the download fails (it says which file goes where), a file on disk is another one, or there is no such
            identifier, and there are no such weights.
    """
    given = dict(arguments)
    if class_path.startswith("torchvision.models."):
        return _of_torchvision(class_path, given, weights)
    if class_path.startswith("timm.") and given.get("pretrained"):
        return _of_timm(class_path, given, weights)
    if class_path in ("pytorch_ood.model.load_model", "pytorch_ood.model.registry.load_model"):
        return _of_pytorch_ood(str(given.get("identifier")), weights)
    if name := given.get("pretrained_model_name_or_path", class_path.partition("hf:")[2]):
        config, images, file = published(str(name))
        made, outputs = f"lightning_gradood.networks.{hugging_face.__name__}", config["num_labels"]
        return TrainedNetwork(made, {"config": config}, outputs, weights or file, *images.statistics, encode(images))
    return None


def outputs_of(class_path: str, arguments: Mapping[str, Any], weights: str, prefix: str | None = None) -> int | None:
    """Number of outputs of the network that a file of weights was saved from, where another number is all that differs.

    None where nothing or more differs, or the network takes no `num_classes`. Arguments are as `trained_network` has them.
    """
    described = encode({"class_path": class_path, "init_args": arguments})
    with suppress(Exception), torch.device("meta"):  # whatever is wrong is said where the network is built
        network = decode(described, packages_of(described))
        known = inspect.signature(pkgutil.resolve_name(class_path)).parameters
        return (
            outputs_in(weights, network, prefix) if "num_classes" in {*arguments, *known} or "kwargs" in known else None
        )
    return None


def _of_torchvision(class_path: str, given: dict[str, Any], file: str | None) -> TrainedNetwork | None:
    from torchvision import models
    from torchvision.transforms._presets import ImageClassification

    if given.get("weights") is None and file != "DEFAULT":
        return None
    try:
        if class_path.endswith(".get_model"):
            class_path = f"torchvision.models.{models.get_model_builder(given.pop('name')).__name__}"
        known = models.get_model_weights(class_path.rpartition(".")[2])
        named = known.verify(given.get("weights") or "DEFAULT")
    except (LookupError, TypeError, ValueError) as error:
        raise Refusal(
            "`model.network` should be a model of torchvision with weights of its own. Got "
            f"{class_path} with weights {given.get('weights')}: {error}. Write e.g. --model.network.weights DEFAULT."
        ) from error
    preset = named.transforms()
    if not isinstance(preset, ImageClassification):
        return None
    if class_path.endswith((".googlenet", ".inception_v3")):
        given |= _AS_TRAINED
    if file in (None, "DEFAULT"):
        file = _on_disk(named.url, os.path.basename(named.url))
    transform = _transform(preset.resize_size, preset.crop_size, preset.interpolation)
    outputs = len(named.meta["categories"])
    given |= {"weights": None, "num_classes": outputs}
    return TrainedNetwork(class_path, given, outputs, file, preset.mean, preset.std, transform)


def _of_timm(class_path: str, given: dict[str, Any], file: str | None) -> TrainedNetwork | None:
    from torchvision.transforms import CenterCrop, Resize

    timm, name = import_module("timm"), str(given.get("model_name") or class_path.rpartition(".")[2])
    with described_online(name):
        if name.startswith(("hf-hub:", "hf_hub:")):
            settings, name, more = timm.models.load_model_config_from_hf(name[7:])
            config, given = timm.models.PretrainedCfg(**settings), {**given, "model_name": name, **(more or {})}
        else:
            config = timm.models.get_pretrained_cfg(name)
    if config is None or not (config.hf_hub_id or config.url):
        return None  # timm has no weights
    settings = timm.data.resolve_data_config(pretrained_cfg=config.to_dict())
    resize, crop, *_ = timm.data.create_transform(**settings).transforms
    if not (isinstance(resize, Resize) and isinstance(crop, CenterCrop)):
        return None
    if file is None:
        own = str(config.hf_hub_id).startswith("timm/") and not config.hf_hub_filename
        file = _file_of_timm(config) if own else _converted(timm, name, config)
    transform = _transform(resize.size, crop.size, resize.interpolation)
    mean, std = map(list, (settings["mean"], settings["std"]))
    given["pretrained"] = False
    if "num_classes" in given:  # else timm's default, which the parser does not know as a keyword
        given["num_classes"] = config.num_classes
    return TrainedNetwork(class_path, given, config.num_classes, file, mean, std, transform)


def _file_of_timm(config: Any) -> str:
    repository, held = config.hf_hub_id, config.hf_hub_filename or "model.safetensors"
    if not repository:
        return _on_disk(config.url, os.path.basename(config.url))
    cached = import_module("huggingface_hub").try_to_load_from_cache(repository, held)
    url = f"https://huggingface.co/{repository}/resolve/main/{held}"
    name = repository.removeprefix("timm/").replace("/", "_") + os.path.splitext(held)[1]
    return cached if isinstance(cached, str) else _on_disk(url, name)


def _converted(timm: Any, name: str, config: Any) -> str:
    """Path of the weights of another's file under the network's own names, which timm gives them once."""
    path = Path(
        torch.hub.get_dir(),
        "checkpoints",
        f"timm_{config.architecture}.{config.tag or str(config.hf_hub_id).replace('/', '_')}.pt",
    )
    if not path.is_file():
        file = _file_of_timm(config)
        try:
            network = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": file})
        except Exception as error:  # of unpickling, of the keys, of timm's conversion
            raise Refusal(
                f"`model.network` should have the weights that were published. Got {file}, which timm cannot read: "
                f"{first_line(error)}. Remove it, to download it again, or name weights with --model.weights."
            ) from error
        with atomic_write(path, "TORCH_HOME") as opened:
            torch.save(network.state_dict(), opened)
    return str(path)


def _of_pytorch_ood(identifier: str, file: str | None) -> TrainedNetwork | None:
    registry = import_module("pytorch_ood.model")
    try:
        entry = registry.get_model_info(identifier)
    except ValueError as error:
        raise Refusal(
            "`model.network.identifier` should be one of `pytorch_ood.model.list_models()`. Got "
            f"`model.network.identifier = {identifier}`. {did_you_mean(identifier, registry.list_models())}"
        ) from error
    images = entry.preprocessing
    file = file or _on_disk(entry.url, entry.file_name, entry.sha256)
    transform = _transform(images.size, images.crop_size)
    mean, std = list(images.mean), list(images.std)
    given = dict(entry.arch_kwargs)
    return TrainedNetwork(entry.arch_class, given, given["num_classes"], file, mean, std, transform)


def _transform(size: int | Sequence[int], crop: Sequence[int] | None, interpolation: Any = None) -> dict[str, Any]:
    """RGB, resizing (a single number is that of the shorter side) and cropping, on 8-bit pixels."""
    sizes = {"size": [size] if isinstance(size, int) else list(size)}
    resize = sizes if interpolation is None else {**sizes, "interpolation": interpolation}
    parts = [("RGB", {}), ("Resize", resize)] + ([] if crop is None else [("CenterCrop", {"size": list(crop)})])
    steps = [{"class_path": f"{_V2}.{name}", "init_args": given} for name, given in parts]
    return {"class_path": f"{_V2}.Compose", "init_args": {"transforms": steps}}


def _on_disk(url: str, name: str, digest: str = "") -> str:
    """Path of a file among torch.hub's checkpoints, where it is downloaded if it is not there."""
    path = Path(torch.hub.get_dir(), "checkpoints", name)
    if not path.is_file():
        say(f"Downloading {url} to {path}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            known = torch.hub.HASH_REGEX.search(name)
            torch.hub.download_url_to_file(url, str(path), digest or (known and known[1]), sys.stderr.isatty())
        except (OSError, RuntimeError) as error:
            raise Refusal(
                f"`model.network` should name weights that are on disk or can be downloaded. Got {error} for {url}. "
                f"Save that file as {path}, or name it with --model.weights."
            ) from error
    if digest:
        with path.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
        if found != digest:
            raise Refusal(
                f"`model.network` should have the weights that were published. Got {path} with SHA-256 {found[:16]}, not "
                f"{digest[:16]}. Remove it, to download it again from {url}, or name it with --model.weights."
            )
    return str(path)
