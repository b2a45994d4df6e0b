"""Finished runs, read from the JSON and YAML in their folders; no code is executed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lightning_gradood.core import CONFIG, Refusal, Unparsable, read_json, read_yaml
from lightning_gradood.evaluation import is_transferred

RESULTS = "results.json"
_PLACE = ("run_dir", "config")  # configuration keys that are locations


class Auroc(NamedTuple):
    """An AUROC on `test` with its 95 % interval, shares in [0, 1]."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class FinishedRun:
    """What a comparison needs of a run; `aurocs` is source to detector to AUROC, without transferred detectors.

    `name` is its folder's, with as many parents as tell it from the other runs; `config` is dotted key to plain value
    or list, empty where the folder has none.
    """

    name: str
    folder: Path
    experiment: str
    aurocs: Mapping[tuple[str, str], Auroc]
    provenance: Mapping[str, Any]
    config: Mapping[str, Any]


def read_runs(folders: Sequence[Path]) -> list[FinishedRun]:
    """Read the results of runs, each folder given once."""
    seen: dict[Path, Path] = {}
    for folder in folders:
        _check_folder(folder)
        if folder.resolve() in seen:
            raise Refusal(f"`compare` should be given each run once. Got `{folder}` twice. Remove one.")
        seen[folder.resolve()] = folder
    names = _short_names(list(seen))
    return [_read(folder, name) for folder, name in zip(folders, names, strict=True)]


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        got = "is no folder" if folder.exists() else "does not exist"
        raise Refusal(f"`compare` should be given run folders. Got `{folder}`, which {got}. Correct the path.")
    if (folder / RESULTS).is_file():
        return
    inside = sorted(path.parent for path in folder.glob(f"*/{RESULTS}"))
    advice = f"Did you mean `{inside[-1]}`?" if inside else "`detect`, or `fit` at its end, writes them."
    raise Refusal(f"`{folder}` should be a run folder with results. Got no {RESULTS} in it. {advice}")


def _short_names(folders: Sequence[Path]) -> list[str]:
    """The last parts of each path, as many as tell it from the others."""
    for length in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = [str(Path(*folder.parts[-length:])) for folder in folders]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def _read(folder: Path, name: str) -> FinishedRun:
    path = folder / RESULTS
    try:
        document = read_results(folder)
        aurocs = {
            (str(one["source"]), str(one["detector"])): _auroc(one)
            for one in document["outcomes"]
            if not is_transferred(one["trained_on"], one["source"])
        }
        known = {pair: auroc for pair, auroc in aurocs.items() if auroc is not None}
        experiment, provenance = str(document["experiment"]), dict(document["provenance"])
    except KeyError as error:
        raise _unreadable(path, f"none with `{error.args[0]}`") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise _unreadable(path, str(error) or "something else") from error
    if not known:
        raise _unreadable(path, "no AUROC of any detector")
    return FinishedRun(name, folder, experiment, known, provenance, _config(folder / CONFIG))


def read_results(folder: Path, *needed: str) -> dict[str, Any]:
    """Read a run's `results.json`, refused where it lacks what is `needed`: `outcomes` (list), `provenance` (dict)."""
    path = folder / RESULTS
    try:
        document = read_json(path)
    except (OSError, Unparsable) as error:
        raise _unreadable(path, getattr(error, "strerror", None) or str(error)) from error
    if not isinstance(document, dict):
        raise _unreadable(path, f"a {type(document).__name__}")
    for name in needed:
        if not isinstance(document.get(name), {"outcomes": list, "provenance": dict}[name]):
            raise _unreadable(path, f"none with `{name}`")
    return document


def _auroc(outcome: Mapping[str, Any]) -> Auroc | None:
    value, interval = outcome["metrics"]["test"].get("auroc"), outcome["auroc_interval"]
    if value is None:
        return None
    bounds = [value if interval[name] is None else interval[name] for name in ("low", "high")]
    return Auroc(*map(float, (value, *bounds)))


def _config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = read_yaml(path)
    except Unparsable as error:
        raise _unreadable(path, str(error)) from error
    if not isinstance(found, Mapping):
        raise _unreadable(path, f"a {type(found).__name__}")
    return {key: value for key, value in _flat(found).items() if key not in _PLACE}


def _flat(nested: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Flatten to dotted keys; an empty mapping is kept, so that it differs from a missing one."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        name = f"{above}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return flat


def _unreadable(path: Path, got: str) -> Refusal:
    return Refusal(
        f"`{path}` should be as `detect` has written it. Got {got.rstrip('.')}. Run `detect` again with "
        f"--run_dir {path.parent}."
    )
