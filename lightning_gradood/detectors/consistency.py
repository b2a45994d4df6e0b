"""Consistency: how the logits change when the image is mirrored or blurred a little."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import check_finite_rows, reading, to_float64
from lightning_gradood.detectors.detector import Detector, Fitted, FixedDetector, normal_training_records
from lightning_gradood.detectors.gaussians import ClassGaussian
from lightning_gradood.detectors.tensor_scores import TensorFitted, TensorReadings
from lightning_gradood.probes import LogitsProbe, Probe, SharedLogitsProbe
from lightning_gradood.records import Records

_SMALL_BATCH = 32  # images that a CPU computes as fast, one by one, as fewer; with more than that it runs out of cache
_LARGEST = 3  # logits that are looked at one by one; of the others mean and standard deviation


@dataclass(frozen=True)
class ViewsProbe(SharedLogitsProbe):
    """Changes of the logits when the image is mirrored, and when it is blurred to means of 2×2 pixels.

    Of each view in the order of the image's own logits: the changes of the three largest logits, and mean and standard
    deviation of the changes of the others; 0 where a network has too few classes. An image costs three forward passes.
    """

    name: ClassVar[str] = "views/mirror+blur"

    @override
    def names(self, network: nn.Module) -> list[str]:
        parts = [*(f"top {place}" for place in range(1, _LARGEST + 1)), "mean of others", "std of others"]
        return [f"{view} {part}" for view in ("mirror", "blur") for part in parts]

    @override
    def from_logits(self, network: nn.Module, images: Tensor, logits: Tensor) -> Tensor:
        with reading(network):
            padded = F.pad(images, (0, 1, 0, 1), mode="replicate")
            views = [images.flip(3), F.avg_pool2d(padded, kernel_size=2, stride=1)]
            # torch.export knows no number of images
            if not torch.compiler.is_compiling() and len(images) < _SMALL_BATCH:
                views = list(torch.split(torch.cat(views), _SMALL_BATCH))
            changed = torch.cat([network(view) for view in views])
        check_finite_rows(changed, "The network's logits of a view")
        own = to_float64(logits)
        order = own.argsort(dim=1, descending=True, stable=True)
        changes = to_float64(changed).reshape(2, *own.shape) - own
        return torch.cat([_summary(change.gather(1, order)) for change in changes], dim=1)


def _summary(changes: Tensor) -> Tensor:
    top = F.pad(changes[:, :_LARGEST], (0, max(_LARGEST - changes.shape[1], 0)))
    others = changes[:, _LARGEST:]
    if not others.shape[1]:
        return F.pad(top, (0, 2))
    return torch.cat([top, others.mean(1, keepdim=True), others.std(1, keepdim=True, correction=0)], dim=1)


@dataclass(frozen=True)
class ViewsSoftmax(FixedDetector, TensorFitted):
    """log(1 − p) of the image's class, p the softmax of logits that are averaged over the image and its two views.

    The changes of all but the three largest logits count as their mean. C&W's images, which lie just behind a decision
    boundary, and those that were moved far from one fall back in the average.

    Reference:
        Simonyan and Zisserman 2015, section 3.2, for averages over views; `Baseline` for the score.
    """

    name: str = "views_softmax"
    probes: ClassVar[Sequence[Probe]] = (LogitsProbe(), ViewsProbe())

    @override
    def tensor_score(self, read: TensorReadings) -> Tensor:
        logits = read.logits.sort(dim=1, descending=True).values
        mirror, blur = read.probe(ViewsProbe.name).chunk(2, dim=1)
        averaged = logits + (mirror + blur)[:, torch.arange(logits.shape[1]).clamp_max(_LARGEST)] / 3
        return averaged[:, 1:].logsumexp(1) - averaged.logsumexp(1)


@dataclass(frozen=True)
class Consistency(Detector):
    """Log squared distance of how the logits change with the view to what is usual for the predicted class.

    It needs no anomalies: images that lie near decision boundaries, adversarial ones above all, change more or
    otherwise than normal ones. An adaptive attack would find it an easy target.

    Reference:
        Xu, Evans and Qi 2018, "Feature Squeezing", for the comparison of views.
    """

    name: str = "consistency"
    needs_anomalies: ClassVar[bool] = False
    probes: ClassVar[Sequence[Probe]] = (ViewsProbe(),)

    @override
    def fit(self, records: Records, seed: int) -> Fitted:
        normal = normal_training_records(records)
        return FittedConsistency(ClassGaussian.of(normal.probe(ViewsProbe.name), normal.column("prediction")))


@dataclass(frozen=True, eq=False)
class FittedConsistency(TensorFitted):
    """Changes of normal images' logits."""

    gaussian: ClassGaussian

    @override
    def tensor_score(self, read: TensorReadings) -> Tensor:
        return self.gaussian.log_distance(read.probe(ViewsProbe.name), read.predictions)
