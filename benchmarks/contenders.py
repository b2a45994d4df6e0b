"""The ways that are compared; each takes a network and returns a function of a batch that does the whole work once.

Floors do less than the task: they say how near the physical limit the others are. The other contenders return
per-sample squared norms [N, L], so that a run can check that everyone computed the same thing.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.networks import out_of_place
from lightning_gradood.gradients import AllOnes, AllZeros, KHot, Predicted, Uniform, squared_gradient_norms

Work = Callable[[Tensor], Tensor]
DESIGNS = [AllOnes(), Uniform(), Predicted(), AllZeros(), KHot((0,))]


def ours(network: nn.Module, designs: int = 1) -> Work:
    """This package, through its front door."""
    return lambda images: squared_gradient_norms(network, images, DESIGNS[:designs])


def floor_a(network: nn.Module) -> Work:
    """One batched forward and backward of all parameters, as in training: gradients summed over the batch."""
    parameters = list(network.parameters())

    def work(images: Tensor) -> Tensor:
        return torch.autograd.grad(all_ones(network(images)).sum(), parameters, allow_unused=True)[-1]

    return work


def floor_b(network: nn.Module) -> Work:
    """One batched forward and backward through the activations alone: the least that anything exact needs."""
    frozen = copy.deepcopy(network).requires_grad_(False)

    def work(images: Tensor) -> Tensor:
        images = images.clone().requires_grad_()
        return torch.autograd.grad(all_ones(frozen(images)).sum(), images)[0]

    return work


def loop(network: nn.Module) -> Work:
    """The paper's way: one image at a time."""
    parameters = list(network.parameters())

    def work(images: Tensor) -> Tensor:
        rows = []
        for image in images.split(1):
            gradients = torch.autograd.grad(all_ones(network(image)).sum(), parameters)
            rows.append(torch.stack([gradient.norm().square() for gradient in gradients]))
        return torch.stack(rows)

    return work


def vmap(network: nn.Module, chunk: int = 16) -> Work:
    """torch.func: vmap over grad, sixteen images at a time."""
    parameters = {name: parameter.detach() for name, parameter in network.named_parameters()}
    buffers = dict(network.named_buffers())
    safe = out_of_place(copy.deepcopy(network))

    def norms(image: Tensor) -> Tensor:
        def loss(values: dict[str, Tensor]) -> Tensor:
            return all_ones(torch.func.functional_call(safe, (values, buffers), (image[None],))).sum()

        return torch.stack([gradient.square().sum() for gradient in torch.func.grad(loss)(parameters).values()])

    return lambda images: torch.func.vmap(norms, chunk_size=chunk, randomness="same")(images)


def backpack(network: nn.Module) -> Work:
    """BackPACK's BatchL2Grad."""
    from backpack import backpack as extension
    from backpack import extend
    from backpack.extensions import BatchL2Grad

    extended = extend(out_of_place(copy.deepcopy(network))).eval()

    def work(images: Tensor) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about containers, which have no parameters of their own
            loss = all_ones(extended(images)).sum()
            with extension(BatchL2Grad()):
                loss.backward()
        extended.zero_grad(set_to_none=True)
        return torch.stack([parameter.batch_l2 for parameter in extended.parameters()], 1)

    return work


def opacus(network: nn.Module) -> Work:
    """Opacus' ghost norms, with a batch norm that it accepts: it refuses buffers and works in train mode only."""
    from opacus.grad_sample import GradSampleModuleFastGradientClipping, register_grad_sampler

    @register_grad_sampler(RunningNorm)
    def batch_norm(layer: RunningNorm, activations: list[Tensor], gradient: Tensor) -> dict[nn.Parameter, Tensor]:
        normal = F.batch_norm(activations[0], *layer.statistics)
        return {layer.weight: (gradient * normal).sum((2, 3)), layer.bias: gradient.sum((2, 3))}

    wrapped = GradSampleModuleFastGradientClipping(
        _with_running_norms(out_of_place(copy.deepcopy(network))),
        max_grad_norm=1.0,
        use_ghost_clipping=True,
        loss_reduction="sum",
        strict=False,
    ).train()

    def work(images: Tensor) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about hooks on a first layer whose input needs no gradient
            all_ones(wrapped(images)).sum().backward()
        norms = torch.stack([parameter._norm_sample.square() for parameter in wrapped.parameters()], 1)
        wrapped.zero_grad(set_to_none=True)
        return norms

    return work


class RunningNorm(nn.Module):
    """Batch norm in eval mode, its statistics plain attributes."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self.statistics = (norm.running_mean, norm.running_var)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise by the running statistics."""
        return F.batch_norm(x, *self.statistics, self.weight, self.bias)


def _with_running_norms(network: nn.Module) -> nn.Module:
    for parent in list(network.modules()):
        for name, module in parent.named_children():
            if isinstance(module, nn.BatchNorm2d):
                setattr(parent, name, RunningNorm(module))
    return network


def all_ones(logits: Tensor) -> Tensor:
    """Every image's own all-ones loss, [N]."""
    return F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits), reduction="none").mean(1)


CONTENDERS: dict[str, Callable[[nn.Module], Work]] = {
    "floor A": floor_a,
    "floor B": floor_b,
    "ours": ours,
    "ours, 2 designs": lambda network: ours(network, 2),
    "ours, 4 designs": lambda network: ours(network, 4),
    "loop": loop,
    "vmap": vmap,
    "BackPACK": backpack,
    "Opacus": opacus,
}
EXACT = ("ours", "loop", "vmap", "BackPACK", "Opacus")
