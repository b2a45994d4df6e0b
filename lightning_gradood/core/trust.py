"""The packages that class paths of an experiment file may come from, if the user restricts them with `--trust`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from lightning_gradood.core.errors import Refusal

_trusted: list[tuple[str, ...]] = []  # of the calls under way, innermost last


@contextmanager
def importing_only(packages: Sequence[str]) -> Iterator[None]:
    """Let `check_import` pass paths of these packages and modules, and of all below them, only.

    >>> with importing_only(["torch.nn"]):
    ...     may_import("torch.nn.Linear"), may_import("torch.nnx"), may_import("os.system")
    (True, False, False)
    """
    _trusted.append(tuple(packages))
    try:
        yield
    finally:
        _trusted.pop()


def may_import(path: str) -> bool:
    """Whether an import path is of a trusted package; without `importing_only` every path is."""
    return not _trusted or any(path == name or path.startswith(f"{name}.") for name in _trusted[-1])


def check_import(path: str) -> None:
    """Refuse an import path of a package that is not trusted."""
    if not may_import(path):
        raise distrusted(path)


def check_imported(thing: object) -> None:
    """Refuse a function, class or instance that is defined elsewhere than where its import path led."""
    made = thing if getattr(thing, "__qualname__", None) else type(thing)
    check_import(f"{made.__module__}.{made.__qualname__}")  # type: ignore[attr-defined]


def distrusted(path: str) -> Refusal:
    """Word the refusal of an import path that is not trusted."""
    return Refusal(
        f"`--trust` should name the packages whose classes an experiment file may build. Got `{path}`, which is of none "
        f"of them; it was not built. If you know what the file does, add --trust {path.partition('.')[0]}."
    )
