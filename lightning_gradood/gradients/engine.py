"""One micro-batch through the fast way: an intercepted forward pass, then one backward pass per label design."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_gradood.gradients.interception import Interception
from lightning_gradood.gradients.labels import LabelDesign
from lightning_gradood.gradients.seeds import scaled_seed
from lightning_gradood.gradients.tally import Tally


@dataclass(frozen=True)
class Forward:
    """An intercepted forward pass: the network's output, how it came about, and where its norms will be added up."""

    output: Tensor
    watch: Interception
    tally: Tally


def forward(network: nn.Module, images: Tensor, parameters: Sequence[nn.Parameter], passes: int) -> Forward:
    """Run the network, its parameters frozen, with closed forms in place of the operations that use them.

    Args:
        network: in eval mode.
        images: [N, ...].
        parameters: the L tensors, frozen.
        passes: number of backward passes that will follow.
    """
    tally = Tally(parameters, images.shape[0], passes)
    given = images.clone()  # into which the network may write
    with Interception(tally, given) as watch:
        output = network(given)
    return Forward(output, watch, tally)


def backward(pass_: Forward, label_designs: Sequence[LabelDesign], keep: bool = False) -> Tensor:
    """Return the squared norms, float64 [N, K, L], for K designs over one forward pass.

    Args:
        pass_: from `forward`.
        label_designs: K designs.
        keep: whether another backward pass will follow.
    """
    norms = []
    for number, design in enumerate(label_designs, start=1):
        seed, scale = scaled_seed(design, pass_.output)
        norms.append(norms_for(pass_, seed, keep or number < len(label_designs)) * scale.square()[:, None])
    return torch.stack(norms, 1)


def norms_for(pass_: Forward, seed: Tensor, keep: bool) -> Tensor:
    """Return the squared norms, float64 [N, L], for a gradient of the logits [N, C]; `keep` the graph for another one."""
    pass_.tally.start()
    # the anchor is what every closed form hangs on; asking for it alone leaves every `.grad` untouched
    torch.autograd.grad(pass_.output, pass_.watch.anchor, seed, allow_unused=True, retain_graph=keep)
    return pass_.tally.result()
