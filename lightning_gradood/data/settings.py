"""What the settings of a datamodule must be, checked before anything is opened."""

from collections.abc import Collection, Iterable, Sequence

from lightning_gradood.core import Refusal
from lightning_gradood.data.source import Source
from lightning_gradood.data.splits import exact_shares
from lightning_gradood.records import NORMAL

_MEAN = "mean"  # stands for the mean over sources wherever a source's name stands in results


def refuse_settings(anomalies: Iterable[str], split: Sequence[float], validation_fraction: float) -> None:
    """Refuse names that would make ids ambiguous, and fractions that are no fractions.

    Args:
        anomalies: The names of the anomalous sources, those of attacks and corruptions among them.
        split: The shares of train, val and test.
        validation_fraction: The part of the training images held out.

    Raises:
        Refusal: A name is empty, reserved, there twice or holds a slash; shares do not sum to 1; the part is nothing or
            everything.
    """
    anomalies = list(anomalies)
    for name in anomalies:
        if name in ("", NORMAL, _MEAN, ".", "..") or "/" in name or not name.isprintable():
            raise Refusal(
                f"`anomalies` should have names without a slash, other than `{NORMAL}`, `{_MEAN}`, `.` and `..`. "
                f"Got `anomalies` with the name `{name.encode('unicode_escape').decode()}`. "
                "Rename that source."
            )
    repeated = sorted({name for name in anomalies if anomalies.count(name) > 1})
    if repeated:
        raise Refusal(
            "`anomalies`, `attacks` and `corruptions` should have different names. "
            f"Got {repeated} more than once. Rename one of them."
        )
    if not 0 < validation_fraction < 1:
        raise Refusal(
            "`validation_fraction` should be between 0 and 1. "
            f"Got `validation_fraction = {validation_fraction}`. Write e.g. 0.1."
        )
    exact_shares(split)


def refuse_below(least: int, **settings: float) -> None:
    """Refuse settings that are smaller than they can be.

    Raises:
        Refusal: A setting is below `least`.
    """
    for name, value in settings.items():
        if value < least:
            raise Refusal(f"`{name}` should be at least {least}. Got `{name} = {value}`. Raise it.")


def refuse_not_positive(**settings: float) -> None:
    """Refuse settings that are not above 0.

    Raises:
        Refusal: A setting is 0, negative or NaN.
    """
    for name, value in settings.items():
        if not value > 0:
            raise Refusal(f"`data.{name}` should be above 0. Got `data.{name} = {value}`. Raise it.")


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
