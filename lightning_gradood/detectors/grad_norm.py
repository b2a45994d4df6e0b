"""GradNorm: the L1 norm of the gradient that a uniform label gives the weights of the last layer."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import Refusal, to_float64
from lightning_gradood.detectors.detector import FixedDetector
from lightning_gradood.networks import TwoLogits
from lightning_gradood.probes import PENULTIMATE, FeatureLayerProbe, Probe
from lightning_gradood.records import Records


class GradNormProbe(FeatureLayerProbe):
    """L1 norm of the gradient of Σ_c −log softmax(z)_c in the last layer's weight, per image, float64 [N, 1].

    In closed form: the gradient is the outer product of C·softmax(z) − 1 and the penultimate features, so its L1 norm
    is the product of theirs. The loss is summed over the classes, as in the original; a mean would divide by C. Of
    `TwoLogits` the last layer gives the second logit alone.

    Reference:
        Huang, Geng, Li 2021, Eq. 7; its code, gradnorm_ood, `iterate_data_gradnorm`.
    """

    @property
    @override
    def name(self) -> str:
        return "gradnorm"

    @override
    def names(self, network: nn.Module) -> list[str]:
        return ["last_weight_l1"]

    @override
    def layers_of(self, network: nn.Module) -> list[str]:
        return [PENULTIMATE]

    @override
    def from_layers(self, network: nn.Module, logits: Tensor, layers: Sequence[Tensor]) -> Tensor:
        (features,) = layers
        own = slice(1, None) if isinstance(network, TwoLogits) else slice(None)  # the logits that the last layer gives
        _refuse_other_heads(network, logits.detach()[:, own], features.detach())
        seeds = (logits.shape[1] * to_float64(logits).softmax(dim=1) - 1)[:, own]
        return seeds.abs().sum(dim=1, keepdim=True) * to_float64(features).abs().sum(dim=1, keepdim=True)


def _refuse_other_heads(network: nn.Module, logits: Tensor, features: Tensor) -> None:
    shape = (logits.shape[1], features.shape[1])
    heads = [module for module in network.modules() if isinstance(module, nn.Linear) and module.weight.shape == shape]
    largest = float(logits.abs().max())
    if not any(
        torch.allclose(F.linear(features, head.weight, head.bias), logits, rtol=0, atol=1e-4 * max(largest, 1e-30))
        for head in heads
    ):
        raise Refusal(
            "`gradnorm` needs a network whose logits are the output of its last nn.Linear. Got a "
            f"{type(network).__name__} that does something else to its penultimate features. Leave GradNorm out."
        )


class GradNorm(FixedDetector):
    """The negated L1 norm of the last layer's gradient: normal images are expected to ask for the larger change.

    Reference:
        Huang, Geng, Li 2021, Eq. 7.
    """

    name = "gradnorm"
    probes: Sequence[Probe] = (GradNormProbe(),)

    @override
    def score(self, records: Records) -> np.ndarray:
        return np.asarray(-records.probe(GradNormProbe().name)[:, 0], dtype=np.float64)
