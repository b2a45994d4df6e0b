"""The verb `score`: run a guard on image files. Lightning is not imported, and for `--help` torch is not."""

import io
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import KW_ONLY, asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse.typing import NonNegativeInt, OpenUnitInterval, PositiveFloat, PositiveInt, restricted_number_type

from lightning_gradood.cli.explained import Explained, figure_folder
from lightning_gradood.cli.plain import SWITCH, call, refuse_existing

if TYPE_CHECKING:  # torch takes seconds to import, and `--help` needs none of it
    from lightning_gradood.core import PassedOver
    from lightning_gradood.guard import FileVerdict, Guard

UNREADABLE = 3
"""Exit code where some files could not be scored."""

_TYPES = (str, str, float, float, float, bool, str)
_SECONDS = 1.0  # between two lines of progress where nobody looks at a terminal
_SPELLING: dict[str, dict[str, Any]] = {
    "images": {"nargs": "*", "type": str, "default": []},
    "overwrite": SWITCH,
    "explain": {"nargs": "?", "const": 8, "type": NonNegativeInt, "metavar": "N"},
    "threshold": {"type": restricted_number_type("Score", float, (">=", -math.inf))},  # also infinite, no NaN
    "trust": {"action": "append", "type": str},
}
_EPILOG = (
    "Columns: path, prediction, probability, score (higher = more anomalous), p_value (share of normal images that score at "
    "least as high), flagged, error. Exit code 3 if some files could not be scored."
)


@dataclass(frozen=True)
class Request:
    """What to score, with which guard, and what to write.

    Args:
        images: files, folders, patterns such as 'photos/*.jpg'; - for a list on stdin.
        guard: folder that `detect` has saved: runs/<experiment>/<time>/guard.
        output: a .parquet, .csv or .jsonl file; by default CSV on standard output.
        overwrite: replace the output if it exists.
        false_positive_rate: share of normal images that may be flagged.
        explain: add what each reading contributes to the score as columns, and with --output figures of the first N images
            (default: 8) in a folder beside it.
        threshold: flag images that score above this.
        batch_size: images read together; by default as when the guard was calibrated.
        processes: that share the files; with --device cuda each on another device.
        device: where the network runs, e.g. cuda.
        max_megapixels: larger images are not decoded.
        trust: a package of yours whose classes the guard may name; may be given several times.
    """

    images: list[str]
    _: KW_ONLY
    guard: str
    output: str | None = None
    overwrite: bool = False
    false_positive_rate: OpenUnitInterval | None = None
    explain: NonNegativeInt | None = None
    threshold: float | None = None
    batch_size: PositiveInt | None = None
    processes: PositiveInt = 1
    device: str = "cpu"
    max_megapixels: PositiveFloat = 89.0
    trust: list[str] = field(default_factory=list)


def score(words: Sequence[str]) -> int:
    """Run the verb with the words behind it; exit code 3 if some files could not be scored."""
    given: Request = call("score", Request, words, _EPILOG, **_SPELLING)
    from lightning_gradood.core import PassedOver, writing_refused

    _check(given)
    guard, passed = _guard(given), PassedOver()
    paths = _paths(given, passed)
    with writing_refused(Path("standard output"), "--output"):  # a file has its own sentence
        summary = _run(guard, paths, given, passed)
    lines = (summary.sentence(guard), passed.sentence("folders"), given.output and f"scores: {given.output}")
    sys.stderr.writelines(f"{line}\n" for line in lines if line)
    return UNREADABLE if summary.unreadable else 0


class Summary:
    """Counts of what was scored."""

    def __init__(self) -> None:
        self.images = self.unreadable = self.flagged = 0

    def add(self, verdict: "FileVerdict") -> None:
        """Count a file."""
        self.images += 1
        self.unreadable += verdict.error is not None
        self.flagged += bool(verdict.flagged)

    def sentence(self, guard: "Guard") -> str:
        """How many were flagged, with a binomial 95 % interval, and how many would be if all were normal."""
        from lightning_gradood.metrics import binomial_interval

        number = self.images - self.unreadable
        low, high = (100 * bound for bound in binomial_interval(self.flagged, number))
        share = 100 * self.flagged / number if number else 0.0
        expected = float((guard.calibration > guard.threshold).sum() + 1) / (len(guard.calibration) + 1)
        left = f", {self.unreadable} could not be scored" if self.unreadable else ""
        return (
            f"{number} images scored{left}: {self.flagged} flagged, {share:.1f} % [{low:.1f}, {high:.1f}]; of normal images "
            f"at most {expected * number:.0f}, {100 * expected:.3g} %, are expected."
        )


def _run(guard: "Guard", paths: Iterator[str], given: Request, passed: "PassedOver") -> Summary:
    from lightning_gradood.core import Refusal, printable
    from lightning_gradood.guard import COLUMNS
    from lightning_gradood.records import CsvStream, row_file

    summary, columns = Summary(), dict(zip(COLUMNS, _TYPES, strict=True))
    explained = Explained(guard, given) if given.explain is not None else None
    paths = explained.remembered(paths) if explained else paths
    columns |= explained.columns if explained else {}
    with row_file(Path(given.output), columns) if given.output else nullcontext(CsvStream(sys.stdout, columns)) as file:
        for verdict in _shown(_verdicts(guard, paths, given)):
            file.write(asdict(verdict) | (explained.of(verdict) if explained else {}))
            summary.add(verdict)
        if summary.images == 0:  # raised inside, so that no empty file takes an older one's place
            places = "standard input" if _is_listed(given) else ", ".join(map(printable, given.images))
            left = passed.sentence("There") and f" {passed.sentence('There')}"
            raise Refusal(f"`score` should find image files. Got none in {places}.{left} Name others.")
    return summary


def _verdicts(guard: "Guard", paths: Iterator[str], given: Request) -> "Iterator[FileVerdict]":
    from lightning_gradood.guard import Processes, score_files, score_files_on_processes

    if given.processes == 1:
        return score_files(guard, paths, given.batch_size, given.max_megapixels)
    processes = Processes(given.processes, given.guard, given.trust, given.device)
    return score_files_on_processes(guard, paths, processes, given.batch_size, given.max_megapixels)


def _shown(verdicts: "Iterator[FileVerdict]") -> "Iterator[FileVerdict]":
    """Show how many images were scored and how fast: a bar on a terminal, else a line a second."""
    from tqdm.auto import tqdm

    if sys.stderr.isatty():
        yield from tqdm(verdicts, desc="scoring", unit=" images")
        return
    started = last = time.perf_counter()
    for number, verdict in enumerate(verdicts, start=1):
        yield verdict
        now = time.perf_counter()
        if now > last + _SECONDS:
            last = now
            sys.stderr.write(f"scoring: {number} images, {number / (now - started):.0f} images/s\n")
            sys.stderr.flush()


def _guard(given: Request) -> "Guard":
    import torch

    from lightning_gradood.core import Refusal
    from lightning_gradood.guard import Guard

    try:
        torch.empty(0, device=given.device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise Refusal(
            f"`--device` should be a device of this machine. Got `--device {given.device}`: {reason}."
        ) from error
    guard = Guard.load(given.guard, given.trust, given.device)
    if given.threshold is not None:
        return guard.with_threshold(given.threshold)
    return guard if given.false_positive_rate is None else guard.with_false_positive_rate(given.false_positive_rate)


def _paths(given: Request, passed: "PassedOver") -> Iterator[str]:
    """The files of the command line, or those of a list on standard input."""
    from lightning_gradood.core import Refusal, printable
    from lightning_gradood.guard import image_paths

    if _is_listed(given):
        if sys.stdin is None or sys.stdin.isatty():
            raise Refusal(
                "`score` should be given image files, folders or patterns, or a list of files on standard input."
            )
        if isinstance(sys.stdin, io.TextIOWrapper):  # names of files need not be UTF-8
            sys.stdin.reconfigure(errors="surrogateescape")
        return image_paths((line.rstrip("\n") for line in sys.stdin if line.strip()), passed)
    if not any(os.path.lexists(os.path.expanduser(one)) or _is_pattern(one) for one in given.images):
        raise Refusal(
            f"`score` should be given files or folders that exist. Got `{printable(given.images[0])}`. Correct the path."
        )
    return image_paths(given.images, passed)


def _is_listed(given: Request) -> bool:
    return given.images in ([], ["-"])


def _is_pattern(name: str) -> bool:
    return any(sign in name for sign in "*?[")


def _check(given: Request) -> None:
    from lightning_gradood.core import Refusal
    from lightning_gradood.records import ENDINGS

    if given.false_positive_rate is not None and given.threshold is not None:
        raise Refusal("`--false_positive_rate` and `--threshold` should not be given together. Got both. Remove one.")
    if given.output and Path(given.output).suffix.lower() not in ENDINGS:
        raise Refusal(
            f"`--output` should end in {', '.join(ENDINGS)}. Got `--output {given.output}`. Name the format so."
        )
    for path in (given.output, figure_folder(given)):
        if path:
            refuse_existing("--output", Path(path), given.overwrite)
