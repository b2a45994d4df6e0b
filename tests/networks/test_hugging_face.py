"""Networks of Hugging Face, by a stand-in for transformers: configuration, images as the processor makes them, weights."""

import sys
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from asserts import assert_refused
from PIL import Image
from torch import nn

from lightning_gradood.core import decode, encode, packages_of
from lightning_gradood.guard import recipe_of
from lightning_gradood.networks import HuggingFaceImages, trained_network

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8))
SETTINGS = {"image_processor_type": "SmallImageProcessor", "size": 8, "image_mean": [0.4, 0.5, 0.6], "image_std": 0.2}


class Config:
    def __init__(self, model_type, num_labels=3, **given):
        self.given = {"model_type": model_type, "num_labels": num_labels, **given}
        self.num_labels = num_labels

    def to_dict(self):
        return {**self.given, "id2label": {0: "cat"}, "dtype": "bfloat16", "auto_map": {"AutoConfig": "code.Config"}}

    to_diff_dict = to_dict


class Classifier(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config, self.head = config, nn.Linear(3, config.num_labels)

    def forward(self, images):
        return {"logits": self.head(images.mean((2, 3)))}


class SmallImageProcessor:
    """Resizes, exchanges red and blue, and normalises."""

    def __init__(self, settings):
        self.settings = settings

    from_dict = classmethod(lambda cls, settings: cls(settings))

    def to_dict(self):
        return self.settings

    def __call__(self, image, return_tensors):
        pixels = np.asarray(image.resize([self.settings["size"]] * 2))[:, :, ::-1] / 255
        values = (pixels - self.settings["image_mean"]) / self.settings["image_std"]
        return {"pixel_values": torch.tensor(values.transpose(2, 0, 1), dtype=torch.float32)[None]}


class Hub:
    """Without a connection."""

    constants = SimpleNamespace(HF_HUB_OFFLINE=False, ENDPOINT="https://huggingface.co")
    looks: ClassVar[list[str]]

    @classmethod
    def get_session(cls):
        return cls

    @classmethod
    def head(cls, url, timeout):
        cls.looks.append(url)
        raise OSError("Name or service not known")


TRAINED = Classifier(Config("small", 5))


def from_pretrained(name, output_loading_info):
    if name == "nowhere":
        assert Hub.constants.HF_HUB_OFFLINE, "or transformers would try for half a minute"
        raise OSError("We couldn't connect to 'https://huggingface.co'. Check\nthe rest")
    return TRAINED, {"missing_keys": {"head.weight", "head.bias"} if name == "encoder" else set()}


@pytest.fixture
def transformers(monkeypatch, tmp_path):
    stand_in = SimpleNamespace(
        AutoConfig=SimpleNamespace(for_model=Config),
        AutoModelForImageClassification=SimpleNamespace(from_pretrained=from_pretrained, from_config=Classifier),
        AutoImageProcessor=SimpleNamespace(from_pretrained=lambda _: SmallImageProcessor(SETTINGS)),
        SmallImageProcessor=SmallImageProcessor,
    )
    monkeypatch.setitem(sys.modules, "transformers", stand_in)
    monkeypatch.setitem(sys.modules, "huggingface_hub", Hub)
    monkeypatch.setattr(Hub, "looks", [], raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))


def test_a_name_gives_network_weights_and_images_and_a_guard_that_needs_no_trust(transformers):
    found = trained_network("hf:photos/small")
    assert (found.outputs, found.mean, found.std) == (5, [0.4, 0.5, 0.6], [0.2] * 3)
    assert found.arguments == {"config": {"model_type": "small", "num_labels": 5}}
    images = decode(encode(found.transform))(PICTURE)
    assert (images.shape, images.dtype, str(decode(encode(found.transform)))) == (
        (3, 8, 8),
        torch.uint8,
        "SmallImageProcessor",
    )
    theirs = TRAINED(SmallImageProcessor(SETTINGS)(PICTURE, "pt")["pixel_values"])["logits"]
    torch.testing.assert_close(found.build()(images[None] / 255)["logits"], theirs)
    recipe = recipe_of(TRAINED)
    assert (packages_of(recipe.network), recipe.network["init_args"]) == ({"lightning_gradood"}, found.arguments)


def test_what_cannot_be_found_read_or_classified_is_one_sentence(transformers, monkeypatch):
    other = HuggingFaceImages({"image_processor_type": "AutoConfig"})
    assert_refused(
        (
            lambda: trained_network("hf:nowhere"),
            "hf:nowhere should .* OSError: We couldn't connect to 'https://hugging",
        ),
        (
            lambda: trained_network("hf:encoder"),
            "its weights lack head.bias and 1 others, as it was trained for another",
        ),
        (lambda: other(PICTURE), "Got AutoConfig. Give --data.transform another"),
    )
    assert (len(Hub.looks), Hub.constants.HF_HUB_OFFLINE) == (2, False)
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert_refused((lambda: trained_network("hf:small"), "find the package transformers. Got none. Install it: "))
