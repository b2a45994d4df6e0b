"""A guard's folder on disk: weights, detector and probes as safetensors, everything else in `guard.json`, all with hashes."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, get_type_hints

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

import lightning_gradood
from lightning_gradood.core import Refusal, atomic_write, fits, pack, read_json, writing_refused
from lightning_gradood.detectors import SavedDetector, save_detector
from lightning_gradood.probes import Probe

FORMAT = 1
GUARD, NETWORK, DETECTOR, PROBES = "guard.json", "network.safetensors", "detector.safetensors", "probes.safetensors"
_DIGEST = "digest"  # of guard.json itself, without this entry
_VERSIONS = ("torch", "torchvision", "numpy", "scikit-learn", "timm")


@dataclass(frozen=True)
class Description:
    """What `guard.json` says beside the hashes.

    Args:
        normalize: `mean` and `std` of each channel that are applied before the network; None where it does so itself.
        picture: how files are decoded before the transform: `RGB`, or `L` for grey.
        image_shape: [C, H, W] of an image after the transform.
        classes: names of the classes; empty where they have none.
        parameters: names of the network's parameter tensors, in the order of the gradient norms.
        label_designs: names of the label designs whose gradients it reads.
        trained_on: `normal` for a detector that needs no anomalies, else the anomaly sources it was fitted on.
        counts: number of records it was fitted and calibrated on.
        calibration: scores of normal images that it was not fitted on, ascending.
        baseline: probe to the mean of what it reads of normal images, from which `explain` measures contributions.
        false_positive_rate: share of normal images that may be flagged.
        threshold: an image is flagged if its score is above it.
        metrics: what was measured, by source; see `results.json`.
        batch_size: images in a batch when the calibration images were read.
        built_in: whether no anomalies were known, so that `metrics` are about built-in probes of the normal images.
        one_logit: whether the network has one logit z, which is read as [0, z].
    """

    experiment: str
    network: dict[str, Any]
    normalize: dict[str, list[float]] | None
    transform: dict[str, Any] | None
    picture: Literal["RGB", "L"]
    image_shape: list[int]
    classes: list[str]
    parameters: list[str]
    detector_name: str
    label_designs: list[str]
    trained_on: str
    counts: dict[str, dict[str, int]]
    calibration: list[float]
    baseline: dict[str, list[float]]
    false_positive_rate: float
    threshold: float
    metrics: dict[str, dict[str, float]]
    batch_size: int
    built_in: bool = False
    one_logit: bool = False
    versions: dict[str, str] = field(default_factory=lambda: _versions())


def write_folder(
    folder: Path,
    about: Description,
    network: nn.Module,
    saved: SavedDetector,
    probes: Sequence[Probe],
) -> None:
    """Write a guard's files; `network` is the bare one."""
    with writing_refused(folder, "--run_dir"):
        folder.mkdir(parents=True, exist_ok=True)
        _write_tensors(folder / NETWORK, network.state_dict())
        save_detector(folder / DETECTOR, saved)
        with atomic_write(folder / PROBES) as file:
            file.write(pack(list(probes)))
        _write_json(folder, about)


def read_description(folder: Path) -> Description:
    """Read `guard.json` and verify all hashes; a file that is missing, altered or of another format is refused."""
    content = _content(folder)
    names = {one.name for one in fields(Description)}
    if not names <= set(content):
        raise _refusal(folder / GUARD, f"none of the entries {sorted(names - set(content))}")
    if not fits(content.get("files"), dict[str, str]):
        raise _refusal(folder / GUARD, "something else under `files`")
    for name, digest in content["files"].items():
        path = folder / Path(str(name)).name
        if not path.is_file():
            raise _refusal(path, "no such file")
        if _file_digest(path) != digest:
            raise _refusal(path, "content that differs from its hash in guard.json")
    kinds = get_type_hints(Description)
    wrong = [name for name in sorted(names) if not fits(content[name], kinds[name])]
    if not wrong and (not content["calibration"] or content["batch_size"] < 1 or len(content["image_shape"]) != 3):
        wrong = ["calibration`, `batch_size` or `image_shape"]
    if wrong:
        raise _refusal(folder / GUARD, f"something else under `{wrong[0]}`")
    return Description(**{name: content[name] for name in names})


@contextmanager
def built_or_refused(folder: Path) -> Iterator[None]:
    """Turn any error while a guard is built into a refusal: its files are intact but do not belong together."""
    try:
        yield
    except Refusal:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise _refusal(folder, f"parts that do not fit together ({why})") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file of a guard, on the CPU."""
    try:
        return dict(safetensors.torch.load_file(path))
    except (SafetensorError, OSError) as error:
        raise _refusal(path, str(error)) from error


def _content(folder: Path) -> dict[str, Any]:
    path = folder / GUARD
    if not path.is_file():
        what = "a folder without it" if folder.is_dir() else ("a file" if folder.exists() else "no such folder")
        raise Refusal(
            f"`--guard` should be a folder with a {GUARD}, as `detect` saves it in runs/<experiment>/<time>/guard. "
            f"Got `--guard {folder}`, {what}. Name another folder."
        )
    try:
        content = read_json(path)
    except (ValueError, OSError) as error:
        raise _refusal(path, str(error)) from error
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        raise _refusal(path, "a JSON file of something else")
    if content["format"] != FORMAT:
        raise Refusal(
            f"{path} should be a guard of format {FORMAT}. Got format {content['format']}. "
            "Update lightning_gradood: a newer version has written it."
        )
    if content.get(_DIGEST) != _json_digest(content):
        raise _refusal(path, "content that differs from its own hash")
    return content


def _refusal(path: Path, got: str) -> Refusal:
    return Refusal(
        f"{path} should be part of a guard as `detect` has saved it. Got {got}. Copy the whole folder again, or run "
        "`detect` again; to change the threshold use --threshold or --false_positive_rate."
    )


def _write_json(folder: Path, about: Description) -> None:
    files = sorted(path for path in folder.iterdir() if path.name != GUARD and not path.name.startswith("."))
    content = {"format": FORMAT, **asdict(about), "files": {path.name: _file_digest(path) for path in files}}
    content = json.loads(json.dumps(content, allow_nan=False))
    content[_DIGEST] = _json_digest(content)
    with atomic_write(folder / GUARD) as file:
        file.write(f"{json.dumps(content, indent=1)}\n".encode())


def _write_tensors(path: Path, state: Mapping[str, Any]) -> None:
    foreign = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if foreign:
        raise Refusal(
            f"A guard should hold a network whose state is tensors alone. Got `{foreign[0]}`, a "
            f"{type(state[foreign[0]]).__name__}. Keep it as a constructor's argument."
        )
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}
    with atomic_write(path) as file:
        file.write(safetensors.torch.save(tensors))


def replace_folder(new: Path, folder: Path) -> None:
    """Put a folder in the place of another, which may exist."""
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    with writing_refused(folder, "--run_dir", new, old):
        if folder.exists():
            os.replace(folder, old)
        try:
            os.replace(new, folder)
        except OSError:
            if old.exists():
                os.replace(old, folder)
            raise
    shutil.rmtree(old, ignore_errors=True)


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _json_digest(content: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in content.items() if name != _DIGEST}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _versions() -> dict[str, str]:
    found = {"lightning_gradood": lightning_gradood.__version__}
    for name in _VERSIONS:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
