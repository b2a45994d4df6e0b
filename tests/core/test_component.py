"""Components as JSON and arrays, and back: equal, of plain values only, and nothing built that is not a component."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from asserts import assert_refused
from torch import nn
from torchvision.transforms import InterpolationMode

from lightning_gradood import detectors, networks
from lightning_gradood.core import Component, arguments_of, class_path, decode, digest, encode, packages_of
from lightning_gradood.gradients import AllOnes, KHot, LabelDesign, Uniform


class Plain(LabelDesign):
    """No dataclass; keeps its argument under another name, or under its own."""

    name = "plain"

    def __init__(self, scale, honest=True):
        self.honest = honest
        setattr(self, "scale" if honest else "_scale", scale)

    def logit_gradient(self, logits):
        return self.scale * logits


@dataclass(frozen=True, eq=False)
class Learnt(Component):
    """Arrays of both kinds, plain values, and another one inside."""

    rows: np.ndarray
    weights: Mapping[str, torch.Tensor]
    design: LabelDesign
    number: int
    inner: list["Learnt"] = field(default_factory=list)


def through_json(thing, **options):
    return decode(json.loads(json.dumps(encode(thing))), **options)


def test_networks_and_transforms_are_built_as_experiment_files_mean_them():
    arguments = {"weights": None, "num_classes": 3, "norm_layer": {"class_path": "torch.nn.InstanceNorm2d"}}
    before = torch.get_rng_state()
    built = through_json({"class_path": "torchvision.models.resnet18", "init_args": arguments})
    assert torch.equal(before, torch.get_rng_state())
    assert isinstance(built.bn1, nn.InstanceNorm2d)
    assert built.fc.out_features == 3
    v2 = "torchvision.transforms.v2"
    nearest = {"size": [8, 8], "interpolation": InterpolationMode.NEAREST}
    transforms = [
        {"class_path": f"{v2}.Resize", "init_args": nearest},
        {"class_path": f"{v2}.ToDtype", "init_args": {"dtype": torch.float32, "scale": True}},
    ]
    compose = through_json({"class_path": f"{v2}.Compose", "init_args": {"transforms": transforms}})
    assert compose.transforms[0].interpolation == InterpolationMode.NEAREST
    out = compose(torch.zeros(3, 16, 16, dtype=torch.uint8))
    assert (out.shape, out.dtype) == ((3, 8, 8), torch.float32)


def test_components_come_back_equal_with_their_arrays_in_a_file_or_in_the_text(monkeypatch):
    assert class_path(nn.Linear) == "torch.nn.Linear"
    for thing in (AllOnes(), Uniform(2.0), detectors.KNN(k=3), networks.MLPSettings(width=7)):
        assert arguments_of(through_json(thing)) == arguments_of(thing)
        assert digest(through_json(thing)) == digest(thing)
    assert len({digest(one) for one in (AllOnes(), KHot((0,)), KHot((0, 1)), Uniform(), Uniform(2.0))}) == 5
    assert packages_of(encode([AllOnes(), {"class_path": "timm.create_model"}])) == {"lightning_gradood", "timm"}
    inner = Learnt(np.arange(3) > 1, {}, AllOnes(), 0)
    learnt = Learnt(np.arange(6.0).reshape(2, 3).T, {"bias": torch.tensor([1.5]).half()}, KHot((0, 2)), 4, [inner])
    arrays = {}
    text = json.dumps(encode(learnt, arrays, "fitted"))
    assert sorted(arrays) == ["fitted.inner.0.rows", "fitted.rows", "fitted.weights.bias"]
    for found in (decode(json.loads(text), ["core", __name__], arrays), through_json(learnt, trust=[__name__])):
        np.testing.assert_array_equal(found.rows, learnt.rows)
        assert torch.equal(found.weights["bias"], learnt.weights["bias"])
        assert found.weights["bias"].dtype == torch.float16
        assert found.inner[0].rows.tolist() == [False, False, True]
        assert (found.number, digest(found.design)) == (4, digest(learnt.design))


def test_what_is_no_component_is_neither_saved_nor_built():
    assert arguments_of(Plain(3.0)) == {"scale": 3.0, "honest": True}
    held = {"class_path": "torch.nn.Linear", "init_args": {"in_features": 1}}
    made = decode({"class_path": "torch.nn.Linear", "init_args": {"in_features": 2}})
    assert made(out_features=3).weight.shape == (3, 2)

    def building(path, **arguments):
        return lambda: decode({"class_path": path, "init_args": arguments})

    assert_refused(
        (lambda: encode(Plain(3.0, honest=False)), "A Plain should keep each argument "),
        (lambda: encode({"first": [nn.Linear(1, 1)]}), "Got a Linear in first.0. Keep what it is made from"),
        (building("os.system", command="true"), "or of packages that you trust. Got `os.system`"),
        (building("torch.hub.load", repo_or_dir="x"), "Got `torch.hub.load`. Load only files whose origin you know"),
        (building("torch.load", f="x"), "Got `torch.load`"),
        (building("torch.nn.Linearr"), "should name classes that are installed. Got `torch.nn.Linearr`"),
        (building("torchvision.models.resnet18", weights="DEFAULT"), "plain arguments .* Got ['weights']"),
        (building("torch.nn.Linear", width=3), "should take the arguments that the file names. Got: got an unexpected"),
        (lambda: decode({"dtype": "load"}), "should name torch's dtypes. Got `load`"),
        (lambda: decode({"enum": "torch.nn.Linear", "name": "x"}), "should name members of enumerations"),
        (lambda: decode({"array": "x", "dtype": "float32"}, arrays={}), "should hold the arrays that it names"),
        (lambda: decode(held | {"class_path": f"{os.__name__}.getcwd"}), "Got `os.getcwd`"),
    )
