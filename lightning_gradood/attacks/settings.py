"""Refuse settings of attacks that have no meaning, in one sentence each."""

from lightning_gradood.errors import Refusal


def check_distance(name: str, value: float) -> None:
    """Refuse a distance between pixels that is not a float in (0, 1]; integers are mostly grey levels of 255."""
    if isinstance(value, float) and 0 < value <= 1:
        return
    level = int(value) if isinstance(value, int | float) and 1 <= value <= 255 and value == int(value) else 8
    raise Refusal(
        f"`{name}` should be a float above 0 and at most 1, as pixels are in [0, 1]. Got `{name} = {value!r}`. "
        f"If {level} of 255 grey levels are meant, write {level / 255:.6f}, which is {level}/255."
    )


def check_count(name: str, value: int) -> None:
    """Refuse a number of repetitions that is not a positive integer."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise Refusal(f"`{name}` should be a positive integer. Got `{name} = {value!r}`. Write e.g. 10.")


def check_at_least(name: str, value: float, least: float, example: float) -> None:
    """Refuse a number below `least`, infinity and NaN."""
    if not least <= value < float("inf"):
        raise Refusal(
            f"`{name}` should be a finite number of at least {least:g}. Got `{name} = {value!r}`. Write e.g. {example:g}."
        )


def check_above_zero(name: str, value: float, example: float) -> None:
    """Refuse a number that is not above 0, infinity and NaN."""
    if not 0 < value < float("inf"):
        raise Refusal(f"`{name}` should be a finite number above 0. Got `{name} = {value!r}`. Write e.g. {example:g}.")
