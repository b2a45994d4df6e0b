"""Experiment files and sweeps that come with the package, found by name from any working directory."""

import difflib
import re
from pathlib import Path, PurePath

from lightning_gradood.core.errors import Refusal

_PACKAGE = Path(__file__).parents[1]
_NAME = re.compile(r"[\w.\-/\\]+")  # what looks like a file's name; other text is YAML


def shipped_files(folder: str) -> dict[str, Path]:
    """Files of the package in `configs` or `sweeps`, sorted, by their names without `.yaml`.

    An installed package has the folder inside itself, a checkout beside itself.

    >>> sorted(shipped_files("sweeps"))[0]
    'attacks'
    """
    inside = _PACKAGE / folder
    place = inside if inside.is_dir() else _PACKAGE.parent / folder
    return {path.stem: path for path in sorted(place.glob("*.yaml"))}


def experiment_file(given: str, key: str = "--config") -> str:
    """Return an existing path as it is, else the path of the shipped file of that name; else refuse, with the nearest.

    Shipped names are e.g. `digits`, `digits.yaml` or `configs/digits.yaml`; text that is no name is returned as it is.
    """
    if not _NAME.fullmatch(given) or Path(given).exists():
        return given
    known = shipped_files("configs")
    name = PurePath(given.replace("\\", "/"))
    if name.suffix in ("", ".yaml") and str(name.parent) in (".", "configs") and name.stem in known:
        return str(known[name.stem])
    near = difflib.get_close_matches(name.stem, known, n=1)
    hint = f"Did you mean `{near[0]}`?" if near else "`python -m lightning_gradood configs` lists the shipped ones."
    raise Refusal(
        f"`{key}` should be an experiment file, or the name of one that comes with the package. Got `{key} {given}`, "
        f"which does not exist (looked at {Path(given).absolute()}). {hint}"
    )
