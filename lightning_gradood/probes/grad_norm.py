"""GradNorm's number: how strongly a uniform label would change the weights of the last layer."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_gradood.errors import Refusal
from lightning_gradood.gradients import exact
from lightning_gradood.probes.tap_probe import TapProbe
from lightning_gradood.probes.taps import PENULTIMATE


class GradNormProbe(TapProbe):
    """L1 norm of the gradient of Σ_c −log softmax(z)_c in the last layer's weight, per image.

    In closed form: that gradient is the outer product of C·softmax(z) − 1 with the penultimate features, so its L1 norm
    is the product of theirs. The loss is summed over the classes, as in the original; a mean would divide by C.

    Reference:
        Huang, Geng, Li 2021, Eq. 7; its code, gradnorm_ood, `iterate_data_gradnorm`.
    """

    @property
    def name(self) -> str:
        """`gradnorm`."""
        return "gradnorm"

    def names(self, network: nn.Module) -> list[str]:
        """One name."""
        return ["last_weight_l1"]

    def taps_of(self, network: nn.Module) -> list[str]:
        """`penultimate`."""
        return [PENULTIMATE]

    def from_taps(self, network: nn.Module, logits: Tensor, taps: Sequence[Tensor]) -> Tensor:
        """Norms, float64 [N, 1].

        Raises:
            Refusal: if the logits are not what an nn.Linear makes of the penultimate features.
        """
        (features,) = taps
        _refuse_other_heads(network, logits, features)
        seeds = logits.shape[1] * exact(logits).softmax(dim=1) - 1
        return seeds.abs().sum(dim=1, keepdim=True) * exact(features).abs().sum(dim=1, keepdim=True)


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
