"""Base classes: a detector is fitted on records; what it has learnt scores records, and is saved in one file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self, final

import numpy as np
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import Component, Refusal, atomic_write, pack, unpack
from lightning_gradood.core import versions as installed
from lightning_gradood.gradients import LabelDesign
from lightning_gradood.perturbations import SyntheticOutlier
from lightning_gradood.probes import LogitsProbe, Probe
from lightning_gradood.records import SYNTHETIC, Records

_BLOCK = 32  # rows that are scored together


class Fitted(Component, ABC):
    """What a detector has learnt: a frozen dataclass of arrays, plain values, components and other `Fitted`s.

    It is saved field by field, so that what is saved is what is scored.
    """

    @property
    def curves(self) -> Sequence[Mapping[str, float]]:
        """Training curves: for each epoch `epoch` and any number of metrics; empty if nothing is trained."""
        return ()

    @property
    def remark(self) -> str:
        """One line for the user about what was learnt, such as what was chosen and why; empty where there is nothing to say."""
        return ""

    @abstractmethod
    def score(self, records: Records) -> np.ndarray:
        """Scores float64 [n], any range, higher = more anomalous."""


class Detector(Component, ABC):
    """Fits on records; its settings are the fields of a frozen dataclass."""

    needs_anomalies: ClassVar[bool] = True
    """Whether it is fitted on anomalous records too. Where it is not, `fit` looks at normal records alone, and its
    threshold is a conformal quantile of the scores of normal `val` records."""

    scores_are_logits: ClassVar[bool] = False
    """Whether a score of 0 means that normal and anomalous are equally likely, as for an MLP's logit."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Name in tables, files and W&B keys."""

    @property
    @abstractmethod
    def probes(self) -> Sequence[Probe]:
        """The probes that it reads."""

    @property
    def needs_head(self) -> bool:
        """Whether it reads `records.head`, the network's last layer, which must be linear; subclasses have a constant."""
        return False

    @property
    def learns_from_normal(self) -> bool:
        """Whether what it learns is learnt from normal images alone, though anomalous ones may choose among settings."""
        return not (self.needs_anomalies or self.needed_outliers or isinstance(self, FixedDetector))

    @property
    def fewest(self) -> int:
        """Normal `train` records that `fit` takes at least."""
        return 2

    @property
    def needed_outliers(self) -> Sequence[SyntheticOutlier]:
        """Synthetic outliers of normal images that `fit` finds among its records, see `outlier_training_records`."""
        return ()

    def with_label_designs(self, label_designs: Sequence[LabelDesign]) -> Detector:
        """The same detector, reading these label designs where it has a field `label_designs` that is None."""
        if getattr(self, "label_designs", label_designs) is not None:
            return self
        return replace(self, label_designs=list(label_designs))  # type: ignore[type-var]  # settings are dataclasses

    def parts(self, fitted: Fitted, records: Records) -> dict[str, np.ndarray]:
        """What each of its parts says of the records, float64 [n] by the part's name, higher = more anomalous."""
        return {self.name: fitted.score(records)}

    @abstractmethod
    def fit(self, records: Records, seed: int) -> Fitted:
        """Fit on the rows whose `split` is `train`, select on those whose split is `val`.

        Args:
            records: normal and anomalous records with a `split` column, and the synthetic outliers of
                `needed_outliers`; rows of other splits are never looked at.
            seed: fixes everything random.
        """

    def fit_each(self, records: Records, several: Iterable[np.ndarray], seed: int) -> Iterator[Fitted]:
        """Fit on some of the rows, bool [n], once for each of several choices, in their order."""
        return (self.fit(records.keep(rows), seed) for rows in several)

    def kept(self, fitted: Fitted) -> Detector:
        """The detector without what `fitted` does not use, which is what is saved; it reads fewer probes."""
        return self


class FixedDetector(Detector, Fitted):
    """A formula, which learns nothing; its threshold is a quantile of normal `val` scores."""

    needs_anomalies: ClassVar[bool] = False

    @final
    @override
    def fit(self, records: Records, seed: int) -> Self:
        return self


def normal_training_records(records: Records, fewest: int = 2) -> Records:
    """The records that a one-class detector is fitted on; a Refusal if there are fewer than `fewest`."""
    rows = (records.column("split") == "train") & (records.anomalous == 0)
    if rows.sum() < fewest:
        raise Refusal(
            f"`records` should hold at least {fewest} normal ones in `train` for this detector. Got {rows.sum()}. "
            "Take more normal images."
        )
    return records.keep(rows)


def classes_of(records: Records) -> np.ndarray:
    """Classes of the records that class statistics are made of, int64 [n].

    They are the labels, as in the papers, where every record has one and all are outputs of the network, else the
    predictions.
    """
    labels = records.column("label")
    outputs = records.stored(LogitsProbe.name).shape[1] if LogitsProbe.name in records.probes else np.inf
    return labels if ((labels >= 0) & (labels < outputs)).all() else records.column("prediction")


def outlier_training_records(records: Records, detector: Detector) -> Records:
    """The synthetic outliers that a detector is fitted on: of its kinds, and unlike the image they were made of."""
    kinds = [f"{SYNTHETIC}{outlier.name}" for outlier in detector.needed_outliers]
    rows = np.isin(records.column("attack").astype(str), kinds)
    rows &= (records.column("split") == "train") & (records.column("linf") > 0)
    if not rows.any():
        raise Refusal(
            f"`records` should hold synthetic outliers in `train` for `{detector.name}`, with one of {kinds} as their "
            "`attack`. Got none. `detect` makes them; in a script, read them with `detector.needed_outliers` as perturbations."
        )
    return records.keep(rows)


def float64_blocks(values: np.ndarray, size: int = 4096) -> Iterator[tuple[slice, np.ndarray]]:
    """Rows of values [n, D], any float type, some at a time, so that no float64 copy of all is made."""
    for start in range(0, len(values), size):
        rows = slice(start, start + size)
        yield rows, values[rows].astype(np.float64)


def drawn(number: int, most: int, seed: int) -> np.ndarray:
    """Indices of `most` of so many rows, ascending, or of all where there are no more."""
    return np.sort(np.random.default_rng(seed).permutation(number)[:most])


def score_in_blocks(fitted: Fitted, records: Records) -> np.ndarray:
    """Scores, float64 [n], computed in blocks of one size.

    Matrix products of other sizes are summed in another order and differ in the last bit; in blocks an image gets the
    same bits alone, as from a guard, as among thousands.
    """
    number, row = len(records), np.arange(_BLOCK)  # the last one fills the last block
    parts = ((records.table.slice(start, _BLOCK), number - 1 - start) for start in range(0, number, _BLOCK))
    blocks = (Records(part.take(np.minimum(row, last))) for part, last in parts)
    return np.concatenate([np.empty(0), *(fitted.score(block) for block in blocks)])[:number]


@dataclass(frozen=True)
class SavedDetector(Component):
    """A fitted detector as a file holds it.

    Args:
        detector, fitted: its settings, and what it has learnt.
        threshold: an image is anomalous if its score is above it.
        reads: names of the columns of each probe that it reads; empty where they have none, see `of`.
        trained_on: the anomaly source it was fitted on, or what stands for several or none.
        counts: `train` and `val` to `normal` and `anomalous` to the number of records it was fitted on.
        versions: of the packages that computed it.
    """

    detector: Detector
    fitted: Fitted
    threshold: float
    reads: dict[str, list[str]]
    trained_on: str = ""
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=installed)

    @classmethod
    def of(cls, detector: Detector, fitted: Fitted, threshold: float, records: Records, **about: Any) -> SavedDetector:
        """Take the names of the columns that it reads from records; `about` are `trained_on` and `counts`."""
        reads = {probe.name: list(records.names(probe.name)) for probe in detector.probes}
        return cls(detector, fitted, threshold, reads, **about)


def save_detector(path: str | Path, saved: SavedDetector) -> None:
    """Write a fitted detector to a safetensors file, e.g. `detectors/smoke/mlp.safetensors`, whole or not at all."""
    with atomic_write(Path(path)) as file:
        file.write(pack(saved))


def load_detector(path: str | Path, trust: Collection[str] = ()) -> SavedDetector:
    """Load what `save_detector` wrote, executing no code of the file.

    Args:
        path: of the file.
        trust: packages of your own whose classes the file may name.

    Returns:
        The fitted detector, whose scores equal those of the saved one to the last bit, with its threshold.

    Raises:
        Refusal: the file cannot be read or is altered, or a class is not trusted, not installed or changed.

    Examples:
        >>> import tempfile
        >>> from lightning_gradood.detectors import Energy, SavedDetector, load_detector, save_detector
        >>> records = Records.build(["a/0"], source="a", values={"logits": np.array([[9.0, 0.0]])})
        >>> path = Path(tempfile.mkdtemp()) / "energy.safetensors"
        >>> energy = Energy(temperature=2.0)
        >>> save_detector(path, SavedDetector.of(energy, energy.fit(records, seed=0), -1.5, records))
        >>> saved = load_detector(path)
        >>> saved.detector, bool(saved.fitted.score(records)[0] > saved.threshold)
        (Energy(temperature=2.0, name='energy'), False)
    """
    try:
        found = unpack(Path(path), trust)
        if not isinstance(found, SavedDetector):
            raise ValueError("a file of something else")
    except Refusal as refusal:
        raise Refusal(f"{path} cannot be loaded. {refusal}") from refusal
    except (OSError, ValueError) as error:
        raise Refusal(
            f"{path} should be a detector that `detect` has saved. Got: {error}. Name another file, or run `detect` again."
        ) from error
    return found
