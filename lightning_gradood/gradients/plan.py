"""The plan for a network and an image shape: made once, used while its `Fingerprint` fits, replaced if it fails."""

from __future__ import annotations

from dataclasses import replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lightning_gradood.gradients.coupling import check_statistics
from lightning_gradood.gradients.fingerprint import Fingerprint
from lightning_gradood.gradients.network_checks import Structure, check_network
from lightning_gradood.gradients.proof import NO_NUMBERS, Plan, probe_images, prove

_Key = tuple[torch.Size, torch.dtype, torch.device]
_plans: WeakKeyDictionary[nn.Module, dict[_Key, tuple[Plan, Fingerprint]]] = WeakKeyDictionary()


def plan_for(network: nn.Module, images: Tensor, structure: Structure) -> Plan:
    """Return the plan for a network in eval mode and images of this shape; make it on the first call."""
    parameters = list(structure.parameters.values())
    plans = _plans.setdefault(network, {})
    known = plans.get(_key(images))
    if known is not None and not any(parameter._backward_hooks for parameter in parameters):
        plan, fingerprint = known
        if (images.shape[0] == 1 and not plan.single) or fingerprint.fits(structure, network):
            return plan
    modules = structure.modules(network)
    check_network(network, structure.parameters, modules)
    check_statistics(modules)
    probes = probe_images(images, parameters[0].dtype)
    plan = Plan(None, 1, reason=NO_NUMBERS) if probes is None else prove(network, probes, parameters)
    if plan.reason != NO_NUMBERS:  # which the next batch may have
        plans[_key(images)] = (plan, Fingerprint(structure, network, plan.moving))
    return plan


def way_of(network: nn.Module, images: Tensor) -> str:
    """How images of this shape are computed, after the first call with them: "closed forms", or why not."""
    plan = _plans[network][_key(images)][0]
    if plan.trace is not None and (plan.checked.sizes or images.shape[0] == 1):
        return "closed forms"
    return f"one image at a time: {plan.reason or 'the network does something else in larger batches'}"


def distrust(network: nn.Module, images: Tensor, plan: Plan, reason: str) -> Plan:
    """Replace a plan by the loop, for the reason given, and return the new one."""
    slow = replace(plan, trace=None, single=False, reason=reason, reorders=True)
    _plans[network][_key(images)] = (slow, _plans[network][_key(images)][1])
    return slow


def _key(images: Tensor) -> _Key:
    return (images.shape[1:], images.dtype, images.device)
