"""A guard as one ONNX file: images in, verdicts out; it is run in onnxruntime and compared before it is handed out.

The probes and the network are traced by torch.export as they are; scores are those of `TensorFitted.tensor_score`, in
float64. Calibration scores and threshold are inside.
"""

from __future__ import annotations

import copy
import io
import json
import logging
import re
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from lightning_gradood.core import Refusal, as_float, first_line, to_float64, to_pixels
from lightning_gradood.detectors import (
    FittedCombined,
    ImageStatisticsProbe,
    MahalanobisProbe,
    SavedDetector,
    TensorFitted,
    TensorReadings,
)
from lightning_gradood.guard.guard import Guard
from lightning_gradood.metrics import conformal_p_values
from lightning_gradood.probes import FeatureLayerProbe, LogitsProbe, SharedLogitsProbe, read_probes

Pixels = Literal["uint8", "float32"]
_OPSET = 18
_LARGEST = 2**31 - 1  # bytes of a file of Protocol Buffers
_TOLERANCE = 1e-4  # of scores, absolute below 1 and relative above; of probabilities
_RATE = "false_positive_rate"
_OUTPUTS = ("prediction", "probability", "score", "p_value", "flagged")
_FORWARD = (LogitsProbe, SharedLogitsProbe, FeatureLayerProbe, ImageStatisticsProbe)
_ABOUT = (
    "images [N, C, H, W], after the transform; false_positive_rate: share of normal images to flag, 0 for the guard's own "
    "threshold. prediction: class; probability: largest softmax; score: higher = more anomalous; p_value: share of normal "
    "images that score at least as high; flagged: score above the threshold."
)


@dataclass(frozen=True)
class Exported:
    """A guard's ONNX file: its bytes, the type of its input, and how far its scores are from torch's on how many images."""

    content: bytes
    pixels: Pixels
    images: int
    difference: float


def export_guard(guard: Guard, images: Tensor, pixels: Pixels | None = None) -> Exported:
    """Write a guard as ONNX, run that in onnxruntime on images, and compare verdicts with the guard's.

    Inputs are `images`, [N, C, H, W] with any N, and `false_positive_rate`, a float64 that may be left out. Outputs are
    `prediction` int64, `probability` and `score` and `p_value` float64, `flagged` bool, [N] each. Metadata describe
    classes and transform.

    Args:
        images: to compare on, as for `Guard.__call__`; random ones are added.
        pixels: type of the input: `uint8`, 0 to 255, or `float32` in [0, 1]; by default as the transform gives them.

    Raises:
        Refusal: the detector needs backward passes; the network cannot be traced; ONNX has no such operator; or
            verdicts differ.
    """
    _refuse_missing_packages()
    if why := unexportable(guard.saved):
        raise Refusal(
            "`--guard` should have a detector of logits, features or views, as an ONNX file runs forward passes alone. Got "
            f"`{guard.about.detector_name}`, which {why}."
        )
    if pixels is None:
        blank = to_pixels(Image.new(guard.about.picture, (64, 64)), guard.transform, "picture")
        pixels = "uint8" if blank.dtype == torch.uint8 else "float32"
    noise = torch.rand(16, *guard.about.image_shape, generator=torch.Generator().manual_seed(0))
    shades = noise[:, :1, :1, :1].expand_as(noise)
    tried = [as_float(images).float().cpu(), noise, (noise + shades) / 2]
    batch = torch.cat(tried)
    if pixels == "uint8":
        batch = (255 * batch).round().to(torch.uint8)
    content = _content(guard, batch[-2:], pixels)
    return Exported(content, pixels, len(batch), _difference(guard, content, batch))


def unexportable(saved: SavedDetector) -> str:
    """Say what of a detector has no place in an ONNX file, as a verb and its object; empty where all has one."""
    others = [one for one in saved.detector.probes if not isinstance(one, _FORWARD)]
    if found := [one.name for one in others if not isinstance(one, MahalanobisProbe) or any(one.magnitudes)]:
        return f"reads {', '.join(found)}"
    members = saved.fitted.members if isinstance(saved.fitted, FittedCombined) else [saved.fitted]
    kinds = [type(one) for one in members if not isinstance(one, TensorFitted)]
    return f"has a {kinds[0].__name__}, whose score is not written as operations on tensors" if kinds else ""


class _Graph(nn.Module):
    """What a guard does with a batch, as one module."""

    def __init__(self, guard: Guard) -> None:
        super().__init__()
        self.guard, self.network = guard, copy.deepcopy(guard.network).cpu().requires_grad_(False)
        self.calibration = torch.tensor(guard.calibration)

    def forward(self, images: Tensor, false_positive_rate: Tensor) -> tuple[Tensor, ...]:
        reading = read_probes(self.guard.probes, self.network, as_float(images))
        logits, calibration = to_float64(reading.logits), self.calibration
        values = {name: to_float64(one) for name, one in reading.values.items()}
        scores = TensorReadings(values.__getitem__, logits.argmax(dim=1)).score(self.guard.fitted)
        number = len(calibration)
        # as `metrics.conformal_threshold`; where there are too few images for the rate, none is flagged
        place = number - ((number + 1) * false_positive_rate + 1e-9).floor().long()
        quantile = torch.cat([calibration, calibration.new_tensor([torch.inf])])[place.clamp(0, number)]
        own, classes = self.guard.class_thresholds, np.arange(logits.shape[1])
        thresholds = torch.tensor(own(classes) if own else np.full(len(classes), self.guard.threshold))
        threshold = torch.where(false_positive_rate > 0, quantile, thresholds[logits.argmax(dim=1)])
        p_values = (1.0 + (calibration >= scores[:, None]).sum(dim=1).double()) / (number + 1.0)
        return logits.argmax(dim=1), logits.softmax(dim=1).amax(dim=1), scores, p_values, scores > threshold


def _content(guard: Guard, images: Tensor, pixels: Pixels) -> bytes:
    """The bytes of the file, not yet compared."""
    import onnx

    graph, given = _Graph(guard).eval(), (images, torch.zeros((), dtype=torch.float64))
    graph(*given)  # finds feature layers, and refuses in words
    with _quiet():
        try:
            traced = torch.export.export(graph, given, dynamic_shapes=({0: torch.export.Dim("N", min=1)}, None))
        except Exception as error:  # whatever a network does
            raise _untraced(graph.network, error) from error
        try:
            program = torch.onnx.export(
                traced,
                dynamo=True,
                opset_version=_OPSET,
                input_names=["images", _RATE],
                output_names=list(_OUTPUTS),
                custom_translation_table={torch.ops.aten.sort.stable: _stable_sort},
                verbose=False,
            )
        except Exception as error:
            raise _no_operator(traced, error) from error
    model = cast(torch.onnx.ONNXProgram, program).model_proto
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(()), _RATE))  # makes the input optional
    onnx.helper.set_model_props(model, _metadata(guard, pixels))
    if model.ByteSize() > _LARGEST:
        raise Refusal(
            f"`--guard` should fit into one file of 2 GB. Got {model.ByteSize() / 1e9:.1f} GB. Keep less of the normal images, "
            "e.g. with a smaller `megabytes` of the detector."
        )
    return bytes(model.SerializeToString())


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what torch's exporter says of itself, and the whole graph where it gives up."""
    before = logging.root.manager.disable
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)


def _stable_sort(self: Any, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:
    """Sort in ONNX: TopK of all, of equals the first one first."""
    from onnxscript import opset18 as op

    number = op.Gather(op.Shape(self), op.Constant(value_ints=[dim]))
    return op.TopK(self, number, axis=dim, largest=int(descending), sorted=1)


def _metadata(guard: Guard, pixels: Pixels) -> dict[str, str]:
    about = guard.about
    told = {
        "detector": about.detector_name,
        "classes": about.classes,
        "picture": about.picture,
        "image_shape": about.image_shape,
        "transform": about.transform,
        "pixels": f"{pixels}, 0 to 255" if pixels == "uint8" else f"{pixels} in [0, 1]",
        "threshold": guard.threshold,
        _RATE: about.false_positive_rate,
        "calibration_images": len(guard.calibration),
        "versions": about.versions,
        "about": _ABOUT,
    }
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in told.items()}


def _difference(guard: Guard, content: bytes, images: Tensor) -> float:
    """Largest difference of scores, absolute below 1 and relative above; verdicts that differ are refused."""
    session, worst, start = _session(content), 0.0, 0
    for block in torch.split(images, guard.about.batch_size):
        expected = guard(block)
        slack = _TOLERANCE * np.maximum(1, np.abs(expected.scores))
        found = dict(zip(_OUTPUTS, session.run(None, {"images": block.numpy()}), strict=True))
        scores, by_class = found["score"], guard.class_thresholds
        threshold = by_class(expected.predictions) if by_class else guard.threshold
        wrong = {
            "score": ~(np.abs(scores - expected.scores) <= slack),
            # nearer to the threshold than the tolerance, rounding decides
            "flagged": (found["flagged"] != expected.flagged) & (np.abs(expected.scores - threshold) > slack),
            "p_value": np.abs(found["p_value"] - conformal_p_values(guard.calibration, scores)) > 1e-9,
            "probability": np.abs(found["probability"] - expected.probabilities) > _TOLERANCE,
            "prediction": (found["prediction"] != expected.predictions) & (expected.probabilities > 0.5 + _TOLERANCE),
        }
        for name, rows in wrong.items():
            if rows.any():
                row = int(rows.argmax())
                own = {"score": expected.scores, "flagged": expected.flagged, "p_value": expected.p_values}
                own |= {"probability": expected.probabilities, "prediction": expected.predictions}
                raise Refusal(
                    f"`--guard` should give the same verdicts in onnxruntime as in torch. Got `{name}` {found[name][row]} for "
                    f"{own[name][row]} of image {start + row}; nothing is written. Take another detector, or keep to torch."
                )
        worst = max(worst, float((np.abs(scores - expected.scores) / np.maximum(1, np.abs(expected.scores))).max()))
        start += len(block)
    return worst


def _refuse_missing_packages() -> None:
    if missing := [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]:
        raise Refusal(
            f"`export` should find onnx, onnxscript and onnxruntime. Got no {missing[0]}. Install them: "
            '`python -m pip install "lightning_gradood[export]"`.'
        )


def _session(content: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # without its warning of an input that may be left out
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own classes derive from it alone
        raise Refusal(
            f"`--guard` should be made of operators that onnxruntime has. Got: {first_line(error)}. Take others."
        ) from error


def _untraced(network: nn.Module, error: Exception) -> Refusal:
    """Name the innermost module in which torch.export gave up."""
    names = {id(module): name for name, module in network.named_modules()}
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    inside = [one for one in (frame.f_locals.get("self") for frame in frames) if id(one) in names]
    where = f"`{names[id(inside[-1])]}`, a {type(inside[-1]).__name__}" if inside else "the network"
    return Refusal(
        "The network's forward pass should be one that torch.export can trace, for any number of images. Got one that it "
        f"cannot, in {where}: {first_line(error)}. Let no branch depend on values of tensors."
    )


def _no_operator(traced: Any, error: Exception) -> Refusal:
    """Name the operator that ONNX lacks, and the module that calls it."""
    match = re.search(r"OpOverload\(op='([\w.:]+)'", str(error))
    name = match[1].replace("::", ".") if match else ""
    kind = name.rpartition(".")[2]  # it may be a part of the traced one, prims.bessel_j0 of aten.special_bessel_j0
    graphs = (one.graph for one in traced.graph_module.modules() if isinstance(one, torch.fx.GraphModule))
    nodes = [node for graph in graphs for node in graph.nodes if kind and kind in str(node.target)]
    stacks = [stack for stack in (node.meta.get("nn_module_stack") for node in nodes) if stack]
    path, kind = list(stacks[0].values())[-1] if stacks else ("", "network")
    place = f"`{path.removeprefix('network.')}`, a {str(kind).rpartition('.')[2]}" if path else "the network"
    return Refusal(
        f"`--guard` should be made of operators that ONNX has. Got {name or first_line(error)} in {place}, which it lacks. "
        "Exchange that module, or keep to torch."
    )
