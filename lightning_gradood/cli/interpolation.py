"""Interpolation in experiment files: our own resolvers, and sentences for what OmegaConf refuses."""

from collections.abc import Iterator
from contextlib import contextmanager

from jsonargparse import set_parsing_settings
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_gradood.errors import Refusal


@contextmanager
def interpolation() -> Iterator[None]:
    """Let files use `${key}` across files and after overrides, `${oc.env:NAME,default}` and `${div:8,255}`.

    Raises:
        Refusal: in place of OmegaConf's exceptions, which come as tracebacks.
    """
    OmegaConf.register_resolver("div", _div, replace=True)
    # without it each file would be resolved alone, and overrides (a sweep's too) would leave stale values behind
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    try:
        yield
    except OmegaConfBaseException as error:
        key = f" at `{error.full_key}`" if error.full_key else ""
        raise Refusal(
            f"The configuration should hold only interpolations that can be resolved. Got{key}: {_first_line(error)}. "
            "Define that key or variable, or give a default as in ${oc.env:NAME,default}."
        ) from error


def _div(numerator: int | float, denominator: int | float) -> float:  # OmegaConf warns of an int given for a float
    return numerator / denominator


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")
