"""What the settings of a datamodule must be, checked before anything is opened."""

from collections.abc import Collection, Iterable, Sequence

from lightning_gradood.core import Refusal
from lightning_gradood.data.source import Source
from lightning_gradood.data.splits import exact_shares
from lightning_gradood.records import NORMAL

_LONGEST = 100  # letters of a source's name, which becomes a folder's and a file's
_MEAN = "mean"  # stands for the mean over sources wherever a source's name stands in results


def refuse_settings(anomalies: Iterable[str], split: Sequence[float]) -> None:
    """Refuse names that would make ids ambiguous, and shares that do not sum to 1.

    Args:
        anomalies: The names of the anomalous sources, those of attacks and corruptions among them.
        split: The shares of train, val and test.

    Raises:
        Refusal: A name is empty, reserved, there twice or holds a slash; shares do not sum to 1.
    """
    anomalies = list(anomalies)
    for name in anomalies:
        if name in ("", NORMAL, _MEAN, ".", "..") or "/" in name or not name.isprintable() or len(name) > _LONGEST:
            raise Refusal(
                f"`anomalies` should have names without a slash, of at most {_LONGEST} letters, other than `{NORMAL}`, "
                f"`{_MEAN}`, `.` and `..`. Got `anomalies` with the name `{name[:_LONGEST].encode('unicode_escape').decode()}`. "
                "Rename that source."
            )
    repeated = sorted({name for name in anomalies if anomalies.count(name) > 1})
    if repeated:
        raise Refusal(
            "`anomalies`, `attacks` and `corruptions` should have different names. "
            f"Got {repeated} more than once. Rename one of them."
        )
    exact_shares(split)


def refuse_unknown(names: Iterable[str], known: Collection[str]) -> None:
    """Refuse names that are no detection source's.

    Raises:
        Refusal: A name is not among the known ones.
    """
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise Refusal(f"`rows` should name detection sources. Got `rows` with {unknown}. Choose among {list(known)}.")


def given_train(train: Source | str | None) -> Source | str:
    """Return the classifier's training source if there is one.

    Raises:
        Refusal: There is none.
    """
    if train is None:
        raise Refusal(
            "`data.train` should name the classifier's training images. Got `data.train = None`. "
            "Give `data.train`, or give trained weights and use `detect` in place of `fit`."
        )
    return train
