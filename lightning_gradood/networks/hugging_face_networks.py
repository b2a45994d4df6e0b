"""Image classifiers of Hugging Face's transformers: the network by its configuration, the image processor as a transform."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from lightning_gradood.core import Component, Picture, Refusal, atomic_write

# what says nothing of the structure, would run code of the folder, or keep weights in another precision
_LEFT_OUT = ("id2label", "label2id", "auto_map", "transformers_version", "_name_or_path", "dtype", "torch_dtype")

_PATIENCE = 10  # seconds that the Hub has to answer


def hugging_face(config: dict[str, Any] | None = None, pretrained_model_name_or_path: str | None = None) -> nn.Module:
    """Build an image classifier of transformers, randomly initialised, from normalised images to an output with `logits`.

    Args:
        config: What its `config.json` holds, `model_type` first of all.
        pretrained_model_name_or_path: In an experiment file, its folder or its id on the Hub in place of that, by which
            its weights and its image processor are found too; `hf:NAME` is short for it.
    """
    with described_online(f"hf:{pretrained_model_name_or_path or ''}"):
        known = _transformers().AutoConfig
        made = known.from_pretrained(pretrained_model_name_or_path) if config is None else known.for_model(**config)
        network: nn.Module = _transformers().AutoModelForImageClassification.from_config(made)
        return network


def configuration_of(network: nn.Module) -> dict[str, Any]:
    """What `hugging_face` builds a network of transformers from; nothing for other networks."""
    config: Any = getattr(network, "config", None)
    if getattr(config, "to_diff_dict", None) is None:
        return {}
    kept = {name: value for name, value in config.to_dict().items() if name not in _LEFT_OUT}
    return {**kept, "num_labels": config.num_labels}


@dataclass(frozen=True)
class HuggingFaceImages(Component):
    """An image processor of Hugging Face as a transform, without its normalisation: a picture to uint8 [3, H, W].

    Args:
        settings: What `preprocessor_config.json` holds, `image_processor_type` first of all.
    """

    settings: dict[str, Any]

    def __call__(self, picture: Picture) -> Tensor:
        """Resize, crop and whatever else the processor does, and take its normalisation back."""
        mean, std = (torch.tensor(values)[:, None, None] for values in self.statistics)
        return ((self._processed(picture) * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)

    def __str__(self) -> str:
        return str(self.settings.get("image_processor_type"))

    @cached_property
    def statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel, pixels in [0, 1], as black and white pictures show them."""
        shades = [self._processed(Image.new("RGB", (64, 64), shade)) for shade in ("black", "white")]
        black, white = (shade.flatten(1).median(1).values.double() for shade in shades)  # some pad
        mean, std = black / (black - white), 1 / (white - black)
        return mean.round(decimals=6).abs().tolist(), std.round(decimals=6).tolist()

    @cached_property
    def _processor(self) -> Any:
        kind = getattr(_transformers(), str(self), None) if re.fullmatch(r"\w+ImageProcessor\w*", str(self)) else None
        if kind is None:
            raise Refusal(
                "`settings` should name an image processor of transformers that is installed, as `image_processor_type`. Got "
                f"{self}. Give --data.transform another transform."
            )
        return kind.from_dict(dict(self.settings))

    def _processed(self, picture: Picture) -> Tensor:
        from torchvision.transforms.v2.functional import to_pil_image  # transformers imports it as well

        image = picture if isinstance(picture, Image.Image) else to_pil_image(picture)
        values: Tensor = self._processor(image.convert("RGB"), return_tensors="pt")["pixel_values"][0]
        return values


def published(name: str) -> tuple[dict[str, Any], HuggingFaceImages, str]:
    """Configuration, image processor and weights, in one file among torch.hub's checkpoints, of a folder or an id."""
    with described_online(f"hf:{name}"):
        known = _transformers()
        network, about = known.AutoModelForImageClassification.from_pretrained(name, output_loading_info=True)
        if missing := sorted(about["missing_keys"]):
            raise ValueError(
                f"its weights lack {missing[0]} and {len(missing) - 1} others, as it was trained for another task"
            )
        images = HuggingFaceImages(known.AutoImageProcessor.from_pretrained(name).to_dict())
        path = Path(torch.hub.get_dir(), "checkpoints", f"hf_{re.sub(r'[^A-Za-z0-9.-]+', '_', name).strip('_')}.pt")
        with atomic_write(path, "TORCH_HOME") as opened:
            torch.save(network.state_dict(), opened)
        return configuration_of(network), images, str(path)


@contextmanager
def described_online(name: str) -> Iterator[None]:
    """Refuse in one sentence, and at once without a connection, a model of Hugging Face's Hub that cannot be found or read."""
    place = name.partition(":")[2]
    try:
        with nullcontext() if not place or Path(place).is_dir() else _looking_once():
            yield
    except Refusal:
        raise
    except Exception as error:  # of configurations, of weights, of the connection
        said = " ".join(str(error).split()).partition(". ")[0][:300].rstrip(".")
        raise Refusal(
            f"`model.network` = {name} should be an image classifier that is on disk or can be downloaded, with its image "
            f"processor. Got {type(error).__name__}: {said}. Correct the name, or get the model where there is a connection, "
            "`hf download ID --local-dir FOLDER`, and name hf:FOLDER (local-dir:FOLDER in timm)."
        ) from error


@contextmanager
def _looking_once() -> Iterator[None]:
    """Ask the Hub once whether it is there; without an answer its client would try for half a minute, file by file."""
    try:
        hub = import_module("huggingface_hub")
    except ImportError:
        yield
        return
    before = hub.constants.HF_HUB_OFFLINE  # from the environment, which is read at import alone
    try:
        hub.get_session().head(hub.constants.ENDPOINT, timeout=_PATIENCE)
    except Exception:  # of whichever HTTP client it has
        hub.constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        hub.constants.HF_HUB_OFFLINE = before


def _transformers() -> Any:
    try:
        return import_module("transformers")
    except ImportError as error:
        raise Refusal(
            "A network of Hugging Face should find the package transformers. Got none. Install it: "
            "`python -m pip install transformers`."
        ) from error
