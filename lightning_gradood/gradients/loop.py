"""Plain autograd, one image at a time: exact for any network that treats images one by one, and slow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lightning_gradood.core import OrderedBatchNorm, Refusal, check_logits_shape, requiring_grad, to_float64_device
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

    `reorders`: whether batch norm may meet a layout that torch misreads (`core.network_state`). `scales`: whether the
    backward pass is linear, so that its logit gradient may be brought to a safe scale.
    """
    ordered = OrderedBatchNorm() if reorders else nullcontext()
    with requiring_grad(parameters, True), refusing_missing_gradients(network), ordered:
        rows = [_one_image(network, image, label_designs, parameters, scales) for image in torch.split(images, 1)]
    return torch.stack([norms for norms, _ in rows]), torch.cat([logits for _, logits in rows])


def _one_image(
    network: nn.Module,
    image: Tensor,
    label_designs: Sequence[LabelDesign],
    parameters: Sequence[Tensor],
    scales: bool,
) -> tuple[Tensor, Tensor]:
    logits = network(image.clone())  # the network may write into it
    check_logits(logits, 1)
    norms = []
    for number, design in enumerate(label_designs, start=1):
        logit_gradient, scale = scaled_logit_gradient(design, logits, scales)
        gradients = torch.autograd.grad(
            logits, parameters, logit_gradient, allow_unused=True, retain_graph=number < len(label_designs)
        )
        _refuse_cut(network, parameters, gradients, logits)
        norms.append(_squared(gradients, logits) * scale.square())
    return torch.stack(norms), logits.detach()


def _squared(gradients: Sequence[Tensor | None], like: Tensor) -> Tensor:
    """Squared L2 norms, float64 [L], on the `to_float64_device` of `like`; an unused parameter has norm 0."""
    given = [(column, to_float64_device(gradient)) for column, gradient in enumerate(gradients) if gradient is not None]
    squares = torch.zeros(len(gradients), dtype=torch.float64, device=to_float64_device(like.detach()).device)
    large = {
        column: gradient
        for column, gradient in given
        if gradient.dtype == torch.float32 and gradient.ndim > 1 and gradient.numel() > _LARGE
    }
    small = {column: gradient for column, gradient in given if column not in large}
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
    if not logits.is_floating_point():
        raise Refusal(
            "the network's output should be floating point logits. "
            f"Got `output.dtype = {logits.dtype}`. Return the scores before argmax."
        )
    if not logits.requires_grad:
        raise Refusal(
            "the network's output should depend on its parameters through autograd. "
            "Got an output without a graph. Remove torch.no_grad, detach or .data from its forward."
        )


_NO_BACKWARD = ("no autograd formula", "either the backward or vjp method", "the derivative for")
"""Parts of torch's messages about an operation without a backward."""


@contextmanager
def refusing_missing_gradients(network: nn.Module) -> Iterator[None]:
    """Refuse, in place of torch's own errors, checkpoints that give no gradient and operations without a backward."""
    try:
        yield
    except (RuntimeError, UserWarning) as error:
        text, kind = str(error), type(network).__name__
        if "requires_grad=True. Gradients" in text or "use_reentrant=True" in text:
            raise Refusal(
                "`network` should give its gradients to torch.autograd.grad. "
                f"Got a block of {kind} under torch.utils.checkpoint with `use_reentrant = True`, "
                "which does not. Write `use_reentrant=False`; or do without checkpoints, for nothing is trained here."
            ) from error
        if any(words in text for words in _NO_BACKWARD):
            raise Refusal(
                "the network's output should depend on its parameters through autograd. "
                f"Got an operation of {kind} without a backward: {text.splitlines()[0]} "
                "Define its backward, or use an operation that has one."
            ) from error
        if "backward through the graph a second time" in text:
            raise Refusal(
                "`network` should compute its output anew in every call. "
                f"Got a tensor in {kind} that is kept with its graph from one call to the next. "
                "Keep it detached, or compute it in every forward."
            ) from error
        raise


class RefusingQuantised(TorchFunctionMode):
    """While active, a function that returns a quantised tensor is refused: no gradient passes through it."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.is_quantized:
            raise Refusal(
                "`network` should compute with floating point numbers throughout. "
                f"Got a quantised tensor from `{getattr(func, '__name__', func)}`, through which no gradient passes. "
                "Pass the network as it was before quantisation."
            )
        return result


def _refuse_cut(
    network: nn.Module, parameters: Sequence[Tensor], gradients: Sequence[Tensor | None], logits: Tensor
) -> None:
    """Refuse parameters in the output's graph without a gradient, since a custom backward returns None."""
    missing = {id(parameter) for parameter, one in zip(parameters, gradients, strict=True) if one is None}
    cut = missing & set(uses(logits)) if missing else set()
    if cut:
        names = [name for name, parameter in network.named_parameters() if id(parameter) in cut]
        raise Refusal(
            "the network's output should depend on its parameters through autograd. Got an operation whose backward returns no "
            f"gradient, so that none reaches {', '.join(f'`{name}`' for name in names[:3])}{', ...' if len(names) > 3 else ''}. "
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
