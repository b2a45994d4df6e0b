"""Plans on disk: what another process has proved about the same network need not be proved again.

A proof kept so says what a pass of the network does (a digest of its trace) and how it has to be made. It is used only if
one forward pass leaves the same trace, and the caller's first images are compared as after any proof. Whether the network
is the same, the caller has to know: by a digest of its weights and attributes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lightning_gradood.gradients import engine
from lightning_gradood.gradients.interception import Step
from lightning_gradood.gradients.precautions import Precautions, Slot
from lightning_gradood.gradients.state import requiring_grad

_VERSION = 1  # of what is written; others are left aside

_adopted: WeakKeyDictionary[nn.Module, dict[str, dict[str, Any]]] = WeakKeyDictionary()


def key_text(images: Tensor) -> str:
    """What a proof is for, beside its network: an image's shape, dtype and kind of device."""
    return f"{list(images.shape[1:])} {images.dtype} {images.device.type}"


def written(plans: dict[str, dict[str, Any]]) -> str:
    """Plans by `key_text`, each as from `described`, as JSON."""
    return json.dumps({"version": _VERSION, "torch": torch.__version__, "plans": plans})


def described(
    trace: Sequence[Step], micro_batch: int, single: bool, precautions: Precautions, columns: Tensor
) -> dict[str, Any]:
    """A plan in plain data."""
    return {
        "trace": digest(trace),
        "micro_batch": micro_batch,
        "single": single,
        "slots": [[slot.module, slot.name, slot.is_buffer, slot.is_read] for slot in precautions.slots],
        "reorders": precautions.reorders,
        "columns": columns.nonzero().flatten().tolist(),
    }


def digest(trace: Sequence[Step]) -> str:
    """A digest of a trace; equal ones in every process, unless an index holds an object without a readable form."""
    return hashlib.sha256(repr(list(trace)).encode()).hexdigest()


def adopt(network: nn.Module, text: str) -> int:
    """Keep proofs from `written` for a network; return how many there are, 0 for those of another version."""
    try:
        found = json.loads(text)
        if found["version"] != _VERSION or found["torch"] != torch.__version__:
            return 0
        _adopted[network] = {str(key): dict(plan) for key, plan in found["plans"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):  # damaged: it will be proved anew
        return 0
    return len(_adopted[network])


def adopted(
    network: nn.Module, probes: Tensor, parameters: Sequence[nn.Parameter]
) -> tuple[dict[str, Any], tuple[Step, ...], Precautions] | None:
    """An adopted proof, its trace and precautions, if one forward pass of three images does what it says."""
    found = _adopted.get(network, {}).get(key_text(probes))
    if found is None:
        return None
    try:
        slots = tuple(Slot(*slot) for slot in found["slots"])
        precautions = Precautions(slots, found["reorders"])
        with requiring_grad(parameters, False), precautions.around(network):
            pass_ = engine.forward(network, probes, parameters, 1)
        matches = digest(pass_.watch.trace) == found["trace"] and not pass_.watch.unknown
    except Exception:  # of whatever kind: it will be proved anew
        return None
    return (found, tuple(pass_.watch.trace), precautions) if matches else None
