"""Decide, once per network and image shape, whether the fast way is right for it; prove it against the loop.

Nothing a network does with its batch can be seen from outside, so the plan is measured on three probe images, all
different, in batches of different size and order, on a float64 copy of the network whose tiny parameters are filled
(`twin`), so that no error is too small to be seen:

1. Does an image's output depend on the other images? Then it has no gradient of its own: refused, naming the layer.
2. Does the same image give the same output twice? If not (dropout left on): refused, likewise.
3. Is the backward pass linear in its seed? If not (a hook that clamps): the loop, with every seed as it is.
4. Do closed forms cover every way on which autograd reaches a parameter, and give the loop's numbers? If not: the loop.

What the network did is kept as a trace of its operations. A later batch that leaves another trace (control flow that depends
on the data, rows that are chosen by the data) is computed by the loop. So is a single image where parameters are
many and small. The plan holds as long as the network's `Fingerprint` does; `batches` checks it on the caller's images.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lightning_gradood.gradients import costs, engine
from lightning_gradood.gradients.checks import RefusingQuantised, check_graph
from lightning_gradood.gradients.coupling import check_deterministic, check_independent
from lightning_gradood.gradients.fingerprint import Fingerprint, attributes_that_move
from lightning_gradood.gradients.interception import Step
from lightning_gradood.gradients.labels import AllOnes, LabelDesign
from lightning_gradood.gradients.layouts import OrderedBatchNorm
from lightning_gradood.gradients.loop import loop_norms, refusing_missing_gradients
from lightning_gradood.gradients.precautions import Precautions, observe
from lightning_gradood.gradients.state import requiring_grad
from lightning_gradood.gradients.twin import double_twin, reveal
from lightning_gradood.gradients.verification import first_excess, seeds_agree

MISMATCH = "closed forms do not give the loop's numbers"
_NO_NUMBERS = "there were no finite numbers to compare with"
_LARGEST_TWIN = 4 << 30  # bytes of a copy; larger networks are proved on themselves


@dataclass
class Checked:
    """What the caller's own images have confirmed so far.

    Attributes:
        sizes: numbers of images in a micro-batch.
        columns: parameters with a gradient other than zero in a checked pass, bool [L].
    """

    columns: Tensor
    sizes: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class Plan:
    """How to compute a network's norms.

    Attributes:
        trace: what a fast pass has to do to be trusted; None where only the loop is right.
        micro_batch: images in one pass, so that activations stay within `costs.limits`.
        single: whether the fast way is right and pays for one image alone, too.
        reason: why the fast way is not taken, for whoever wonders about the speed; empty where it is.
        precautions: how a pass of this network has to be made.
        checked: what the caller's images have confirmed.
    """

    trace: tuple[Step, ...] | None
    micro_batch: int
    single: bool = False
    reason: str = ""
    precautions: Precautions = field(default_factory=Precautions)
    checked: Checked = field(default_factory=lambda: Checked(torch.zeros(0, dtype=torch.bool)), compare=False)


_plans: WeakKeyDictionary[nn.Module, dict[object, tuple[Plan, Fingerprint]]] = WeakKeyDictionary()


def plan_for(
    network: nn.Module,
    images: Tensor,
    parameters: Sequence[nn.Parameter],
    modules: Mapping[str, nn.Module] | None = None,
) -> Plan:
    """Return the plan for a network in eval mode and images of this shape; make it on the first call.

    Args:
        network: in eval mode.
        images: [N, ...] in any floating dtype.
        parameters: the L tensors.
        modules: the network's `named_modules`, where they are at hand.

    Raises:
        Refusal: if the images of a batch influence each other, or the network is not deterministic.
    """
    modules = dict(network.named_modules()) if modules is None else modules
    plans = _plans.setdefault(network, {})
    known = plans.get(_key(images))
    if known is not None:
        plan, fingerprint = known
        if (images.shape[0] == 1 and not plan.single) or fingerprint.fits(modules):
            return plan
    probes = probe_images(images, parameters[0].dtype)
    plan = Plan(None, 1, reason=_NO_NUMBERS)
    if probes is not None:
        with _warned_of_checkpoints(network):
            plan = _make(network, probes, parameters)
    if plan.reason != _NO_NUMBERS:  # this batch; the next may be better
        with requiring_grad(parameters, False), torch.no_grad():
            moving = [] if probes is None else attributes_that_move(network, probes[:1], plan.precautions)
        plans[_key(images)] = (plan, Fingerprint(modules, (*moving, *plan.precautions.slots)))
    return plan


def distrust(network: nn.Module, images: Tensor, plan: Plan, reason: str) -> Plan:
    """Replace a plan by the loop, for the reason given, and return the new one."""
    slow = replace(plan, trace=None, single=False, reason=reason, precautions=replace(plan.precautions, reorders=True))
    _plans[network][_key(images)] = (slow, _plans[network][_key(images)][1])
    return slow


def _key(images: Tensor) -> object:
    return (images.shape[1:], images.dtype, images.device)


def probe_images(images: Tensor, dtype: torch.dtype) -> Tensor | None:
    """Three images in the range of the caller's, no two alike even where all of his are constant; None without a finite one."""
    found: list[Tensor] = []
    for image in images:  # which looks at no more of a large batch than it needs
        if len(found) < 3 and bool(torch.isfinite(image).all()):
            found.append(image)
        if len(found) == 3:
            break
    if not found:
        return None
    rows = [found[row % len(found)] * (1 - 0.2 * row) + 0.05 * row for row in range(3)]
    return torch.stack(rows).detach().clone().to(dtype)


def _make(network: nn.Module, probes: Tensor, parameters: Sequence[nn.Parameter]) -> Plan:
    with RefusingQuantised():
        precautions = observe(network, probes[:1], parameters)
    ordered = OrderedBatchNorm()
    with ordered:
        norms, logits = loop_norms(network, probes[:1], [AllOnes()], parameters, precautions)
    if not torch.isfinite(norms).all() or not torch.isfinite(logits).all():
        return Plan(None, 1, reason=_NO_NUMBERS, precautions=precautions)
    with requiring_grad(parameters, True), precautions.around(network):
        check_graph(network(precautions.given(probes[:1])))
    with requiring_grad(parameters, False):
        check_deterministic(network, probes, precautions)
        plan = _judged(network, probes, parameters, precautions)
        if plan.trace is None:
            return plan
        uses = Counter(column for step in plan.trace for column in step[2])
        found = _uses(network, precautions.given(probes[:1]), parameters, precautions)
    if any(count > uses[column] for column, count in found.items()):
        return Plan(
            None, 1, precautions=precautions,
            reason="parameters are used where no torch function shows, e.g. in a custom autograd function",
        )  # fmt: skip
    # the trace says that no other way is taken, so what was not met here will not be met later
    return replace(plan, precautions=replace(precautions, reorders=ordered.met))


def _judged(network: nn.Module, probes: Tensor, parameters: Sequence[nn.Parameter], precautions: Precautions) -> Plan:
    subject = _subject(network, probes, parameters, precautions)
    images, own = probes.to(next(subject.parameters())), list(subject.parameters())
    truth, logits = loop_norms(subject, images, [AllOnes()], own, precautions)
    with requiring_grad(own, False):
        check_independent(subject, images, logits, precautions)
    if not _is_linear(subject, images[:1], own, precautions):
        natural = replace(precautions, scales_seeds=False)
        return Plan(None, 1, reason="the backward pass is not linear in its seed", precautions=natural)
    if probes.dtype not in (torch.float32, torch.float64):
        reason = f"closed forms are not accurate enough in {probes.dtype}"
        return Plan(None, 1, reason=reason, precautions=precautions)
    if len({parameter.dtype for parameter in parameters}) > 1:
        return Plan(None, 1, reason="parameters have several dtypes", precautions=precautions)
    with requiring_grad(own, False):
        return _proved(subject, images, own, truth[:, 0], precautions, probes.element_size())


def _subject(
    network: nn.Module, probes: Tensor, parameters: Sequence[nn.Parameter], precautions: Precautions
) -> nn.Module:
    """What to look at: a revealed copy if it gives finite numbers, else a plain one, else the network itself."""
    if 8 * sum(parameter.numel() for parameter in parameters) > _LARGEST_TWIN:
        return network
    for revealed in (True, False):
        try:
            twin = double_twin(network)
            own = list(twin.parameters())
            if revealed:
                reveal(own)
            norms, _ = loop_norms(twin, probes[:1].to(own[0]), [AllOnes()], own, precautions)
        except Exception:  # a network that cannot be copied, or insists on float32
            return network
        if torch.isfinite(norms).all():
            return twin
    return network


def _is_linear(network: nn.Module, image: Tensor, parameters: Sequence[nn.Parameter], precautions: Precautions) -> bool:
    """Whether seeds a million times larger and smaller give gradients that are a million times larger and smaller."""
    factors = (1.0, 2.0**20, 2.0**-20)
    designs = [_Times(AllOnes(), factor) for factor in factors]
    norms, _ = loop_norms(network, image, designs, parameters, replace(precautions, scales_seeds=False))
    plain, *others = (norms[:, number] / factor**2 for number, factor in enumerate(factors))
    return all(first_excess(other, plain, image.dtype == torch.float64) is None for other in others)


@dataclass(frozen=True)
class _Times(LabelDesign):
    """Another design's loss times a constant."""

    design: LabelDesign
    factor: float

    @property
    def name(self) -> str:
        return f"{self.factor}_{self.design.name}"

    def seed(self, logits: Tensor) -> Tensor:
        return self.factor * self.design.seed(logits)


def _uses(
    network: nn.Module, image: Tensor, parameters: Sequence[nn.Parameter], precautions: Precautions
) -> Counter[int]:
    """How often autograd's graph leads to each parameter, by column, whether or not a gradient flows there now."""
    columns = {id(parameter): column for column, parameter in enumerate(parameters)}
    uses: Counter[int] = Counter()
    with requiring_grad(parameters, True), precautions.around(network):
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


def _proved(
    network: nn.Module,
    probes: Tensor,
    parameters: Sequence[nn.Parameter],
    truth: Tensor,
    precautions: Precautions,
    element_size: int,
) -> Plan:
    """Try the fast way on two batches of different size and order."""
    tried = []
    for rows in ([0, 1, 2], [1, 0]):
        outcome = _try(network, probes[rows], parameters, truth[rows], precautions)
        if isinstance(outcome, str):
            return Plan(None, 1, reason=outcome, precautions=precautions)
        tried.append(outcome)
    (trace, size), (other, _) = tried
    if trace != other:
        return Plan(None, 1, reason="the network's operations depend on its input", precautions=precautions)
    limits = costs.limits(probes.device)
    size = size * element_size // probes.element_size()
    single = _pays_alone(parameters) and _try(network, probes[:1], parameters, truth[:1], precautions)
    return Plan(
        trace,
        max(1, min(limits.micro_batch, limits.activation_bytes // max(1, size))),
        single=isinstance(single, tuple) and single[0] == trace,
        precautions=precautions,
        checked=Checked((truth > 0).any(0)),
    )


def _pays_alone(parameters: Sequence[nn.Parameter]) -> bool:
    """Whether writing one image's gradients, as the loop does, takes longer than a closed form's calls for each tensor."""
    return sum(parameter.numel() for parameter in parameters) >= costs.ALONE * len(parameters)


def _try(
    network: nn.Module, images: Tensor, parameters: Sequence[nn.Parameter], truth: Tensor, precautions: Precautions
) -> tuple[tuple[Step, ...], int] | str:
    """Run the fast way on a probe batch: its trace and the bytes it keeps per image, or why it is not to be used."""
    kept: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    try:
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor), precautions.around(network):
            pass_ = engine.forward(network, precautions.given(images), parameters, 2)
            if pass_.tally.knows(pass_.output):
                return "no closed form covers the way from the images to the output"
            if pass_.watch.unknown:
                return f"no closed form covers {', '.join(sorted(set(pass_.watch.unknown)))}"
            norms = engine.backward(pass_, [AllOnes()], keep=True)[:, 0]
            agree = first_excess(norms, truth, images.dtype == torch.float64) is None
            if not agree or not seeds_agree(pass_, AllOnes(), norms):
                return MISMATCH
    except Exception as error:  # what the network does not survive under interception, the loop survived
        return f"{type(error).__name__}: {error}"
    own = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    activations = sum(size for pointer, size in kept.items() if pointer not in own)
    shared = pass_.tally.summed_elements() * images.element_size()
    return tuple(pass_.watch.trace), activations // images.shape[0] + shared


@contextmanager
def _warned_of_checkpoints(network: nn.Module) -> Iterator[None]:
    """Make an error of a warning behind which torch gives no gradient.

    Filters of warnings belong to the whole process, so that this happens while a plan is made and not at every call.
    """
    with warnings.catch_warnings(), refusing_missing_gradients(network):
        warnings.filterwarnings("error", message="None of the inputs have requires_grad=True")
        yield
