"""The verb `configs`: list the experiment files and sweeps that come with the package, and copy them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from lightning_gradood.cli.plain import call

_FOLDERS = ("configs", "sweeps")


def configs(words: Sequence[str]) -> int:
    """Run the verb with the words behind it, and return the exit code, 0."""
    call("configs", _configs, words, "", names={"nargs": "*", "type": str, "default": []})
    return 0


def _configs(names: list[str], *, copy: str | None = None) -> None:
    """List or copy files.

    Args:
        names: which files, e.g. digits; all by default.
        copy: folder to copy them to, into configs/ and sweeps/; changed files are not replaced.
    """
    found = _named(names)
    if copy is None:
        sys.stdout.write(_listing(found))
    else:
        _copy(found, Path(copy))


def _named(names: Sequence[str]) -> dict[str, Path]:
    """Name in the listing, `configs/digits.yaml`, to file; all where none is named."""
    from lightning_gradood.core import Refusal, did_you_mean, shipped_files

    known = {f"{folder}/{path.name}": path for folder in _FOLDERS for path in shipped_files(folder).values()}
    chosen: dict[str, Path] = {}
    for name in names:
        matching = {key: path for key, path in known.items() if name in (key, path.name, path.stem)}
        if not matching:
            hint = did_you_mean(name, [path.stem for path in known.values()], "`configs` without a name lists them.")
            raise Refusal(f"`configs` should name files that come with the package. Got `{name}`. {hint}")
        chosen |= matching
    return chosen if names else known


def _listing(found: dict[str, Path]) -> str:
    width = max(map(len, found)) + 2
    lines = [f"{name:<{width}}{_first_sentence(path)}" for name, path in found.items()]
    return "\n".join(
        [
            *lines,
            "",
            "Run one by its name, e.g. `fit --config digits`; `configs --copy FOLDER` copies them to change them.",
            "",
        ]
    )


def _first_sentence(path: Path) -> str:
    """What the file says of itself in its first comment, up to the first command."""
    words = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#") or line.startswith("#   "):
            break
        words.append(line.removeprefix("#").strip())
    return " ".join(words).split(". ")[0].rstrip(".")


def _copy(found: dict[str, Path], folder: Path) -> None:
    from lightning_gradood.core import Refusal, atomic_write

    for name, path in found.items():
        if (folder / name).exists() and (folder / name).read_bytes() != path.read_bytes():
            raise Refusal(
                f"`--copy` should not replace files that were changed. Got `--copy {folder}` with a {name} that differs from "
                "the shipped one. Name another folder, or move yours away; nothing was copied."
            )
    for name, path in found.items():
        with atomic_write(folder / name, "--copy") as file:
            file.write(path.read_bytes())
        sys.stdout.write(f"{folder / name}\n")
