"""Comparison of closed forms with plain autograd on a network's first batch, from which its plan follows.

The plan is measured on three different probe images, in batches of different size and order, on a copy of the network
whose tiny parameters are filled (`reveal`), so that no error is too small to be seen; where float32 numbers differ, a
float64 copy decides:

1. Does an image's output depend on the other images? Then it has no gradient of its own: refused, naming the layer.
2. Does the same image give the same output twice? If not (dropout left on): refused, likewise.
3. Is the backward pass linear in its logit gradient? If not (a hook that clamps): the loop, with unscaled logit
   gradients.
4. Do closed forms cover every way by which autograd reaches a parameter, and give the loop's numbers? If not: the loop.

The plan keeps the trace of the network's operations. A later batch with another trace (control flow or rows that depend
on the data) is computed by the loop. So is a single image where parameters are many and small.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gradood.core import OrderedBatchNorm, Refusal, requiring_grad
from lightning_gradood.gradients import costs, engine
from lightning_gradood.gradients.coupling import check_deterministic, check_independent
from lightning_gradood.gradients.engine import Step
from lightning_gradood.gradients.fallback import loop_norms, refusing_missing_gradients
from lightning_gradood.gradients.fingerprint import Place
from lightning_gradood.gradients.kept_tensors import Afresh, observe
from lightning_gradood.gradients.labels import AllOnes, LabelDesign, scaled_logit_gradient
from lightning_gradood.gradients.network_checks import RefusingQuantised
from lightning_gradood.gradients.verification import (
    copy_for_proof,
    first_excess,
    images_for,
    logit_gradients_agree,
    reveal,
)

MISMATCH = "closed forms do not give the loop's numbers"
_NOT_LINEAR = "the backward pass is not linear in its logit gradient"
NO_NUMBERS = "there were no finite numbers to compare with"
_LARGEST_COPY = 4 << 30  # bytes of a copy; larger networks are proved on themselves


@dataclass
class Checked:
    """Columns and batch sizes that were compared on the caller's own images so far."""

    columns: Tensor  # parameters with a gradient other than zero in a checked pass, bool [L]
    sizes: set[int] = field(default_factory=set)  # numbers of images in a micro-batch


@dataclass(frozen=True)
class Plan:
    """The way in which a network's norms are computed."""

    trace: tuple[Step, ...] | None  # what a fast pass has to do to be trusted; None where only the loop is right
    micro_batch: int  # images in one pass, so that activations stay within `costs.limits`
    single: bool = False  # whether the fast way is right and pays for one image alone, too
    reason: str = ""  # why the fast way is not taken; empty where it is
    reorders: bool = True  # whether batch norm may meet a layout that torch misreads (`core.network_state`)
    scales: bool = True  # whether the backward pass is linear, so that its logit gradient may be scaled
    starts: dict[Place, Any] | None = None  # what `Afresh` needs; None for a network that may be used as it is
    moving: frozenset[Place] = frozenset()  # attributes and buffers that every pass changes
    checked: Checked = field(default_factory=lambda: Checked(torch.zeros(0, dtype=torch.bool)), compare=False)

    def subject(self, network: nn.Module) -> nn.Module:
        """The module that passes go through: the network, or one that makes every pass with a fresh copy."""
        return network if self.starts is None else Afresh(network, self.starts)


def probe_images(images: Tensor, dtype: torch.dtype) -> Tensor | None:
    """Return three different images in the range of the caller's, which may be constant; None without a finite one."""
    found: list[Tensor] = []
    for image in images:  # stops at the third, as the batch may be large
        if len(found) < 3 and bool(torch.isfinite(image).all()):
            found.append(image)
        if len(found) == 3:
            break
    if not found:
        return None
    rows = [found[row % len(found)] * (1 - 0.2 * row) + 0.05 * row for row in range(3)]
    return torch.stack(rows).detach().clone().to(dtype)


def prove(network: nn.Module, probes: Tensor, parameters: Sequence[nn.Parameter]) -> Plan:
    """Return the plan for a network in eval mode; refuse one that is not deterministic or couples images."""
    ordered = OrderedBatchNorm()
    with _warned_of_checkpoints(network):
        with ordered, RefusingQuantised():
            starts, moving, first = observe(network, probes[:1], parameters)
            plan = Plan(None, 1, reason=NO_NUMBERS, starts=starts, moving=frozenset(moving))
            subject = plan.subject(network)
            norms, logits = loop_norms(subject, probes[:1], [AllOnes()], parameters)
        if not torch.isfinite(norms).all() or not torch.isfinite(logits).all():
            return plan
        uses = _uses(first, parameters)
        with requiring_grad(parameters, False), ordered:
            check_deterministic(subject, probes[:1], first.detach(), logits)
            plan = replace(_judged(subject, probes), starts=plan.starts, moving=plan.moving)
    if plan.trace is None:
        return plan
    seen = Counter(column for step in plan.trace for column in step[2])
    if any(count > seen[column] for column, count in uses.items()):
        return replace(
            plan, trace=None, single=False,
            reason="parameters are used where no torch function shows, e.g. in a custom autograd function",
        )  # fmt: skip
    # a later pass with the same trace uses the same functions, so what was not met here is not met later
    return replace(plan, reorders=ordered.met)


def _judged(network: nn.Module, probes: Tensor) -> Plan:
    """The verdict in float32 where that is enough, since it is several times faster; else in float64."""
    own = next(network.parameters()).dtype
    verdict: Plan | None = None
    if own != torch.float64:
        with suppress(Refusal):  # rounding may look like a dependence on other images
            verdict = _examined_where_possible(network, probes, torch.float32)
    if verdict is None or verdict.reason in (MISMATCH, _NOT_LINEAR):
        verdict = _examined_where_possible(network, probes, torch.float64)
    if own not in (torch.float32, torch.float64):
        return replace(verdict, trace=None, single=False, reason=f"closed forms are not accurate enough in {own}")
    if len({parameter.dtype for parameter in network.parameters()}) > 1:
        return replace(verdict, trace=None, single=False, reason="parameters have several dtypes")
    return verdict


def _examined_where_possible(network: nn.Module, probes: Tensor, dtype: torch.dtype) -> Plan:
    """Examine a copy with replaced weights, else a plain copy, else the network itself."""
    if sum(parameter.numel() for parameter in network.parameters()) * dtype.itemsize <= _LARGEST_COPY:
        for revealed in (True, False):
            try:
                subject = copy_for_proof(network, dtype)
                if revealed:
                    reveal(list(subject.parameters()))
                truth, logits = _truth(subject, probes)
            except Exception:  # a network that cannot be copied, or insists on another dtype
                break
            if torch.isfinite(truth).all():
                return _examined(subject, probes, truth, logits)
    return _examined(network, probes, *_truth(network, probes))


def _truth(network: nn.Module, probes: Tensor) -> tuple[Tensor, Tensor]:
    """The loop's norms, float64 [3, 3, L], the first image's under logit gradients of three sizes; logits [3, C]."""
    parameters = list(network.parameters())
    probes = images_for(network, probes)
    sizes = [_Sized(factor) for factor in (1.0, 2.0**20, 2.0**-20)]
    first, logits = loop_norms(network, probes[:1], sizes, parameters, scales=False)
    others, more = loop_norms(network, probes[1:], [_UNIT], parameters, scales=False)
    first[:, 1] *= 2.0**-40
    first[:, 2] *= 2.0**40
    return torch.cat([first, others.expand(-1, 3, -1)]), torch.cat([logits, more])


def _examined(network: nn.Module, probes: Tensor, truth: Tensor, logits: Tensor) -> Plan:
    parameters = list(network.parameters())
    size = probes.element_size()
    probes = images_for(network, probes)
    with requiring_grad(parameters, False):
        check_independent(network, probes, logits)
        # powers of two do not round, so that float32 suffices
        if any(first_excess(truth[:1, 0], truth[:1, number], strict=True) for number in (1, 2)):
            return Plan(None, 1, reason=_NOT_LINEAR, scales=False)
        plan = _proved(network, probes, parameters, truth[:, 0], size)
    return plan


@dataclass(frozen=True)
class _Sized(LabelDesign):
    """The all-ones logit gradient, scaled to a largest entry of `size`."""

    size: float

    @property
    def name(self) -> str:
        return f"all_ones_of_size_{self.size:g}"

    def logit_gradient(self, logits: Tensor) -> Tensor:
        return self.size * scaled_logit_gradient(AllOnes(), logits)[0].double()


_UNIT = _Sized(1.0)


def _uses(logits: Tensor, parameters: Sequence[nn.Parameter]) -> Counter[int]:
    """How often autograd's graph leads to each parameter, by column, whether or not a gradient flows there now."""
    columns = {id(parameter): column for column, parameter in enumerate(parameters)}
    uses: Counter[int] = Counter()
    waiting: list[Any] = [logits.grad_fn]
    met = set(waiting)
    while waiting:
        for node, _ in waiting.pop().next_functions:
            if id(getattr(node, "variable", None)) in columns:
                uses[columns[id(node.variable)]] += 1
            elif node is not None and node not in met:
                met.add(node)
                waiting.append(node)
    return uses


def _proved(
    network: nn.Module,
    probes: Tensor,
    parameters: Sequence[nn.Parameter],
    truth: Tensor,
    element_size: int,
) -> Plan:
    """Try the fast way on two batches of different size and order."""
    tried = []
    for rows in ([0, 1, 2], [1, 0]):
        outcome = _try(network, probes[rows], parameters, truth[rows])
        if isinstance(outcome, str):
            return Plan(None, 1, reason=outcome)
        tried.append(outcome)
    (trace, size), (other, _) = tried
    if trace != other:
        return Plan(None, 1, reason="the network's operations depend on its input")
    limits = costs.limits(probes.device)
    size = size * element_size // probes.element_size()
    single = _pays_alone(parameters) and _try(network, probes[:1], parameters, truth[:1])
    return Plan(
        trace,
        max(1, min(limits.micro_batch, limits.activation_bytes // max(1, size))),
        single=isinstance(single, tuple) and single[0] == trace,
        checked=Checked((truth > 0).any(0)),
    )


def _pays_alone(parameters: Sequence[nn.Parameter]) -> bool:
    """Whether writing one image's gradients, as the loop does, takes longer than the calls of closed forms."""
    return sum(parameter.numel() for parameter in parameters) >= costs.ALONE * len(parameters)


def _try(
    network: nn.Module, images: Tensor, parameters: Sequence[nn.Parameter], truth: Tensor
) -> tuple[tuple[Step, ...], int] | str:
    """Run the fast way on a probe batch: its trace and the bytes it keeps per image, or why it is not to be used."""
    kept: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    try:
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            pass_ = engine.forward(network, images, parameters, 2)
            if pass_.accumulator.knows(pass_.output):
                return "no closed form covers the way from the images to the output"
            if pass_.watch.unknown:
                return f"no closed form covers {', '.join(sorted(set(pass_.watch.unknown)))}"
            norms = engine.backward(pass_, [_UNIT], keep=True)[:, 0]
            agree = first_excess(norms, truth, images.dtype == torch.float64) is None
            if not agree or not logit_gradients_agree(pass_, _UNIT, norms):
                return MISMATCH
    except Exception as error:  # of interception, since the loop has succeeded
        return f"{type(error).__name__}: {error}"
    own = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    activations = sum(size for pointer, size in kept.items() if pointer not in own)
    shared = pass_.accumulator.summed_elements() * images.element_size()
    return tuple(pass_.watch.trace), activations // images.shape[0] + shared


@contextmanager
def _warned_of_checkpoints(network: nn.Module) -> Iterator[None]:
    """Raise torch's warning of checkpoints without gradients; the filter is process-wide, so only proofs set it."""
    with warnings.catch_warnings(), refusing_missing_gradients(network):
        warnings.filterwarnings("error", message="None of the inputs have requires_grad=True")
        yield
