"""Plain autograd, one image at a time: exact for any network that treats images one by one, and slow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from lightning_gradood.core import OrderedBatchNorm, Refusal, requiring_grad, to_float64_device
from lightning_gradood.gradients.labels import LabelDesign, natural_logit_gradient, scaled_logit_gradient
from lightning_gradood.gradients.network_checks import check_logits

_LARGE = 1 << 15  # elements, from which float64 takes eight times as long as float32 row by row
_UNDERFLOW = torch.finfo(torch.float32).tiny / torch.finfo(torch.float32).eps ** 2  # squares of float32 are lost below


def loop_norms(
    network: nn.Module,
    images: Tensor,
    label_designs: Sequence[LabelDesign],
    parameters: Sequence[nn.Parameter],
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


_NO_BACKWARD = ("no autograd formula", "either the backward or vjp method", "the derivative for")
"""Parts of torch's messages about an operation without a backward."""


@contextmanager
def refusing_missing_gradients(network: nn.Module) -> Iterator[None]:
    """Refuse, in place of torch's own errors, checkpoints that give no gradient and operations without a backward."""
    try:
        yield
    except (RuntimeError, UserWarning) as error:
        text = str(error)
        if "requires_grad=True. Gradients" in text or "use_reentrant=True" in text:
            raise Refusal(
                "`network` should give its gradients to torch.autograd.grad. "
                f"Got a block of {type(network).__name__} under torch.utils.checkpoint with `use_reentrant = True`, "
                "which does not. Write `use_reentrant=False`; or do without checkpoints, for nothing is trained here."
            ) from error
        if any(words in text for words in _NO_BACKWARD):
            raise Refusal(
                "the network's output should depend on its parameters through autograd. "
                f"Got an operation of {type(network).__name__} without a backward: {text.splitlines()[0]} "
                "Define its backward, or use an operation that has one."
            ) from error
        if "backward through the graph a second time" in text:
            raise Refusal(
                "`network` should compute its output anew in every call. "
                f"Got a tensor in {type(network).__name__} that is kept with its graph from one call to the next. "
                "Keep it detached, or compute it in every forward."
            ) from error
        raise


def _one_image(
    network: nn.Module,
    image: Tensor,
    label_designs: Sequence[LabelDesign],
    parameters: Sequence[nn.Parameter],
    scales: bool,
) -> tuple[Tensor, Tensor]:
    logits = network(image.clone())  # the network may write into it
    check_logits(logits, 1)
    logit_gradient_of = scaled_logit_gradient if scales else natural_logit_gradient
    norms = []
    for number, design in enumerate(label_designs, start=1):
        logit_gradient, scale = logit_gradient_of(design, logits)
        gradients = torch.autograd.grad(
            logits, parameters, logit_gradient, allow_unused=True, retain_graph=number < len(label_designs)
        )
        _refuse_cut(network, parameters, gradients, logits)
        norms.append(_squared(gradients, logits) * scale.square())
    return torch.stack(norms), logits.detach()


def _refuse_cut(
    network: nn.Module, parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None], logits: Tensor
) -> None:
    """Refuse parameters in the output's graph without a gradient, since a custom backward returns None."""
    missing = {parameter for parameter, gradient in zip(parameters, gradients, strict=True) if gradient is None}
    cut = [parameter for parameter in missing if parameter in _leaves(logits)] if missing else []
    if cut:
        names = [name for name, parameter in network.named_parameters() if any(parameter is one for one in cut)]
        raise Refusal(
            "the network's output should depend on its parameters through autograd. Got an operation whose backward returns no "
            f"gradient, so that none reaches {', '.join(f'`{name}`' for name in names[:3])}{', ...' if len(names) > 3 else ''}. "
            "Return a gradient from the `backward` of that torch.autograd.Function."
        )


def _leaves(output: Tensor) -> set[Tensor]:
    """The leaf tensors of an output's graph."""
    seen, found, open_ = set(), set(), [output.grad_fn]
    while open_:
        node = open_.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (leaf := getattr(node, "variable", None)) is not None:
            found.add(leaf)
        open_ += [one for one, _ in node.next_functions]
    return found


def _squared(gradients: Sequence[Tensor | None], like: Tensor) -> Tensor:
    """Squared L2 norms, float64 [L], on the `to_float64_device` of `like`; an unused parameter has norm 0."""
    given = [(column, to_float64_device(gradient)) for column, gradient in enumerate(gradients) if gradient is not None]
    squares = torch.zeros(len(gradients), dtype=torch.float64, device=to_float64_device(like.detach()).device)
    large = {column: gradient for column, gradient in given if _is_large(gradient)}
    small = {column: gradient for column, gradient in given if column not in large}
    if large:
        squares[list(large)] = torch.stack([_by_rows(gradient) for gradient in large.values()]).square()
    if small:  # one call for all
        norms = torch._foreach_norm(list(small.values()), dtype=torch.float64)
        squares[list(small)] = torch.stack(norms).square()
    for column in (squares < _UNDERFLOW).nonzero().flatten().tolist():
        if column in large:
            squares[column] = torch.linalg.vector_norm(large[column], dtype=torch.float64).square()
    return squares


def _by_rows(gradient: Tensor) -> Tensor:
    """The norm, in float32 within rows and in float64 over the rows."""
    norms: Tensor = torch.linalg.vector_norm(torch.linalg.vector_norm(gradient.flatten(1), dim=1), dtype=torch.float64)
    return norms


def _is_large(gradient: Tensor) -> bool:
    return gradient.dtype == torch.float32 and gradient.ndim > 1 and gradient.numel() > _LARGE
