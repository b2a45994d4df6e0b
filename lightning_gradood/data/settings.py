"""What the settings of a datamodule must be, checked before anything is opened."""

from collections.abc import Iterable

from lightning_gradood.errors import Refusal

NORMAL = "normal"
"""The reserved name of the normal source, in ids, manifests and records."""


def refuse_names(anomalies: Iterable[str]) -> None:
    """Refuse names of anomalous sources that would make ids ambiguous.

    Raises:
        Refusal: A name is empty, reserved, or holds a slash.
    """
    for name in anomalies:
        if name in ("", NORMAL) or "/" in name:
            raise Refusal(
                f"`anomalies` should have names without a slash, other than `{NORMAL}`. Got `anomalies` with the name "
                f"`{name}`. Rename that source."
            )


def refuse_below(least: int, **settings: float) -> None:
    """Refuse settings that are smaller than they can be.

    Raises:
        Refusal: A setting is below `least`.
    """
    for name, value in settings.items():
        if value < least:
            raise Refusal(f"`{name}` should be at least {least}. Got `{name} = {value}`. Raise it.")


def refuse_validation_fraction(fraction: float) -> None:
    """Refuse a validation part that is nothing or everything.

    Raises:
        Refusal: The fraction is not strictly between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise Refusal(
            f"`validation_fraction` should be between 0 and 1. Got `validation_fraction = {fraction}`. Write e.g. 0.1."
        )
