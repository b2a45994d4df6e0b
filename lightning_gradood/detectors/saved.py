"""Save a fitted detector with its threshold in one file, and load it in another process; loading executes no code."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np

import lightning_gradood
from lightning_gradood.core import Component, Refusal, atomic_write, fits, pack, unpack
from lightning_gradood.detectors.detector import Detector, Fitted
from lightning_gradood.records import Records

_PACKAGES = ("torch", "numpy", "scikit-learn")


def _versions() -> dict[str, str]:
    return {"lightning_gradood": lightning_gradood.__version__} | {name: version(name) for name in _PACKAGES}


@dataclass(frozen=True)
class SavedDetector(Component):
    """A fitted detector as a file holds it.

    Args:
        detector: its settings.
        fitted: what it has learnt, ready to score.
        threshold: an image is anomalous if its score is above it.
        reads: names of the columns of each probe that it reads; empty where they have none, see `of`.
        trained_on: the anomaly source it was fitted on, or what stands for several or none.
        counts: `train` and `val` to `normal` and `anomalous` to the number of records it was fitted on.
        versions: of lightning_gradood and of the packages that computed it.
    """

    detector: Detector
    fitted: Fitted
    threshold: float
    reads: dict[str, list[str]]
    trained_on: str = ""
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=_versions)

    @classmethod
    def of(cls, detector: Detector, fitted: Fitted, threshold: float, records: Records, **about: Any) -> SavedDetector:
        """Take the names of the columns that it reads from records; `about` are `trained_on` and `counts`."""
        reads = {probe.name: list(records.names(probe.name)) for probe in detector.probes}
        return cls(detector, fitted, threshold, reads, **about)

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
        return np.asarray(self.fitted.score(records) > self.threshold)


def save_detector(path: str | Path, saved: SavedDetector) -> None:
    """Write a fitted detector to a safetensors file, e.g. `detectors/smoke/mlp.safetensors`, whole or not at all."""
    with atomic_write(Path(path)) as file:
        file.write(pack(saved))


def load_detector(path: str | Path, trust: Collection[str] = ()) -> SavedDetector:
    """Load what `save_detector` wrote.

    Args:
        path: of the file.
        trust: packages of your own whose classes the file may name.

    Returns:
        The fitted detector, whose scores equal those of the saved one to the last bit, with its threshold.

    Raises:
        Refusal: the file cannot be read or is altered, or a class is not trusted, not installed or changed.

    Example:
        >>> import tempfile
        >>> from lightning_gradood.detectors import Energy, SavedDetector, load_detector, save_detector
        >>> records = Records.build(["a/0"], source="a", values={"logits": np.array([[9.0, 0.0]])})
        >>> path = Path(tempfile.mkdtemp()) / "energy.safetensors"
        >>> energy = Energy(temperature=2.0)
        >>> save_detector(path, SavedDetector.of(energy, energy.fit(records, seed=0), -1.5, records))
        >>> load_detector(path).detector, load_detector(path).flag(records).tolist()
        (Energy(temperature=2.0, name='energy'), [False])
    """
    try:
        found = unpack(Path(path), trust)
    except Refusal as refusal:
        raise Refusal(f"{path} cannot be loaded. {refusal}") from refusal
    except (OSError, ValueError) as error:
        raise _damaged(path, f"what cannot be read ({error})") from error
    if not isinstance(found, SavedDetector):
        raise _damaged(path, "a file of something else")
    for name, kind in get_type_hints(SavedDetector).items():
        value: Any = getattr(found, name)
        if not (isinstance(value, kind) if kind in (Detector, Fitted) else fits(value, kind)):
            raise _damaged(path, f"something else as its `{name}`")
    return found


def _damaged(path: str | Path, got: str) -> Refusal:
    return Refusal(
        f"{path} should be a detector that `detect` has saved. Got {got}. Name another file, or run `detect` again."
    )
