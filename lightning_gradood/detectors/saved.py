"""Save a fitted detector with its threshold in one file, and load it in another process; loading executes no code."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

import lightning_gradood
from lightning_gradood import detectors, gradients, perturbations
from lightning_gradood.core import Refusal, atomic_write, parse_json
from lightning_gradood.detectors.detector import Detector
from lightning_gradood.gradients import LabelDesign
from lightning_gradood.networks import MLPSettings
from lightning_gradood.perturbations import SyntheticOutlier
from lightning_gradood.records import Records

FORMAT = 1
_KEY = "lightning_gradood.detector"
_PACKAGES = ("torch", "numpy", "scikit-learn")


@dataclass(frozen=True)
class SavedDetector:
    """A fitted detector as a file holds it.

    Args:
        detector: fitted, ready to score.
        threshold: an image is anomalous if its score is above it.
        trained_on: the anomaly source it was fitted on, or what stands for several or none.
        counts: `train` and `val` to `normal` and `anomalous` to the number of records it was fitted on.
        reads: names of the columns of each probe that it reads; empty where they have none.
        versions: of lightning_gradood and of the packages that computed it.
    """

    detector: Detector
    threshold: float
    trained_on: str
    counts: Mapping[str, Mapping[str, int]]
    reads: Mapping[str, list[str]]
    versions: Mapping[str, str]

    def flag(self, records: Records) -> np.ndarray:
        """Whether each record is anomalous, bool [n]; a Refusal if they lack columns that the detector reads."""
        for probe, names in self.reads.items():
            got = records.names(probe) if probe in records.probes else None
            if got is None or (names and got and list(got) != names):
                raise Refusal(
                    f"`records` should hold the probe `{probe}` with the {len(names)} columns that the detector "
                    f"`{self.detector.name}` was fitted on. Got {'none' if got is None else f'{len(got)} others'}. "
                    "Read them from the same network with the same settings."
                )
        return np.asarray(self.detector.score(records) > self.threshold)


def save_detector(
    path: str | Path,
    detector: Detector,
    threshold: float,
    records: Records,
    *,
    trained_on: str = "",
    counts: Mapping[str, Mapping[str, int]] | None = None,
) -> None:
    """Write a fitted detector to a safetensors file, whole or not at all.

    Args:
        path: of the file, e.g. `detectors/smoke/mlp.safetensors`.
        detector: fitted; else `NotFittedError`.
        threshold: chosen on `val`.
        records: any that it can score; the names of the columns it reads are taken from them.
        trained_on, counts: as in `SavedDetector`.
    """
    about = {
        "format": FORMAT,
        "class": f"{type(detector).__module__}.{type(detector).__qualname__}",
        "arguments": _encoded(detector.arguments) if _is_ours(detector) else None,
        "threshold": threshold,
        "trained_on": trained_on,
        "counts": counts or {},
        "reads": {probe.name: list(records.names(probe.name)) for probe in detector.probes},
        "versions": {"lightning_gradood": lightning_gradood.__version__} | {name: version(name) for name in _PACKAGES},
    }
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in detector.state_dict().items()}
    with atomic_write(Path(path)) as file:
        file.write(save(state, {_KEY: json.dumps(about)}))


def load_detector(path: str | Path, detector: Detector | None = None) -> SavedDetector:
    """Load what `save_detector` wrote; only classes of `lightning_gradood.detectors` are made by name.

    Args:
        path: of the file.
        detector: for a class of your own, an instance with the settings it was saved with; it is filled.

    Returns:
        The fitted detector, whose scores equal those of the saved one to the last bit, with its threshold.

    Raises:
        Refusal: the file cannot be read, is of a newer version, or needs `detector`.

    Example:
        >>> import tempfile
        >>> from lightning_gradood.detectors import Energy, load_detector, save_detector
        >>> records = Records.build(["a/0"], source="a", values={"logits": np.array([[9.0, 0.0]])})
        >>> path = Path(tempfile.mkdtemp()) / "energy.safetensors"
        >>> save_detector(path, Energy(temperature=2.0), -1.5, records)
        >>> load_detector(path).detector.arguments, load_detector(path).flag(records).tolist()
        ({'temperature': 2.0, 'name': 'energy'}, [False])
    """
    about, state = _read(Path(path))
    if about["format"] > FORMAT:
        raise Refusal(
            f"{path} should be a detector of format {FORMAT}. Got format {about['format']}. "
            "Update lightning_gradood: a newer version has written it."
        )
    if detector is None:
        detector = _made(about, path)
    elif f"{type(detector).__module__}.{type(detector).__qualname__}" != about["class"]:
        raise Refusal(
            f"`detector` should be a {about['class']}, as {path} holds one. Got a {type(detector).__qualname__}. "
            "Give an instance of that class, or none for a class of lightning_gradood."
        )
    try:
        detector.load_state_dict(state)
    except Refusal:
        raise
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise _damaged(path, f"a state that `{type(detector).__name__}` does not have ({error})") from error
    names = ("threshold", "trained_on", "counts", "reads", "versions")
    return SavedDetector(detector, *(about[name] for name in names))


_TYPES = {
    "format": int,
    "class": str,
    "threshold": float,
    "trained_on": str,
    "counts": dict,
    "reads": dict,
    "versions": dict,
}


def _damaged(path: str | Path, got: str) -> Refusal:
    return Refusal(
        f"{path} should be a detector that `detect` has saved. Got {got}. Name another file, or run `detect` again."
    )


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            about = parse_json((file.metadata() or {}).get(_KEY, "null"))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(about, dict):
        raise _damaged(path, "a safetensors file of something else")
    for name, kind in _TYPES.items():
        if not isinstance(about.get(name), (int, float) if kind is float else kind):
            raise _damaged(path, f"`{name}: {about.get(name)!r}` among its metadata")
    return about, state


def _is_ours(detector: Detector) -> bool:
    return getattr(detectors, type(detector).__name__, None) is type(detector)


def _made(about: Mapping[str, Any], path: str | Path) -> Detector:
    module, _, name = about["class"].rpartition(".")
    kind = getattr(detectors, name, None) if module.startswith("lightning_gradood.detectors.") else None
    if not isinstance(kind, type) or not issubclass(kind, Detector) or not isinstance(about.get("arguments"), dict):
        raise Refusal(
            f"`detector` should be an instance of {about['class']}, as {path} holds one and classes from elsewhere are not "
            "imported by name. Got none. Call load_detector(path, detector=...) with the settings it was saved with."
        )
    try:
        made: Detector = kind(**_decoded(about["arguments"]))
    except Refusal:
        raise
    except (TypeError, ValueError) as error:
        raise _damaged(path, f"arguments that `{name}` does not take ({error})") from error
    return made


def _member(value: Mapping[str, Any]) -> Detector:
    kind = getattr(detectors, str(value["class"]), None)
    if not isinstance(kind, type) or not issubclass(kind, Detector):
        raise Refusal(
            f"A saved detector should be combined of those of lightning_gradood.detectors. Got `{value['class']}`. "
            "Call load_detector(path, detector=...) with a detector that has it."
        )
    made: Detector = kind(**_decoded(value["arguments"]))
    return made


def _encoded(value: Any) -> Any:
    """JSON-able constructor arguments; label designs, settings and detectors become class name and fields."""
    if isinstance(value, Detector):
        return {"class": type(value).__name__, "arguments": _encoded(value.arguments)}
    if is_dataclass(value) and not isinstance(value, type):
        return {"class": type(value).__name__, "fields": _encoded(asdict(value))}
    if isinstance(value, LabelDesign | SyntheticOutlier):  # a user's own, which need not be a dataclass
        return {"class": type(value).__name__, "fields": _encoded(vars(value))}
    if isinstance(value, Mapping):
        return {name: _encoded(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_encoded(part) for part in value]
    return value


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(part) for part in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"class", "arguments"}:
        return _member(value)
    if set(value) != {"class", "fields"}:
        return {name: _decoded(part) for name, part in value.items()}
    name = str(value["class"])
    kind = (
        MLPSettings if name == "MLPSettings" else getattr(gradients, name, None) or getattr(perturbations, name, None)
    )
    if not isinstance(kind, type) or not issubclass(kind, MLPSettings | LabelDesign | SyntheticOutlier):
        raise Refusal(
            "A saved label design or synthetic outlier should be one of lightning_gradood.gradients or .perturbations. "
            f"Got `{name}`. "
            "Call load_detector(path, detector=...) with a detector that has it."
        )
    return kind(**_decoded(value["fields"]))
