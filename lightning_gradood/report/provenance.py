"""Where numbers come from, as pages show it: environment, commit, attacks, splits and time."""

import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning_gradood
from lightning_gradood.report.page import Grid

_ABSENT = "-"


def environment(provenance: Mapping[str, Any]) -> dict[str, str]:
    """Describe the software and hardware of a run."""
    versions = ", ".join(f"{name} {version}" for name, version in provenance.get("versions", {}).items())
    system = f"{platform.system()} {platform.release()}, {platform.machine()}, {os.cpu_count()} processors"
    return {
        "versions": versions,
        "device": str(provenance.get("device", _ABSENT)),
        "this machine": system,
        "commit": commit(Path(lightning_gradood.__file__).parent),
    }


def accuracy_text(provenance: Mapping[str, Any]) -> str:
    """The classifier's accuracy on the normal images, in words; empty where they have no classes."""
    found = provenance.get("classifier", {})
    if found.get("accuracy") is None:
        return ""
    return f"{100 * found['accuracy']:.2f} % accurate on {found['images']} normal images"


def accuracy_sentence(provenance: Mapping[str, Any]) -> str:
    """`accuracy_text` as a sentence, also where no accuracy is known."""
    accuracy = accuracy_text(provenance) or "of unknown accuracy, as the normal images have no labels"
    return f"The classifier is {accuracy}."


def accuracy_warning(provenance: Mapping[str, Any]) -> str:
    """Warn of a classifier hardly better than chance: below 3 × chance or, with few classes, half way from chance to 1.

    Empty where it is better, or where its accuracy is not known.
    """
    found = provenance.get("classifier", {})
    if found.get("accuracy") is None or not found.get("classes"):
        return ""
    chance = 1 / found["classes"]
    low = min(3 * chance, (1 + chance) / 2)
    if found["accuracy"] >= low:
        return ""
    return (
        f"{100 * found['accuracy']:.1f} % of the normal images are classified correctly, less than {100 * low:.1f} %, which is "
        "hardly better than chance: the order of the classes is the first suspect. Name the network's outputs in their order "
        "with --data.classes; until then numbers about attacks and detection say little."
    )


def commit(package: Path) -> str:
    """The commit of the package's files, marked where they differ from it; or a note that they are not versioned."""
    try:
        _git(package, "ls-files", "--error-unmatch", "__init__.py")  # or it lies inside someone else's repository
        name = _git(package, "rev-parse", "HEAD")
        return f"{name}, with changes" if _git(package, "status", "--porcelain", "--", ".") else name
    except (OSError, subprocess.CalledProcessError):
        return "unknown, the package is not under version control"


def working_commit() -> str:
    """Short commit hash of the working directory; empty outside a repository."""
    try:
        return _git(Path(), "rev-parse", "--short", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


ATTACK_HEADS = ("images", "success, %", "mean L2", "mean L∞")


def attack_cells(numbers: Mapping[str, Any]) -> list[str]:
    """What an attack or corruption did, under `ATTACK_HEADS`; norms are means, of pixels in [0, 1]."""
    success = numbers.get("attack_success")
    norms = [numbers.get(name) for name in ("attack_l2", "attack_linf")]
    rest = [_ABSENT if value is None else f"{value:.3f}" for value in norms]
    return [str(numbers["images"]), _ABSENT if success is None else f"{100 * success:.2f}", *rest]


READING_HEADS = ("probe", "ms an image", "MiB an image")


def reading_cells(probe: str, cost: Mapping[str, float]) -> list[str]:
    """What reading a probe costs, under `READING_HEADS`."""
    memory = f"{cost['mebibytes']:.1f}" if "mebibytes" in cost else _ABSENT
    return [probe, f"{cost['milliseconds']:.2f}", memory]


def split_cells(counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Numbers of images of each split, normal + anomalous."""
    return [f"{part['normal']}+{part['anomalous']}" for part in counts.values()]


def pairs(about: Mapping[str, str]) -> Grid:
    """Names and values as a table without heads."""
    return Grid(["", ""], [list(pair) for pair in about.items()], wrap=True)
