"""Comparison of closed forms with plain autograd, one image at a time, from which a network's way follows.

On a network's first batch three different probe images are measured, in batches of different size and order, on a copy
whose tiny parameters are filled (`changes.reveal`); where float32 numbers differ, a float64 copy decides, since a ReLU
whose input is zero to seven digits may open in one way and not in another. A network whose images influence each other
is refused. The loop is taken if the backward pass is not linear in its logit gradient (a hook that clamps), or if closed
forms do not cover every way by which autograd reaches a parameter, or give other numbers.

The way keeps the trace of the network's operations. A later batch with another trace (control flow or rows that depend
on the data) is computed by the loop. Passes of the caller's own images are compared, too (`find_fault`).
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gradood.core import OrderedBatchNorm, Refusal
from lightning_gradood.gradients import costs, engine
from lightning_gradood.gradients.changes import Afresh, Fingerprint, Place, images_for, in_dtype, observe, reveal
from lightning_gradood.gradients.labels import AllOnes, LabelDesign, scaled_logit_gradient
from lightning_gradood.gradients.loop import RefusingQuantised, check_deterministic, check_independent, loop_norms, uses

MISMATCH = "closed forms do not give the loop's numbers"
NO_NUMBERS = "there were no finite numbers to compare with"
NOT_LINEAR = "the backward pass is not linear in its logit gradient"
_HIDDEN = "parameters are used where no torch function shows, e.g. in a custom autograd function"
_LARGEST_COPY = 4 << 30  # bytes of a copy; larger networks are compared themselves
SMALL = 3  # images in a batch of probes
_ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-10}  # of norms under a logit gradient times a power of two


@dataclass
class Way:
    """The way in which a network's norms are computed, and what was compared on the caller's own images so far."""

    reason: str = ""  # why the fast way is not taken; empty where it is
    trace: list[engine.Step] = field(default_factory=list)  # what a fast pass has to do to be trusted
    micro_batch: int = 1  # images in one fast pass, so that activations stay within `costs.Limits`
    single: bool = False  # whether the fast way is right and pays for one image alone, too
    reorders: bool = True  # whether batch norm may meet a layout that torch misreads (`core.network_state`)
    starts: dict[Place, Any] | None = None  # what `Afresh` needs; None for a network that may be used as it is
    fingerprint: Fingerprint | None = None  # of the network for which the way holds
    # parameters with a gradient other than zero in a checked pass, bool [L]
    columns: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))
    sizes: set[int] = field(default_factory=set)  # numbers of images in micro-batches that were checked

    def take_loop(self, reason: str) -> None:
        """Give closed forms up."""
        self.reason, self.reorders = self.reason or reason, True


def prove(network: nn.Module, images: Tensor, parameters: Sequence[nn.Parameter]) -> Way:
    """Return the way for a frozen network in eval mode; refuse one that is not deterministic or couples images."""
    way, ordered, own = Way(NO_NUMBERS), OrderedBatchNorm(), parameters[0].dtype
    probes = _probes(images, own)
    if probes is None:
        return way
    with warnings.catch_warnings(), ordered:
        # torch's warning of checkpoints without gradients; the filter is process-wide, so only proofs set it
        warnings.filterwarnings("error", message="None of the inputs have requires_grad=True")
        with RefusingQuantised():
            starts, moving, first = observe(network, probes[:1], parameters)
            subject = network if starts is None else Afresh(network, starts)
            norms, logits = loop_norms(subject, probes[:1], [AllOnes()], parameters)
        if not torch.isfinite(norms).all() or not torch.isfinite(logits).all():
            return way
        check_deterministic(subject, probes[:1], first.detach(), logits)
        way = _judged(subject, probes)
    way.starts, way.fingerprint = starts, Fingerprint(network, moving)
    used, seen = uses(first), Counter(column for step in way.trace for column in step[2])
    if own not in (torch.float32, torch.float64):
        way.take_loop(f"closed forms are not accurate enough in {own}")
    elif any(parameter.dtype != own for parameter in parameters):
        way.take_loop("parameters have several dtypes")
    elif any(used.get(id(parameter), 0) > seen[column] for column, parameter in enumerate(parameters)):
        way.take_loop(_HIDDEN)
    # a later pass with the same trace uses the same functions, so what was not met here is not met later
    way.reorders = bool(way.reason) or ordered.met
    return way


def _probes(images: Tensor, dtype: torch.dtype) -> Tensor | None:
    """Return three different images in the range of the caller's, which may be constant; None without a finite one."""
    finite = (image for image in images if bool(torch.isfinite(image).all()))
    found = list(islice(finite, SMALL))  # stops at the third, as the batch may be large
    if not found:
        return None
    rows = [found[row % len(found)] * (1 - 0.2 * row) + 0.05 * row for row in range(SMALL)]
    return torch.stack(rows).detach().clone().to(dtype)


def _judged(network: nn.Module, probes: Tensor) -> Way:
    """The verdict in float32 where that is enough, since it is several times faster; else in float64."""
    if probes.dtype != torch.float64:
        with suppress(Refusal):  # rounding may look like a dependence on other images
            way = _examined(network, probes, torch.float32)
            if way.reason not in (MISMATCH, NOT_LINEAR):
                return way
    return _examined(network, probes, torch.float64)


@dataclass(frozen=True)
class _Sized(LabelDesign):
    """The all-ones logit gradient, scaled to a largest entry of `size`."""

    size: float
    name = "all_ones_of_size"

    def logit_gradient(self, logits: Tensor) -> Tensor:
        return self.size * scaled_logit_gradient(AllOnes(), logits)[0].double()


_UNIT = _Sized(1.0)


def _examined(network: nn.Module, probes: Tensor, dtype: torch.dtype) -> Way:
    """Refuse a coupled network; try the fast way on two batches of different size and order, and on one image."""
    element_size = probes.element_size()
    network, probes, truth, is_linear, logits = _subject(network, probes, dtype)
    parameters = list(network.parameters())
    check_independent(network, probes, logits)
    if not is_linear:
        return Way(NOT_LINEAR)
    tried = [_try(network, probes[rows], parameters, truth[rows]) for rows in ([0, 1, 2], [1, 0])]
    (reason, trace, size), (other_reason, other, _) = tried
    if reason or other_reason or trace != other:
        return Way(reason or other_reason or "the network's operations depend on its input")
    # whether writing one image's gradients, as the loop does, takes longer than the calls of closed forms
    pays = sum(parameter.numel() for parameter in parameters) >= costs.ALONE * len(parameters)
    single = pays and _try(network, probes[:1], parameters, truth[:1])[:2] == ("", trace)
    limits, size = costs.limits(probes.device), max(1, size * element_size // probes.element_size())
    micro_batch = max(1, min(limits.micro_batch, limits.activation_bytes // size))
    return Way("", trace, micro_batch, single, columns=(truth > 0).any(0))


def _subject(network: nn.Module, probes: Tensor, dtype: torch.dtype) -> tuple[nn.Module, Tensor, Tensor, bool, Tensor]:
    """A copy with revealed weights, else a plain copy, else the network itself; probes for it and their `_truth`."""
    if sum(parameter.numel() for parameter in network.parameters()) * dtype.itemsize <= _LARGEST_COPY:
        with suppress(Exception):  # a network that cannot be copied, or insists on another dtype
            for revealed in (True, False):
                subject = in_dtype(network, dtype)
                if revealed:
                    reveal(list(subject.parameters()))
                truth = _truth(subject, images_for(subject, probes))
                if torch.isfinite(truth[1]).all():
                    return (subject, *truth)
    return (network, *_truth(network, images_for(network, probes)))


def _truth(network: nn.Module, probes: Tensor) -> tuple[Tensor, Tensor, bool, Tensor]:
    """The probes, the loop's norms, float64 [3, L], whether they are linear in the logit gradient, logits [3, C]."""
    parameters, exponents = list(network.parameters()), (0, 20, -20)  # powers of two do not round
    sizes = [_Sized(2.0**exponent) for exponent in exponents]
    first, logits = loop_norms(network, probes[:1], sizes, parameters, scales=False)
    others, more = loop_norms(network, probes[1:], [_UNIT], parameters, scales=False)
    plain, large, small = (first[:, one] * 4.0**-exponent for one, exponent in enumerate(exponents))
    is_linear = first_excess(plain, large, strict=True) is None and first_excess(plain, small, strict=True) is None
    return probes, torch.cat([plain, others[:, 0]]), is_linear, torch.cat([logits, more])


def _try(
    network: nn.Module, images: Tensor, parameters: Sequence[nn.Parameter], truth: Tensor
) -> tuple[str, list[engine.Step], int]:
    """Run the fast way on a probe batch: why it is not to be used, if so; its trace; and the bytes it keeps per image."""
    try:
        with costs.counting_kept(parameters) as kept:
            pass_ = engine.forward(network, images, parameters, 2)
            if pass_.accumulator.knows(pass_.output):
                return "no closed form covers the way from the images to the output", [], 0
            if pass_.unknown:
                return f"no closed form covers {', '.join(sorted(set(pass_.unknown)))}", [], 0
            norms = engine.backward(pass_, [_UNIT], keep=True)[:, 0]
            agree = first_excess(norms, truth, images.dtype == torch.float64) is None
            if not agree or _under_other_logit_gradients(pass_, _UNIT, norms) is not None:
                return MISMATCH, [], 0
    except Exception as error:  # of interception, since the loop has succeeded
        return f"{type(error).__name__}: {error}", [], 0
    shared = pass_.accumulator.summed_elements() * images.element_size()
    return "", pass_.trace, sum(kept.values()) // images.shape[0] + shared


@dataclass(frozen=True)
class Checks:
    """The comparisons to make of a pass, each of what must hold for any network."""

    # one more backward pass with each image's logit gradient times a power of two of its own, which does not round: image
    # n's norms are multiplied by exactly the square of its factor, or a row belongs to another image
    logit_gradients: bool = False
    row: int | None = None  # one image to compare with the loop
    logits: bool = False  # all images in batches of three, for networks that couple the images of larger batches only
    is_new: bool = False  # whether nothing was returned yet for such a pass, so that the loop may still be taken


def find_fault(
    pass_: engine.Interception, design: LabelDesign, norms: Tensor, checks: Checks
) -> tuple[int, int | None] | None:
    """Compare `norms`, float64 [N, L], of `design` from a pass of a frozen network, whose graph still stands.

    Returns the row and the column of the first difference beyond rounding, without a column if it is in the logits.
    """
    fault = _compare(pass_, design, norms, checks)
    if fault is None or pass_.images.dtype == torch.float64:
        return fault
    try:  # again in float64, which rules rounding out
        network = in_dtype(pass_.network)
        again = engine.forward(network, images_for(network, pass_.images), list(network.parameters()), 2)
        return _compare(again, design, engine.backward(again, [design], keep=True)[:, 0], checks)
    except Exception:  # casts inside the forward, custom kernels for float32 alone
        return fault


def _compare(
    pass_: engine.Interception, design: LabelDesign, norms: Tensor, checks: Checks
) -> tuple[int, int | None] | None:
    if checks.logit_gradients and (place := _under_other_logit_gradients(pass_, design, norms)) is not None:
        return place
    if (row := checks.row) is not None:
        truth, _ = loop_norms(pass_.network, pass_.images[row : row + 1], [design], pass_.accumulator.parameters)
        place = first_excess(norms[row : row + 1], truth[:, 0], pass_.images.dtype == torch.float64)
        if place is not None:
            return row, place[1]
    if checks.logits:
        with torch.no_grad():
            small = torch.cat([pass_.network(part.clone()) for part in torch.split(pass_.images, SMALL)])
        bound = 1e4 * torch.finfo(small.dtype).eps * (1 + small.abs().amax(1, keepdim=True))
        if (place := _first((small - pass_.output.detach()).abs() > bound)) is not None:
            return place[0], None
    return None


def first_excess(norms: Tensor, truth: Tensor, strict: bool) -> tuple[int, int] | None:
    """First entry in which two results, float64 [N, L], differ by more than rounding; None if there is none.

    The absolute part is for entries that are zero but for rounding, such as an attention's key bias. Unless `strict`
    (both in float64), a ReLU that opens in one way only is forgiven: it was seen to cost 2e-3 of an entry in float32.
    """
    relative, absolute = (1e-6, 1e-24) if strict else (1e-2, 1e-12)
    return _first((norms - truth).abs() > relative * truth + absolute * truth.amax(1, keepdim=True))


def _under_other_logit_gradients(
    pass_: engine.Interception, design: LabelDesign, norms: Tensor
) -> tuple[int, int] | None:
    """First entry of the norms [N, L] that does not follow its image's own logit gradient, and nothing else."""
    logit_gradient, scale = scaled_logit_gradient(design, pass_.output)
    number = logit_gradient.shape[0]
    factors = 2.0 ** (torch.randperm(number, generator=torch.Generator().manual_seed(number)) % 7 - 3)
    again = engine.norms_for(pass_, logit_gradient * factors.to(logit_gradient)[:, None], keep=True)
    again = again * (scale / factors.to(scale)).square()[:, None]
    absolute = 1e-50 if logit_gradient.device.type == "cpu" else 1e-13  # a GPU's atomic sums
    bound = _ROUNDING.get(logit_gradient.dtype, 1e-2) * norms + absolute * norms.amax(1, keepdim=True)
    return _first((again - norms).abs() > bound)


def _first(wrong: Tensor) -> tuple[int, int] | None:
    found = wrong.nonzero()
    return (int(found[0, 0]), int(found[0, 1])) if found.numel() else None
