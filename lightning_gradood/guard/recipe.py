"""How a guard's network and transform are built again: as an experiment file says it, or as found for a network in memory."""

import inspect
import sys
import warnings
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood import networks
from lightning_gradood.core import Refusal, class_path, decode, encode, packages_of, uncompiled, unpack
from lightning_gradood.gradients import parameter_names
from lightning_gradood.guard.saving import NETWORK, Description
from lightning_gradood.networks import TwoLogits, classifier

_SIZES = {"num_classes", "kwargs"}  # parameters of functions that build networks


@dataclass(frozen=True)
class Recipe:
    """How a guard's network, without its normalisation, and the transform are built again, as `core.encode` says it."""

    network: dict[str, Any]
    transform: dict[str, Any] | None = None


def recipe_of(network: nn.Module, transform: Any = None) -> Recipe:
    """How a network in memory and a transform are built again.

    Tried are the network's class with the arguments that it keeps as attributes, then functions beside the class, such as
    `torchvision.models.resnet18`, and those of `networks`; taken is what has the same modules and tensors.

    Raises:
        Refusal: there is nothing of the kind; or the transform keeps its arguments not as attributes.
    """
    kind = type(network)
    if kind.__module__ == "__main__" or "<locals>" in kind.__qualname__:
        raise Refusal(
            f"The class of a network that is saved should stand in a module. Got {kind.__qualname__}, of a notebook, a script "
            "or a function. Move it into a file of its own, such as my_network.py, and import it from there."
        )
    beside = [*vars(sys.modules[kind.__module__]).values(), *vars(networks).values()]
    functions: list[Any] = [
        one for one in beside if inspect.isfunction(one) and _SIZES & {*inspect.signature(one).parameters}
    ]
    hub = [networks.hugging_face] if networks.configuration_of(network) else []  # needs no trust, as transformers would
    for made in (*hub, kind, *functions):
        found = {"class_path": class_path(made), "init_args": _arguments(made, network)}
        if _builds(
            found, network, nullcontext() if made is kind else _WithoutValues()
        ):  # of the functions some are large
            return Recipe(found, encode(transform))
    raise Refusal(
        f"A network that is saved should be built again by its class, which keeps its arguments as attributes. Got "
        f"{class_path(kind)}, of which this is not so, and no function beside it builds such a network. Write in its "
        "constructor e.g. `self.width = width`, or put a function that builds it beside it."
    )


def _arguments(made: Callable[..., Any], network: nn.Module) -> dict[str, Any]:
    """Arguments as attributes of the network tell them, and its numbers of classes and channels."""
    tensors = [*network.parameters()]
    outputs, inputs = (len(tensors[-1]), [*tensors[0].shape, 0][1]) if tensors else (0, 0)
    sizes = {
        "num_classes": outputs,
        "kwargs": outputs,
        "channels": inputs,
        "config": networks.configuration_of(network),
    }
    found = {}
    for name in inspect.signature(made).parameters:
        with suppress(Refusal):
            if isinstance(made, type) and (name in vars(network) or isinstance(getattr(made, name, None), property)):
                found[name] = encode(getattr(network, name))
            elif name in sizes:
                found["num_classes" if name == "kwargs" else name] = sizes[name]
    return found


class _WithoutValues(TorchFunctionMode):
    """Weights take no memory; other tensors, from which some networks compute their widths, have values."""

    @override
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}) | ({"device": "meta"} if func is torch.empty else {}))


def _builds(described: dict[str, Any], network: nn.Module, mode: AbstractContextManager[Any]) -> bool:
    with suppress(Exception), warnings.catch_warnings(), mode:  # it raises whatever it likes
        warnings.simplefilter("ignore")
        return _structure(decode(described, packages_of(described))) == _structure(network)
    return False


def _structure(network: nn.Module) -> tuple[list[Any], list[Any]]:
    modules = [(name, type(one)) for name, one in network.named_modules()]
    return modules, [(name, one.shape) for name, one in network.state_dict().items()]


def built_network(folder: Path, about: Description, trust: Collection[str]) -> nn.Module:
    """Build the network that a guard's folder describes, with its weights and all that stands around it; in eval mode."""
    bare = uncompiled(decode(about.network, trust))
    bare.float()  # as `ClassificationTask` has it, whatever it is built in
    bare.load_state_dict(unpack(folder / NETWORK))
    network = classifier(bare, about.normalize, about.outputs)
    if about.one_logit:
        network = TwoLogits(network)
    if parameter_names(network) != about.parameters:
        raise ValueError("other parameters than the guard was fitted on, or in another order")
    return network.eval()
