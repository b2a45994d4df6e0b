"""Detectors of pytorch-ood, fitted on records: an adapter for those that read logits, features or the network itself."""

import inspect
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import Refusal, check_import, exact_arithmetic, probing_state, to_float64
from lightning_gradood.detectors.detector import Detector, Fitted, classes_of, normal_training_records
from lightning_gradood.probes import LogitsProbe, PenultimateProbe, Probe
from lightning_gradood.records import LinearHead, Records

_ROOM = "pytorch_ood.detector"
_INSTEAD = {
    "MahalanobisODIN": "`Mahalanobis` with `preprocessing`", "MultiMahalanobis": "`Mahalanobis` with `ensemble`",
    "NACUE": "`NAC`",
}  # fmt: skip
_ALONE = ("OpenMax",)  # measures distances to the classes that are predicted in the batch
_UNFIT = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
_SOME = 8  # images at a time; some methods hold a gradient of all parameters for each


def _kind(path: str) -> Any:
    """The class of pytorch-ood that a path names; a Refusal if records do not hold what it reads."""
    check_import(path)
    room, _, name = path.rpartition(".")
    kind = getattr(pkgutil.resolve_name(_ROOM), name, None) if room == _ROOM else None
    if not isinstance(kind, type) or _reads(kind) is None:
        raise Refusal(
            f"`detector` should be a class of {_ROOM} that reads logits, a vector of features, or, without being fitted, the "
            f"network. Got `detector = {path!r}`. Use {_INSTEAD.get(name, 'another one')}."
        )
    return kind


def _reads(kind: Any) -> str | None:
    """What a detector reads, the ending of its methods' names; None for several layers, feature maps or random draws."""
    from pytorch_ood import api

    if issubclass(kind, api.LogitsDetector):
        return "logits"
    if issubclass(kind, api.FeaturesDetector):
        return "features"
    if issubclass(kind, api.FeatureMapsDetector):  # less their first component, maps of one pixel are nothing
        return None if kind.__name__ == "RankFeat" else "feature_maps"
    return "network" if issubclass(kind, api.GradientDetector) and not kind.requires_fit else None


def _built(path: str, settings: dict[str, Any], head: LinearHead | None, network: nn.Module | None = None) -> Any:
    """A detector of pytorch-ood, not fitted: the network's parts are filled in, lists become tensors where it wants them."""
    kind = _kind(path)
    given: dict[str, Any] = {"model": network, "encoder": None, "backbone": None}
    if head is not None:
        weight, bias = (torch.from_numpy(part.astype(np.float32)) for part in (head.weight, head.bias))
        layer: nn.Module = nn.Linear(weight.shape[1], weight.shape[0], device="meta")  # draws no random numbers
        layer.weight, layer.bias = (nn.Parameter(part, requires_grad=False) for part in (weight, bias))
        if _reads(kind) == "feature_maps":
            layer = nn.Sequential(nn.Flatten(), layer)
        given |= {"head": layer, "w": weight, "b": bias}
    known = inspect.signature(kind).parameters
    own = {
        name: torch.tensor(value) if isinstance(value, list) and known[name].annotation is Tensor else value
        for name, value in settings.items()
        if name in known or known.keys() & {"knn_kwargs"}
    }
    if own.keys() != settings.keys():
        raise TypeError(f"it takes {[name for name in known if name not in given]}")
    return kind(**{name: part for name, part in given.items() if name in known}, **own)


@contextmanager
def _refusing(expected: str, fix: str) -> Iterator[None]:
    try:
        yield
    except _UNFIT as error:
        if isinstance(error, Refusal):
            raise
        got = " ".join(str(error).split()) or type(error).__name__
        raise Refusal(f"{expected}. Got: {got}. {fix}") from error


@dataclass(frozen=True)
class PytorchOODProbe(Probe):
    """The outlier score of a detector of pytorch-ood that reads the network, in eval mode, float64 [N, 1].

    Args:
        detector, settings: as for `PytorchOOD`.
    """

    detector: str
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    @override
    def name(self) -> str:
        return f"pytorch_ood/{self.detector.rpartition('.')[2].lower()}"

    @override
    def __call__(self, network: nn.Module, images: Tensor) -> Tensor:
        with (
            _refusing(f"`{self.detector}` should be able to read the network", "Leave it out, or change its settings."),
            probing_state(network),
        ):
            theirs = _built(self.detector, self.settings, None, network)
            own = next((one.dtype for one in network.parameters()), images.dtype)
            return torch.cat(
                [to_float64(theirs.predict(some.to(own)).detach()) for some in torch.split(images, _SOME)]
            )[:, None]


@dataclass(frozen=True)
class PytorchOOD(Detector):
    """A detector of pytorch-ood; in an experiment file its own class path stands for this one.

    It is fitted on the logits or penultimate features of normal `train` records and their classes, in float32 as it
    computes; feature maps are those features, [N, D, 1, 1]. Network, encoder, backbone, and weight and bias of a linear head
    are filled in. What it has learnt is saved as arrays and plain values, and loading executes no code of the file.

    Args:
        detector: class path, such as "pytorch_ood.detector.OpenMax".
        settings: plain data that its constructor takes beside the parts of the network, lists for tensors.
        name: by default `pytorch_ood_` and the lower-case name of the class.

    Reference:
        Kirchheim, Filax, Ortmeier 2022, "PyTorch-OOD"; each class names its paper.

    Examples:
        >>> PytorchOOD("pytorch_ood.detector.KNN", {"k": 20}).name
        'pytorch_ood_knn'
    """

    detector: str
    settings: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    needs_anomalies: ClassVar[bool] = False

    def __post_init__(self) -> None:
        kind = _kind(self.detector)
        object.__setattr__(self, "name", self.name or f"pytorch_ood_{kind.__name__.lower()}")
        with _refusing(
            f"`init_args` of {self.detector} should be plain data that it takes", "See pytorch-ood's documentation."
        ):
            _built(self.detector, self.settings, LinearHead(np.eye(2), np.zeros(2)), nn.Identity())

    @property
    @override
    def needs_head(self) -> bool:
        return bool({"head", "w", "b"} & inspect.signature(_kind(self.detector)).parameters.keys())

    @cached_property
    @override
    def probes(self) -> Sequence[Probe]:
        probes: dict[str | None, Probe] = {
            "logits": LogitsProbe(),
            "network": PytorchOODProbe(self.detector, self.settings),
        }
        return [probes.get(_reads(_kind(self.detector)), PenultimateProbe())]

    @override
    def fit(self, records: Records, seed: int) -> Fitted:
        normal, reads, (probe,) = normal_training_records(records), _reads(_kind(self.detector)), self.probes
        if reads == "network":
            return ScoreThatIsRead(probe.name)
        head = records.head if self.needs_head else None
        theirs = _built(self.detector, self.settings, head)
        fit: Callable[[Tensor, Tensor], Any] = getattr(theirs, f"fit_{reads}")
        fix = "Take more normal images, other settings, or leave it out."
        with _refusing(f"`{self.name}` should be able to fit the {len(normal)} normal records of `train`", fix):
            with exact_arithmetic():
                fit(_values(normal, probe.name, reads), torch.from_numpy(classes_of(normal).copy()))
            return FittedPytorchOOD(self.detector, self.settings, probe.name, head, _attributes(theirs))


@dataclass(frozen=True, eq=False)
class FittedPytorchOOD(Fitted):
    """The column and the head that it reads, and the attributes of the fitted object as `_told` describes them."""

    detector: str
    settings: dict[str, Any]
    column: str
    head: LinearHead | None
    attributes: Sequence[Any]

    @cached_property
    def _theirs(self) -> Any:
        theirs = _built(self.detector, self.settings, self.head)
        for name, told in self.attributes:
            if told[0] == "rows":
                getattr(theirs, name).fit(told[1])
            else:
                setattr(theirs, name, _made(told))
        return theirs

    @override
    def score(self, records: Records) -> np.ndarray:
        reads = _reads(_kind(self.detector))
        predict, values = getattr(self._theirs, f"predict_{reads}"), _values(records, self.column, reads)
        size = 1 if self.detector.endswith(_ALONE) else max(len(values), 1)
        with exact_arithmetic(), torch.no_grad(), np.errstate(over="ignore"):  # OpenMax's distances to a high power
            scores = torch.cat([predict(some) for some in torch.split(values, size)])
        return np.asarray(to_float64(scores).numpy())


@dataclass(frozen=True)
class ScoreThatIsRead(Fitted):
    """The only column of a probe."""

    column: str

    @override
    def score(self, records: Records) -> np.ndarray:
        return records.probe(self.column)[:, 0]


def _values(records: Records, column: str, reads: str | None) -> Tensor:
    values = torch.from_numpy(records.stored(column).astype(np.float32))
    return values[:, :, None, None] if reads == "feature_maps" else values


def _attributes(theirs: Any) -> list[Any]:
    """Names and values of all that its constructor does not make again from settings and head."""
    kept = {name: one for name, one in vars(theirs).items() if isinstance(one, nn.ParameterDict) or not callable(one)}
    return [[name, _told(one)] for name, one in kept.items()]


def _told(value: Any) -> list[Any]:
    """Describe a value of a fitted object by arrays and plain values, behind a word for its kind."""
    from sklearn.neighbors import NearestNeighbors

    match value:
        case None | bool() | int() | float() | str() | np.generic() | np.ndarray() | Tensor():
            return ["value", value.detach() if isinstance(value, Tensor) else value]
        case list() | tuple() | range():
            return ["list", [_told(one) for one in value]]
        case dict():
            keys = (key.item() if isinstance(key, np.generic) else key for key in value)
            return ["dict", [[key, _told(one)] for key, one in zip(keys, value.values(), strict=True)]]
        case nn.ParameterDict():
            return ["parameters", [[name, one.detach()] for name, one in value.items()]]
        case NearestNeighbors():  # fitted again in a moment, on the rows that it keeps
            return ["rows", value._fit_X]
    kind = type(value)
    if not kind.__module__.startswith("pytorch_ood."):
        raise TypeError(f"a {kind.__name__}, which cannot be saved as arrays")
    return ["object", f"{kind.__module__}:{kind.__qualname__}", _attributes(value)]


def _made(told: Sequence[Any]) -> Any:
    """What `_told` described; classes are of pytorch-ood alone, and none is called."""
    word, what, *attributes = told
    if word == "list":
        return [_made(one) for one in what]
    if word == "dict":
        return {key: _made(one) for key, one in what}
    if word == "parameters":
        return nn.ParameterDict({name: nn.Parameter(one, requires_grad=False) for name, one in what})
    if word != "object":
        return what
    kind = pkgutil.resolve_name(what) if str(what).startswith("pytorch_ood.") else None
    if not isinstance(kind, type):
        raise Refusal(f"A file should name classes of pytorch-ood that are installed. Got `{what}`. Save it anew.")
    made: Any = object.__new__(kind)
    vars(made).update((name, _made(one)) for name, one in attributes[0])
    return made
