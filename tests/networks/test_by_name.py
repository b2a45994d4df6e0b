"""Trained networks by name: their weights on disk, and the images that they were trained on."""

import sys
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import pytorch_ood.model
import torch
from PIL import Image
from torchvision.models import Inception_V3_Weights, ResNet50_Weights
from torchvision.transforms import CenterCrop, InterpolationMode, Resize
from torchvision.transforms.functional import pil_to_tensor

from lightning_gradood.core import Refusal, decode, encode
from lightning_gradood.networks import trained_network

RESNET, WEIGHTS = "torchvision.models.resnet50", ResNet50_Weights.IMAGENET1K_V2
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8))
LOAD, WRN = "pytorch_ood.model.load_model", "wrn-40-2/cifar10/oe"


@pytest.fixture(autouse=True)
def checkpoints(monkeypatch, tmp_path):
    """A folder of checkpoints, and no connection."""

    def offline(*_):
        raise URLError("no connection")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def normalised(found):
    pixels = pil_to_tensor(decode(encode(found.transform))(PICTURE)) / 255
    return (pixels - torch.tensor(found.mean).view(-1, 1, 1)) / torch.tensor(found.std).view(-1, 1, 1)


def test_torchvision_s_file_is_found_on_disk_and_its_transform_comes_with_it(checkpoints):
    (checkpoints / "resnet50-11ad3fa6.pth").touch()
    found = trained_network(RESNET, {"weights": WEIGHTS, "num_classes": 10})
    assert found.weights == str(checkpoints / "resnet50-11ad3fa6.pth")
    assert found.arguments == {"weights": None, "num_classes": 1000}
    torch.testing.assert_close(normalised(found), WEIGHTS.transforms()(PICTURE))
    assert trained_network(RESNET, {"weights": WEIGHTS}, "own.pt").weights == "own.pt"
    inception = trained_network("torchvision.models.inception_v3", {"weights": Inception_V3_Weights.DEFAULT}, "own.pt")
    assert decode(encode({"class_path": inception.class_path, "init_args": inception.arguments})).transform_input
    for other in ({"weights": None}, {}):
        assert trained_network(RESNET, other) is None


def test_what_cannot_be_downloaded_is_named_with_its_place(checkpoints):
    with pytest.raises(
        Refusal, match=f"no connection.*resnet50-11ad3fa6.pth. Save that file as {checkpoints}.*--model.w"
    ):
        trained_network(RESNET, {"weights": WEIGHTS})
    with pytest.raises(
        Refusal, match=f"cifar10_wrn_oe_tune_epoch_9.pt. Save that file as {checkpoints}/wrn-40-2-cifar10"
    ):
        trained_network(LOAD, {"identifier": WRN})


def test_pytorch_ood_s_registry_gives_architecture_images_and_the_published_file_alone(checkpoints):
    with pytest.raises(Refusal, match=r"Got `model.network.identifier = wrn-40-2/cifar10/oo`. Did you mean `wrn-40-2"):
        trained_network(LOAD, {"identifier": "wrn-40-2/cifar10/oo"})
    (checkpoints / pytorch_ood.model.get_model_info(WRN).file_name).write_bytes(b"other")
    with pytest.raises(Refusal, match=r"Got .* with SHA-256 .*, not b473f1c463c9fe16. Remove it"):
        trained_network(LOAD, {"identifier": WRN})
    found = trained_network(LOAD, {"identifier": WRN}, "own.pt")
    network = decode(encode({"class_path": found.class_path, "init_args": found.arguments}), ["pytorch_ood"])
    assert network(normalised(found)[None]).shape == (1, 10)
    torch.testing.assert_close(normalised(found), pytorch_ood.model.load_transform(WRN)(PICTURE))


def converting(name, pretrained, pretrained_cfg_overlay):
    """What `timm.create_model` does with a file of another's."""
    network = torch.nn.PReLU(2)
    with open(pretrained_cfg_overlay["file"], "rb") as file:
        network.weight.data = torch.load(file, weights_only=True)["theirs"]
    return network


def test_timm_s_configuration_becomes_transform_and_statistics_and_other_s_files_are_converted(
    monkeypatch, checkpoints
):
    config = SimpleNamespace(hf_hub_id="timm/resnet18.a1_in1k", hf_hub_filename=None, num_classes=9, to_dict=dict)
    made = SimpleNamespace(transforms=[Resize(235, InterpolationMode.BICUBIC), CenterCrop(224)])
    settings = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    data = SimpleNamespace(resolve_data_config=lambda **_: settings, create_transform=lambda **_: made)
    other = {"architecture": "gcvit", "tag": "in1k", "hf_hub_id": None, "url": "https://there/gcvit_nvidia-00ff.pth"}
    others = SimpleNamespace(**vars(config) | other)
    hub = SimpleNamespace(**vars(config) | other | {"hf_hub_id": "naver-ai/rdnet", "architecture": "rdnet"})
    models = SimpleNamespace(get_pretrained_cfg={"resnet18": config, "gcvit": others, "rdnet": hub}.get)
    timm = SimpleNamespace(data=data, models=models, create_model=converting)
    monkeypatch.setitem(sys.modules, "timm", timm)
    monkeypatch.setitem(
        sys.modules,
        "huggingface_hub",
        SimpleNamespace(try_to_load_from_cache=lambda one, _: "cached" if "timm" in one else None),
    )
    given = {"model_name": "resnet18", "pretrained": True, "num_classes": 10}
    found = trained_network("timm.create_model", given)
    assert (found.weights, found.arguments) == ("cached", {**given, "pretrained": False, "num_classes": 9})
    unsaid = trained_network("timm.create_model", {"model_name": "resnet18", "pretrained": True})
    assert (unsaid.outputs, "num_classes" in unsaid.arguments) == (9, False)  # which the parser would refuse
    pixels = CenterCrop(224)(Resize(235, InterpolationMode.BICUBIC)(PICTURE))
    torch.testing.assert_close(normalised(found), pil_to_tensor(pixels) / 127.5 - 1)
    assert trained_network("timm.create_model", {**given, "model_name": "other"}) is None

    for name, file in (("gcvit", "gcvit_nvidia-00ff.pth"), ("rdnet", "naver-ai_rdnet.safetensors")):
        asked = ("timm.create_model", {**given, "model_name": name})
        with pytest.raises(Refusal, match=f"Save that file as {checkpoints}/{file}, or name it with --model.w"):
            trained_network(*asked)
        (checkpoints / file).write_bytes(b"other")
        with pytest.raises(Refusal, match=f"{file}, which timm cannot read: .*, to download it again"):
            trained_network(*asked)
        torch.save({"theirs": torch.ones(2)}, checkpoints / file)
        found = trained_network(*asked).weights
        assert torch.load(found, weights_only=True).keys() == {"weight"}
        (checkpoints / file).unlink()
        assert trained_network(*asked).weights == found  # converted once
