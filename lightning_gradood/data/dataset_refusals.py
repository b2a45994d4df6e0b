"""What is said where a data set cannot be built: its files are missing, or its arguments are wrong."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

BY_HAND = {
    "CIFAR10": "Unpack `cifar-10-python.tar.gz` there, so that `cifar-10-batches-py/data_batch_1` exists below it",
    "CIFAR100": "Unpack `cifar-100-python.tar.gz` there, so that `cifar-100-python/train` exists below it",
    "SVHN": "Put `train_32x32.mat` and `test_32x32.mat` there",
    "TinyImageNetResize": "Put ODIN's `Imagenet_resize.tar.gz` there and unpack it beside itself, "
    "so that `Imagenet_resize/Imagenet_resize/` holds the images",
    "LSUNResize": "Put ODIN's `LSUN_resize.tar.gz` there and unpack it beside itself, "
    "so that `LSUN_resize/LSUN_resize/` holds the images",
}
"""How the files of the data sets in our configs are placed by hand, by class name."""


def files_missing(factory: Callable[[], Any], where: str, how: str, error: Exception) -> str:
    """Say which files are missing, where they are looked for and how they are placed by hand.

    Args:
        factory: what builds the data set.
        where: the folder; the argument `root` if empty.
        how: how its files are placed; what `BY_HAND` says if empty.
        error: what was raised.

    Returns:
        The sentence.
    """
    name, arguments = _describe(factory)
    where = where or arguments.get("root", "")
    place = f"in `{Path(where).expanduser().absolute()}`" if where else "where its own arguments say"
    how = how or BY_HAND.get(name, "Put its files there")
    shown = ", ".join(f"{key}={value!r}" for key, value in arguments.items() if value is not None)
    reason = " ".join(str(error).split()).split("You can use download")[0].rstrip(" .")
    return (
        f"`dataset` should find its files {place}. Got `dataset = {name}({shown})`: "
        f"{reason or type(error).__name__}. {how.rstrip('.')}; `configs/digits.yaml` needs no download."
    )


def arguments_wrong(factory: Callable[[], Any], error: Exception) -> str:
    """Say which arguments a data set was given, and what it said to them.

    Args:
        factory: what builds the data set.
        error: what was raised.

    Returns:
        The sentence.
    """
    name, arguments = _describe(factory)
    shown = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    reason = " ".join(str(error).split()).rstrip(" .")
    return (
        f"`dataset` should have arguments that it can be built with. Got `dataset = {name}({shown})`: "
        f"{type(error).__name__}: {reason}. Correct that argument, or leave it out for its default."
    )


def _describe(factory: Callable[[], Any]) -> tuple[str, dict[str, Any]]:
    """Return the class name and arguments behind a data set factory; jsonargparse hands over a `functools.partial`."""
    if not isinstance(factory, functools.partial):
        return getattr(factory, "__name__", type(factory).__name__), {}
    built = next((arg for arg in reversed(factory.args) if isinstance(arg, type)), factory.func)
    return getattr(built, "__name__", type(built).__name__), dict(factory.keywords)
