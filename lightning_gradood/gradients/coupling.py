"""Refuse networks for which "this image's gradient" means nothing: outputs that depend on other images or on chance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_gradood.errors import Refusal


def check_statistics(modules: Mapping[str, nn.Module]) -> None:
    """Refuse batch norm that has no running statistics and therefore averages over the batch in eval mode too."""
    coupled = [name for name, module in modules.items() if isinstance(module, _BatchNorm) and _averages(module)]
    if coupled:
        raise Refusal(
            "`network` should treat the images of a batch independently. "
            f"Got batch norm without running statistics at `{coupled[0]}`. "
            "Build it with track_running_stats=True, or use group norm."
        )


def _averages(norm: _BatchNorm) -> bool:
    return norm.running_mean is None or norm.running_var is None


def check_independent(network: nn.Module, probes: Tensor, alone: Tensor) -> None:
    """Refuse a network in which an image's output changes with the other images of its batch, or from call to call.

    Args:
        network: frozen, in eval mode.
        probes: three different images [3, ...].
        alone: the logits [3, C] of each image in a batch of its own.
    """
    if not torch.equal(network(probes[:1]), network(probes[:1])):
        place = _first_difference(network, probes[:1], probes[:1])
        raise Refusal(
            "`network` should return the same logits for the same image. "
            f"Got different ones in two calls, first seen {place}. "
            "Make it deterministic in eval mode, e.g. F.dropout(x, training=self.training)."
        )
    for rows in ([0, 1, 2], [1, 0]):
        if not _close(network(probes[rows]), alone[rows], _rounding(network)):
            _refuse_coupled(_first_difference(network, probes[rows], probes[rows[:1]]))
    if _jacobian_crosses(network, probes):
        _refuse_coupled("in the gradient")


def _refuse_coupled(place: str) -> None:
    raise Refusal(
        "`network` should treat the images of a batch independently. "
        f"Got an output that depends on the other images of the batch, first seen {place}. "
        "Remove what mixes the batch (means, ranks or products over dimension 0), or put the batch first."
    )


def _rounding(network: nn.Module) -> float:
    """Epsilon of the coarsest parameters, whatever dtype the logits are cast to in the end."""
    return max(torch.finfo(parameter.dtype).eps for parameter in network.parameters())


def _close(found: Any, alone: Tensor, epsilon: float) -> bool:
    if not isinstance(found, Tensor) or found.shape != alone.shape:
        return False
    return bool(((found - alone).abs() <= 1e4 * epsilon * (1 + alone.abs().max())).all())


def _jacobian_crosses(network: nn.Module, probes: Tensor) -> bool:
    """Whether ∂z₀/∂x₁ or ∂z₀/∂x₂ is anything but exactly zero."""
    leaves = probes.detach().clone().requires_grad_()
    logits = network(leaves)
    if not logits.requires_grad:  # no gradient reaches the images at all, e.g. through an embedding
        return False
    (gradient,) = torch.autograd.grad(logits[0].sum(), leaves, allow_unused=True)
    return gradient is not None and bool(gradient[1:].nan_to_num(0.0).count_nonzero())


def _first_difference(network: nn.Module, first: Tensor, second: Tensor) -> str:
    """Name the first module whose output for the first image is not the same in two batches."""
    outputs = [_outputs(network, batch) for batch in (first, second)]
    modules = dict(network.named_modules())
    for (name, one), (_, other) in zip(*outputs, strict=False):
        if not _close(one[:1], other[:1], _rounding(network)):
            return f"at `{name}` ({type(modules[name]).__name__})" if name else "at its output"
    return "at its output"


def _outputs(network: nn.Module, images: Tensor) -> list[tuple[str, Tensor]]:
    """Every module's output in the order of completion; the network itself comes last."""
    found: list[tuple[str, Tensor]] = []

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim and output.is_floating_point():
                found.append((name, output.detach().clone()))

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in network.named_modules()]
    try:
        network(images)
    finally:
        for handle in handles:
            handle.remove()
    return found
