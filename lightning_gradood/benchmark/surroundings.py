"""Where the numbers come from: machine, versions, commit."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import lightning_gradood


def surroundings(provenance: dict[str, Any]) -> dict[str, str]:
    """Describe what the runs ran on.

    Args:
        provenance: of one run's results.
    """
    versions = ", ".join(f"{name} {version}" for name, version in provenance["versions"].items())
    system = f"{platform.system()} {platform.release()}, {platform.machine()}, {os.cpu_count()} processors"
    return {
        "versions": versions,
        "device": provenance["device"],
        "this machine": system,
        "commit": commit(Path(lightning_gradood.__file__).parent),
    }


def commit(package: Path) -> str:
    """The commit of the package's files; says so where they differ from it or are not under version control."""
    try:
        _git(package, "ls-files", "--error-unmatch", "__init__.py")  # or it lies inside someone else's repository
        name = _git(package, "rev-parse", "HEAD")
        return f"{name}, with changes" if _git(package, "status", "--porcelain", "--", ".") else name
    except (OSError, subprocess.CalledProcessError):
        return "unknown, the package is not under version control"


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()
