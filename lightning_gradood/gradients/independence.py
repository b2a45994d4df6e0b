"""Refusal of networks whose output for an image depends on other images of the batch or on random numbers.

Such an output has no gradient of its own. The first module whose output differs is named.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_gradood.core import Refusal
from lightning_gradood.gradients.copies import images_for, in_dtype


def check_statistics(modules: Iterable[tuple[str, nn.Module]]) -> None:
    """Refuse batch norm that has no running statistics and therefore averages over the batch in eval mode too."""
    for name, module in modules:
        if isinstance(module, _BatchNorm) and (module.running_mean is None or module.running_var is None):
            raise Refusal(
                "`network` should treat the images of a batch independently. "
                f"Got batch norm without running statistics at `{name}`. "
                "Build it with track_running_stats=True, or use group norm."
            )


def check_deterministic(network: nn.Module, image: Tensor, one: Tensor, other: Tensor) -> None:
    """Refuse a network whose logits for `image` [1, ...] differ between two calls, `one` and `other`."""
    if not torch.equal(one, other):
        place = _first_difference(network, image, image)
        raise Refusal(
            "`network` should return the same logits for the same image. "
            f"Got different ones in two calls, first seen {place}. "
            "Make it deterministic in eval mode, e.g. F.dropout(x, training=self.training)."
        )


def check_independent(network: nn.Module, probes: Tensor, alone: Tensor) -> None:
    """Refuse a network that couples the images of a batch; `alone` [3, C] are the logits of three probes one by one."""
    for rows in ([0, 1, 2], [1, 0]):
        if _first_apart(network(probes[rows].clone()), alone[rows], _rounding(network)) is not None:
            _refuse(_first_difference(network, probes[rows], probes[rows[:1]]))
    if _jacobian_crosses(network, probes):
        _refuse("in the gradient")


def check_same_logits(network: nn.Module, images: Tensor, alone: Tensor) -> None:
    """Refuse a network whose logits for this batch are not those of its images `alone`, [N, C]."""
    with torch.no_grad():
        row = _first_apart(network(images.clone()), alone, _rounding(network))
        if row is None:
            return
        try:  # float64 rules rounding out
            network = in_dtype(network)
            images = images_for(network, images)
            alone = torch.cat([network(image.clone()) for image in torch.split(images, 1)])
            row = _first_apart(network(images.clone()), alone, _rounding(network))
        except Exception:  # a network that cannot be copied, or insists on float32
            pass
        if row is not None:
            _refuse(_first_difference(network, images, images[row : row + 1], row))


def _refuse(place: str) -> NoReturn:
    raise Refusal(
        "`network` should treat the images of a batch independently. "
        f"Got an output that depends on the other images of the batch, first seen {place}. "
        "Remove what mixes the batch (means, ranks or products over dimension 0), or put the batch first."
    )


def _rounding(network: nn.Module) -> float:
    """Epsilon of the coarsest parameters, whatever dtype the logits are cast to in the end."""
    return max(torch.finfo(parameter.dtype).eps for parameter in network.parameters())


def _first_apart(found: Any, alone: Tensor, epsilon: float) -> int | None:
    """The first row that differs by more than rounding."""
    if not isinstance(found, Tensor) or found.shape != alone.shape:
        return 0
    apart = ((found - alone).abs() > 1e4 * epsilon * (1 + alone.abs().max())).flatten(1).any(1).nonzero()
    return int(apart[0]) if apart.numel() else None


def _jacobian_crosses(network: nn.Module, probes: Tensor) -> bool:
    """Whether ∂z₀/∂x₁ or ∂z₀/∂x₂ is not zero; in float64, more than the rounding that a few operations leave."""
    leaves = probes.detach().clone().requires_grad_()
    logits = network(leaves.clone())  # the network may write into a copy, but not into a leaf
    if not logits.requires_grad:  # no gradient reaches the images at all, e.g. through an embedding
        return False
    (gradient,) = torch.autograd.grad(logits[0].sum(), leaves, allow_unused=True)
    if gradient is None:
        return False
    largest = gradient.nan_to_num(0.0).abs().flatten(1).amax(1)
    rounding = 32 * torch.finfo(largest.dtype).eps if largest.dtype == torch.float64 else 0.0
    return bool((largest[1:] > rounding * largest[0]).any())


def _first_difference(network: nn.Module, first: Tensor, second: Tensor, row: int = 0) -> str:
    """Name the first module whose output for one image, `row` of the first batch and 0 of the second, differs."""
    epsilon = _rounding(network)
    for (module, name, one), (_, _, other) in zip(_outputs(network, first), _outputs(network, second), strict=False):
        if _first_apart(one[row : row + 1], other[:1], epsilon) is not None:
            return f"at `{name}` ({module})" if name else "at its output"
    return "at its output"


def _outputs(network: nn.Module, images: Tensor) -> list[tuple[str, str, Tensor]]:
    """Every module's class, name and output in the order of completion; the network itself comes last."""
    found: list[tuple[str, str, Tensor]] = []

    def keep(module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim and output.is_floating_point():
            found.append((type(module).__name__, names[module], output.detach().clone()))

    names = {module: name for name, module in network.named_modules()}
    handles = [module.register_forward_hook(keep) for module in names]
    try:
        network(images.clone())
    finally:
        for handle in handles:
            handle.remove()
    return found
