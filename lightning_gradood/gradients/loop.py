"""One image at a time: norms by plain autograd, exact for any network that treats images one by one, and slow.

A network whose output for an image depends on other images of the batch or on random numbers has no such gradient: it is
refused, and the first module whose output differs is named.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lightning_gradood.core import OrderedBatchNorm, Refusal, check_logits_shape, requiring_grad, to_float64_device
from lightning_gradood.gradients.changes import images_for, in_dtype
from lightning_gradood.gradients.labels import LabelDesign, scaled_logit_gradient

_LARGE = 1 << 15  # elements, from which float64 takes eight times as long as float32 row by row
_UNDERFLOW = torch.finfo(torch.float32).tiny / torch.finfo(torch.float32).eps ** 2  # squares of float32 are lost below


def loop_norms(
    network: nn.Module,
    images: Tensor,
    label_designs: Sequence[LabelDesign],
    parameters: Sequence[Tensor],
    reorders: bool = True,
    scales: bool = True,
) -> tuple[Tensor, Tensor]:
    """Return squared norms, float64 [N, K, L], and logits [N, C], by one forward and K backward passes per image.

    `reorders`: whether batch norm may meet a layout that torch misreads. `scales`: whether the backward pass is linear.
    """
    with requiring_grad(parameters, True), OrderedBatchNorm() if reorders else nullcontext():
        rows = [_one_image(network, image, label_designs, parameters, scales) for image in torch.split(images, 1)]
    return torch.stack([norms for norms, _ in rows]), torch.cat([logits for _, logits in rows])


def _one_image(
    network: nn.Module, image: Tensor, label_designs: Sequence[LabelDesign], parameters: Sequence[Tensor], scales: bool
) -> tuple[Tensor, Tensor]:
    logits = network(image.clone())  # the network may write into it
    check_logits(logits, 1)
    norms = []
    for number, design in enumerate(label_designs, start=1):
        logit_gradient, scale = scaled_logit_gradient(design, logits, scales)
        keep = number < len(label_designs)
        gradients = torch.autograd.grad(logits, parameters, logit_gradient, retain_graph=keep, allow_unused=True)
        _refuse_cut(network, parameters, gradients, logits)
        norms.append(_squared(gradients, logits) * scale.square())
    return torch.stack(norms), logits.detach()


def loop_gradients(
    network: nn.Module, image: Tensor, parameters: Sequence[Tensor], logit_gradient: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return the gradient of one image [1, ...] in these parameters, flattened side by side, [1, P]."""
    with requiring_grad(parameters, True), OrderedBatchNorm():
        logits = network(image.clone())
        check_logits(logits, 1)
        seed = logit_gradient(logits.detach())
        found = torch.autograd.grad(logits, parameters, seed, allow_unused=True, materialize_grads=True)
    return torch.cat([one.reshape(1, -1) for one in found], 1)


def _squared(gradients: Sequence[Tensor | None], like: Tensor) -> Tensor:
    """Squared L2 norms, float64 [L], on the `to_float64_device` of `like`; an unused parameter has norm 0."""
    squares = torch.zeros(len(gradients), dtype=torch.float64, device=to_float64_device(like.detach()).device)
    large: dict[int, Tensor] = {}
    small: dict[int, Tensor] = {}
    for column, gradient in enumerate(gradients):
        if gradient is not None:
            is_large = gradient.dtype == torch.float32 and gradient.ndim > 1 and gradient.numel() > _LARGE
            (large if is_large else small)[column] = to_float64_device(gradient)
    if large:  # in float32 within rows and in float64 over the rows
        rows = [torch.linalg.vector_norm(gradient.flatten(1), dim=1) for gradient in large.values()]
        whole = [torch.linalg.vector_norm(norms, dtype=torch.float64) for norms in rows]
        squares[list(large)] = torch.stack(whole).square()
    if small:  # one call for all
        norms = torch._foreach_norm(list(small.values()), dtype=torch.float64)
        squares[list(small)] = torch.stack(norms).square()
    for column in (squares < _UNDERFLOW).nonzero().flatten().tolist():
        if column in large:
            squares[column] = torch.linalg.vector_norm(large[column], dtype=torch.float64).square()
    return squares


def check_logits(logits: Tensor, number: int) -> None:
    """Refuse an output that is not one row of logits, with a graph behind it, for each of `number` images."""
    check_logits_shape(logits, number)
    if not logits.is_floating_point() or not logits.requires_grad:
        raise Refusal(
            "the network's output should be floating point logits that depend on its parameters through autograd. Got "
            f"`output.dtype = {logits.dtype}` and no graph. Return the scores before argmax, without no_grad, detach or .data."
        )


class RefusingQuantised(TorchFunctionMode):
    """While active, quantised layers and tensors are refused: no gradient passes through them."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if "quantized" in str(func) or (isinstance(result, Tensor) and result.is_quantized):
            raise Refusal(
                "`network` should compute with floating point numbers throughout. Got a quantised layer or tensor in "
                f"`{getattr(func, '__name__', func)}`, through which no gradient passes. Pass the network before quantisation."
            )
        return result


def _refuse_cut(
    network: nn.Module, parameters: Sequence[Tensor], gradients: Sequence[Tensor | None], logits: Tensor
) -> None:
    """Refuse parameters in the output's graph without a gradient, since a custom backward returns None."""
    missing = {id(parameter) for parameter, one in zip(parameters, gradients, strict=True) if one is None}
    if missing and (cut := missing & set(uses(logits))):
        names = [f"`{name}`" for name, parameter in network.named_parameters() if id(parameter) in cut]
        raise Refusal(
            "the network's output should depend on its parameters through autograd. Got an operation whose backward returns no "
            f"gradient, so that none reaches {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}. "
            "Return a gradient from the `backward` of that torch.autograd.Function."
        )


def uses(output: Tensor) -> dict[int, int]:
    """How often autograd's graph leads to each leaf tensor, by id, whether or not a gradient flows there now."""
    found: dict[int, int] = {}
    waiting: list[Any] = [] if output.grad_fn is None else [output.grad_fn]
    met = set(waiting)
    while waiting:
        for node, _ in waiting.pop().next_functions:
            if (leaf := getattr(node, "variable", None)) is not None:
                found[id(leaf)] = found.get(id(leaf), 0) + 1
            elif node is not None and node not in met:
                met.add(node)
                waiting.append(node)
    return found


def check_deterministic(network: nn.Module, image: Tensor, one: Tensor, other: Tensor) -> None:
    """Refuse a network whose logits for `image` [1, ...] differ between two calls, `one` and `other`."""
    if not torch.equal(one, other):
        raise Refusal(
            "`network` should return the same logits for the same image. "
            f"Got different ones in two calls, first seen {_first_difference(network, image, image)}. "
            "Make it deterministic in eval mode, e.g. F.dropout(x, training=self.training)."
        )


def check_independent(network: nn.Module, probes: Tensor, alone: Tensor) -> None:
    """Refuse a network that couples the images of a batch; `alone` [3, C] are the logits of three probes one by one."""
    for rows in ([0, 1, 2], [1, 0]):
        if _first_apart(network(probes[rows].clone()), alone[rows], _rounding(network)) is not None:
            _refuse_coupled(_first_difference(network, probes[rows], probes[rows[:1]]))
    leaves = probes.detach().clone().requires_grad_()
    logits = network(leaves.clone())  # the network may write into a copy, but not into a leaf
    if not logits.requires_grad:  # no gradient reaches the images at all, e.g. through an embedding
        return
    (gradient,) = torch.autograd.grad(logits[0].sum(), leaves, materialize_grads=True)
    largest = gradient.nan_to_num(0.0).abs().flatten(1).amax(1)  # of ∂z₀/∂x₀, ∂z₀/∂x₁ and ∂z₀/∂x₂
    rounding = 32 * torch.finfo(largest.dtype).eps if largest.dtype == torch.float64 else 0.0  # of a few operations
    if (largest[1:] > rounding * largest[0]).any():
        _refuse_coupled("in the gradient")


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
            _refuse_coupled(_first_difference(network, images, images[row : row + 1], row))


def _refuse_coupled(place: str) -> NoReturn:
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


def _first_difference(network: nn.Module, first: Tensor, second: Tensor, row: int = 0) -> str:
    """Name the first module whose output for one image, `row` of the first batch and 0 of the second, differs."""
    found: list[tuple[str, Tensor]] = []

    def keep(module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim and output.is_floating_point():
            place = f"at `{names[module]}` ({type(module).__name__})" if names[module] else "at its output"
            found.append((place, output.detach().clone()))

    names = {module: name for name, module in network.named_modules()}
    handles = [module.register_forward_hook(keep) for module in names]
    try:
        network(first.clone())
        middle = len(found)
        network(second.clone())
    finally:
        for handle in handles:
            handle.remove()
    for (place, one), (_, other) in zip(found[:middle], found[middle:], strict=False):
        if _first_apart(one[row : row + 1], other[:1], _rounding(network)) is not None:
            return place
    return "at its output"
