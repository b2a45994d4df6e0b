"""Comparison of one pass by closed forms with what must hold for any network.

Three things are compared, each for a kind of error:

- *logit gradients*: one more backward pass with each image's logit gradient times a power of two of its own. Nothing
  else may change: image n's norms are multiplied by exactly the square of its factor. A row that belongs to another
  image, or a backward pass that is not linear, shows at any size of the gradient, since powers of two do not round.
- *row*: one image through the loop.
- *logits*: all images in batches of three, which the plan has compared with the loop, for networks that couple the
  images of larger batches only.

In float32 a ReLU whose input is zero to seven digits may open in one way and not in another, so where numbers differ, a
float64 copy of the network decides. For the proof the copy's small weights are replaced (`reveal`): behind a factor of
zero, or a layer scale of 1e-6 as many networks start with, a wrong number would be too small to be seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_gradood.core import requiring_grad, to_float64_device
from lightning_gradood.gradients import engine
from lightning_gradood.gradients.fallback import loop_norms
from lightning_gradood.gradients.kept_tensors import copied
from lightning_gradood.gradients.labels import LabelDesign, scaled_logit_gradient

_TINY = 0.05  # root mean square of a parameter; a smaller one could hide errors behind it


def copy_for_proof(network: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Return a copy in another dtype, on the network's device or, where that has no float64, on the CPU.

    Raises whatever a network raises that cannot be copied or cast.
    """
    made = copied(network)
    first = next(made.parameters())
    made = made.to(to_float64_device(first).device if dtype == torch.float64 else first.device).to(dtype)
    device = next(made.parameters()).device
    for module in made.modules():
        for name, value in module.__dict__.items():
            if isinstance(value, Tensor) and value.is_floating_point():
                module.__dict__[name] = value.to(device).to(dtype)
    return made


def images_for(network: nn.Module, images: Tensor) -> Tensor:
    """Images on a network's device and in its dtype; they are moved before they become float64."""
    parameter = next(network.parameters())
    return images.to(parameter.device).to(parameter.dtype)


def reveal(parameters: Sequence[nn.Parameter]) -> None:
    """Fill parameters that are zero or tiny with numbers of an ordinary size, the same ones at every call."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in parameters:
            values = parameter.detach()
            if not values.numel() or float(values.square().mean().sqrt()) >= _TINY / math.sqrt(max(1, _inputs(values))):
                continue
            drawn = torch.rand(values.shape, generator=generator)
            if values.ndim < 2 or _inputs(values) == 1:
                drawn = 0.25 + 0.5 * drawn  # positive, as scales and temperatures are
            else:
                drawn = (2 * drawn - 1) * math.sqrt(3 / _inputs(values))
            parameter.copy_(drawn)


def _inputs(values: Tensor) -> int:
    """Number of inputs that one output of this weight adds up."""
    return values[0].numel() if values.ndim > 1 else 1


@dataclass(frozen=True)
class Subject:
    """A network and its L parameters; `reorders` says whether its batch norms may meet a layout that torch misreads."""

    network: nn.Module
    parameters: Sequence[nn.Parameter]
    reorders: bool


SMALL = 3  # images in a batch that the plan has proved
# of norms under a logit gradient times a power of two, which is nearly exact
_ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-10}


@dataclass(frozen=True)
class Fault:
    """Two numbers that should be equal and are not."""

    kind: str  # "logit gradients", "row" or "logits"
    row: int  # the image, within its micro-batch
    column: int  # the parameter; -1 for logits


@dataclass(frozen=True)
class Checks:
    """The comparisons to make."""

    logit_gradients: bool = False  # whether to compare logit gradients times powers of two
    row: int | None = None  # the image to compare with the loop
    logits: bool = False  # whether to compare logits with those of small batches

    def __bool__(self) -> bool:
        return self.logit_gradients or self.logits or self.row is not None


def find_fault(
    subject: Subject, images: Tensor, design: LabelDesign, pass_: engine.Forward, norms: Tensor, checks: Checks
) -> Fault | None:
    """Compare `norms`, float64 [N, L], of `design` from `pass_`; return the first difference beyond rounding.

    The network is frozen and in eval mode, and the graph of `pass_` still stands.
    """
    fault = _compare(subject, images, design, pass_, norms, checks)
    if fault is None or images.dtype == torch.float64:
        return fault
    return _in_double(subject, images, design, checks, fault)


def _compare(
    subject: Subject, images: Tensor, design: LabelDesign, pass_: engine.Forward, norms: Tensor, checks: Checks
) -> Fault | None:
    if checks.logit_gradients and (place := _logit_gradients_differ(pass_, design, norms)) is not None:
        return Fault("logit gradients", *place)
    if checks.row is not None:
        rows = slice(checks.row, checks.row + 1)
        truth, _ = loop_norms(subject.network, images[rows], [design], subject.parameters, subject.reorders)
        if (place := first_excess(norms[rows], truth[:, 0], images.dtype == torch.float64)) is not None:
            return Fault("row", checks.row, place[1])
    if checks.logits and (row := _logits_differ(subject, images, pass_.output)) is not None:
        return Fault("logits", row, -1)
    return None


def first_excess(norms: Tensor, truth: Tensor, strict: bool) -> tuple[int, int] | None:
    """First entry in which two results, float64 [N, L], differ by more than rounding; None if there is none.

    The absolute part is for entries that are zero but for rounding, such as an attention's key bias. Unless `strict`
    (both in float64), a ReLU that opens in one way only is forgiven: it was seen to cost 2e-3 of an entry in float32.
    """
    relative, absolute = (1e-6, 1e-24) if strict else (1e-2, 1e-12)
    return _first((norms - truth).abs() > relative * truth + absolute * truth.amax(1, keepdim=True))


def logit_gradients_agree(pass_: engine.Forward, design: LabelDesign, norms: Tensor) -> bool:
    """Whether norms [N, L] follow each image's own logit gradient, and nothing else."""
    return _logit_gradients_differ(pass_, design, norms) is None


def _logit_gradients_differ(pass_: engine.Forward, design: LabelDesign, norms: Tensor) -> tuple[int, int] | None:
    logit_gradient, scale = scaled_logit_gradient(design, pass_.output)
    number = logit_gradient.shape[0]
    factors = 2.0 ** (torch.randperm(number, generator=torch.Generator().manual_seed(number)) % 7 - 3)
    again = engine.norms_for(pass_, logit_gradient * factors.to(logit_gradient)[:, None], keep=True)
    again = again * (scale / factors.to(scale)).square()[:, None]
    bound = _ROUNDING.get(logit_gradient.dtype, 1e-2) * norms
    bound += (1e-50 if logit_gradient.device.type == "cpu" else 1e-13) * norms.amax(
        1, keepdim=True
    )  # atomic sums on a GPU
    return _first((again - norms).abs() > bound)


def _logits_differ(subject: Subject, images: Tensor, logits: Tensor) -> int | None:
    with torch.no_grad():
        small = torch.cat([subject.network(part.clone()) for part in torch.split(images, SMALL)])
    bound = 1e4 * torch.finfo(logits.dtype).eps * (1 + small.abs().amax(1, keepdim=True))
    place = _first((small - logits.detach()).abs() > bound)
    return None if place is None else place[0]


def _in_double(subject: Subject, images: Tensor, design: LabelDesign, checks: Checks, fault: Fault) -> Fault | None:
    """Compare again in float64, which rules rounding out; a network that cannot be cast keeps the fault."""
    try:
        network = copy_for_proof(subject.network)
        double = Subject(network, list(network.parameters()), subject.reorders)
        images = images_for(network, images)
        with requiring_grad(double.parameters, False):
            pass_ = engine.forward(network, images, double.parameters, 2)
            norms = engine.backward(pass_, [design], keep=True)[:, 0]
            return _compare(double, images, design, pass_, norms, checks)
    except Exception:  # casts inside the forward, custom kernels for float32 alone
        return fault


def _first(wrong: Tensor) -> tuple[int, int] | None:
    found = wrong.nonzero()
    return (int(found[0, 0]), int(found[0, 1])) if found.numel() else None
