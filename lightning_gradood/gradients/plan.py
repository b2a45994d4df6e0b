"""Decide, once per network and image shape, whether the fast way is right for it; prove it against the loop.

Nothing a network does with its batch can be seen from outside, so the plan is measured on three probe images, all
different, in two batches of different size and order:

1. Does an image's output depend on the other images? Then it has no gradient of its own: refused, naming the layer.
2. Does the same image give the same output twice? If not (dropout left on): refused, likewise.
3. Do closed forms cover every way on which autograd reaches a parameter, and give the loop's numbers? If not: the loop.

What the network did is kept as a trace of its operations on parameters. A later batch that leaves another trace
(control flow that depends on the data, a layer exchanged in between) is computed by the loop. So is a single image where
parameters are many and small.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lightning_gradood.gradients import costs, engine
from lightning_gradood.gradients.coupling import check_independent
from lightning_gradood.gradients.interception import Step
from lightning_gradood.gradients.labels import AllOnes
from lightning_gradood.gradients.loop import loop_norms
from lightning_gradood.gradients.state import requiring_grad

_MISMATCH = "closed forms do not give the loop's numbers"


@dataclass(frozen=True)
class Plan:
    """How to compute a network's norms.

    Attributes:
        trace: what a fast pass has to do to be trusted; None where only the loop is right.
        micro_batch: images in one pass, so that activations stay within `costs.limits`.
        single: whether the fast way is right and pays for one image alone, too.
        reason: why the fast way is not taken, for whoever wonders about the speed; empty where it is.
    """

    trace: tuple[Step, ...] | None
    micro_batch: int
    single: bool = False
    reason: str = ""


_plans: WeakKeyDictionary[nn.Module, dict[object, Plan]] = WeakKeyDictionary()


def plan_for(network: nn.Module, images: Tensor, parameters: Sequence[nn.Parameter]) -> Plan:
    """Return the plan for a network in eval mode and images of this shape; make it on the first call.

    Raises:
        Refusal: if the images of a batch influence each other, or the network is not deterministic.
    """
    key = (
        images.shape[1:], images.dtype, images.device, tuple(map(type, network.modules())),
        tuple((parameter.shape, parameter.dtype) for parameter in parameters),
    )  # fmt: skip
    plans = _plans.setdefault(network, {})
    if key not in plans:
        sound = images[torch.isfinite(images.flatten(1)).all(1)]
        truth = logits = sound
        if sound.shape[0]:
            probes = probe_images(sound)
            truth, logits = loop_norms(network, probes, [AllOnes()], parameters)
        if not truth.numel() or not torch.isfinite(truth).all() or not torch.isfinite(logits).all():
            return Plan(
                None, 1, reason="there were no finite numbers to compare with"
            )  # this batch; the next may be better
        with requiring_grad(parameters, False):
            plans[key] = _make(network, probes, parameters, truth, logits)
    return plans[key]


def _make(
    network: nn.Module, probes: Tensor, parameters: Sequence[nn.Parameter], truth: Tensor, logits: Tensor
) -> Plan:
    check_independent(network, probes, logits)
    if probes.dtype not in (torch.float32, torch.float64):
        return Plan(None, 1, reason=f"closed forms are not accurate enough in {probes.dtype}")
    if len({parameter.dtype for parameter in parameters}) > 1:
        return Plan(None, 1, reason="parameters have several dtypes")
    plan = _proved(network, probes, parameters, truth)
    if plan.reason == _MISMATCH and probes.dtype == torch.float32:
        plan = _proved_in_double(network, probes, plan)
    if plan.trace is not None:
        seen = Counter(column for step in plan.trace for column in step[2])
        if any(uses > seen[column] for column, uses in _uses(network, probes[:1], parameters).items()):
            return Plan(
                None, 1, reason="parameters are used where no torch function shows, e.g. in a custom autograd function"
            )
    return plan


def _uses(network: nn.Module, image: Tensor, parameters: Sequence[nn.Parameter]) -> Counter[int]:
    """How often autograd's graph leads to each parameter, by column, whether or not a gradient flows there now."""
    columns = {id(parameter): column for column, parameter in enumerate(parameters)}
    uses: Counter[int] = Counter()
    with requiring_grad(parameters, True):
        waiting = [network(image).grad_fn]
        met = set(waiting)
        while waiting:
            for node, _ in waiting.pop().next_functions:
                if id(getattr(node, "variable", None)) in columns:
                    uses[columns[id(node.variable)]] += 1
                elif node is not None and node not in met:
                    met.add(node)
                    waiting.append(node)
    return uses


def _proved(network: nn.Module, probes: Tensor, parameters: Sequence[nn.Parameter], truth: Tensor) -> Plan:
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
    single = _pays_alone(parameters) and _try(network, probes[:1], parameters, truth[:1])
    return Plan(
        trace,
        max(1, min(limits.micro_batch, limits.activation_bytes // max(1, size))),
        single=isinstance(single, tuple) and single[0] == trace,
    )


def _pays_alone(parameters: Sequence[nn.Parameter]) -> bool:
    """Whether writing one image's gradients, as the loop does, takes longer than a closed form's calls for each tensor."""
    return sum(parameter.numel() for parameter in parameters) >= costs.ALONE * len(parameters)


def _proved_in_double(network: nn.Module, probes: Tensor, failed: Plan) -> Plan:
    """Judge again where rounding is no excuse: in float32 a ReLU near zero may open in one way and not in the other."""
    try:
        twin = copy.deepcopy(network).double()
        truth, _ = loop_norms(twin, probes.double(), [AllOnes()], list(twin.parameters()))
    except Exception:  # a network that cannot be copied, or insists on float32, keeps the loop
        return failed
    return _proved(twin, probes.double(), list(twin.parameters()), truth)


def probe_images(images: Tensor) -> Tensor:
    """Three images in the range of the caller's, no two alike even where all of his are constant."""
    rows = [images[row % images.shape[0]] * (1 - 0.2 * row) + 0.05 * row for row in range(3)]
    return torch.stack(rows)


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
            pass_ = engine.forward(network, images, parameters, 1)
        if pass_.tally.knows(pass_.output):
            return "no closed form covers the way from the images to the output"
        if pass_.watch.unknown:
            return f"no closed form covers {', '.join(sorted(set(pass_.watch.unknown)))}"
        norms = engine.backward(pass_, [AllOnes()])
    except Exception as error:  # what the network does not survive under interception, the loop survived
        return f"{type(error).__name__}: {error}"
    if not agree(norms, truth):
        return _MISMATCH
    own = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    activations = sum(size for pointer, size in kept.items() if pointer not in own)
    shared = pass_.tally.summed_elements() * images.element_size()
    return tuple(pass_.watch.trace), activations // images.shape[0] + shared


def agree(norms: Tensor, truth: Tensor) -> bool:
    """Whether two ways differ by rounding only; [N, K, L] float64, computed in the network's dtype.

    The relative part forgives float32 a ReLU that opens in one way only, which was seen to cost 2e-3. The absolute part
    is for entries that are zero but for rounding, such as an attention's key bias.
    """
    epsilon = torch.finfo(torch.float32).eps  # also for float64: a wrong formula is off by far more
    bound = 1e5 * epsilon * truth + 1e4 * epsilon**2 * truth.amax(2, keepdim=True)
    return bool(((norms - truth).abs() <= bound).all())
