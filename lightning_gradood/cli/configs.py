"""The verb `configs`: the experiment files and sweeps that come with the package."""

import sys
from pathlib import Path

from lightning_gradood.cli.plain import plain


@plain("", names={"nargs": "*", "type": str, "default": []})
def configs(names: list[str], *, copy: str | None = None) -> None:
    """List or copy files.

    Args:
        names: which files, e.g. digits; all by default.
        copy: folder to copy them to, into configs/ and sweeps/; changed files are not replaced.
    """
    from lightning_gradood.core import Refusal, atomic_write, did_you_mean, shipped_files

    found = {
        f"{folder}/{path.name}": path for folder in ("configs", "sweeps") for path in shipped_files(folder).values()
    }
    for name in names:
        if not any(name in (key, path.name, path.stem) for key, path in found.items()):
            hint = did_you_mean(name, [path.stem for path in found.values()], "`configs` without a name lists them.")
            raise Refusal(f"`configs` should name files that come with the package. Got `{name}`. {hint}")
    found = {key: path for key, path in found.items() if not names or {key, path.name, path.stem} & set(names)}
    if copy is None:
        width = max(map(len, found)) + 2
        sys.stdout.writelines(f"{name:<{width}}{_first_sentence(path)}\n" for name, path in found.items())
        sys.stdout.write(
            "\nRun one by its name, e.g. `fit --config digits`; `configs --copy FOLDER` copies them to change them.\n"
        )
        return
    targets = {Path(copy, name): path.read_bytes() for name, path in found.items()}
    for target, content in targets.items():
        if target.exists() and target.read_bytes() != content:
            raise Refusal(
                f"`--copy` should not replace files that were changed. Got {target}, which differs from the shipped one. "
                "Name another folder, or move yours away; nothing was copied."
            )
    for target, content in targets.items():
        with atomic_write(target, "--copy") as file:
            file.write(content)
        sys.stdout.write(f"{target}\n")


def _first_sentence(path: Path) -> str:
    """What a file says of itself in its first comment, up to the first command."""
    comment = path.read_text(encoding="utf-8").partition("\n#   ")[0].partition("\n\n")[0]
    words = [line.removeprefix("#").strip() for line in comment.splitlines() if line.startswith("#")]
    return " ".join(words).split(". ")[0].rstrip(".")
