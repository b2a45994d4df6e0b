"""The verb `score`: run a guard on image files. Lightning is not imported, and for `--help` torch is not."""

import glob
import io
import itertools
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse.typing import NonNegativeInt, OpenUnitInterval, PositiveFloat, PositiveInt, restricted_number_type

from lightning_gradood.cli.plain import SWITCH, plain, refuse_existing

if TYPE_CHECKING:  # torch takes seconds to import, and `--help` needs none of it
    from lightning_gradood.core import PassedOver
    from lightning_gradood.guard import FileVerdict, Guard
    from lightning_gradood.report import Triage

    Explain = Callable[[FileVerdict, str], dict[str, Any]]

UNREADABLE = 3
"""Exit code where some files could not be scored."""

SPELLING: dict[str, dict[str, Any]] = {
    "images": {"nargs": "*", "type": str, "default": []},
    "overwrite": SWITCH,
    "by_class": SWITCH,
    "explain": {"nargs": "?", "const": 8, "type": NonNegativeInt, "metavar": "N"},
    "threshold": {"type": restricted_number_type("Score", float, (">=", -math.inf))},  # also infinite, no NaN
    "trust": {"action": "append", "type": str},
}
_TYPES = (str, str, float, float, float, bool, str)  # of the fields of `FileVerdict`
_EXPLAINED: dict[str, type] = {"usual_score": float, "explanation": str}  # what --explain adds
_LARGEST = 10  # contributions
_LISTED: tuple[list[str], ...] = ([], ["-"])  # words that stand for a list on standard input


@plain(
    "Columns: path, prediction, probability, score (higher = more anomalous), p_value (share of normal images that score at "
    "least as high), flagged, error, guard (detector and digest). Exit code 3 if some files could not be scored.",
    **SPELLING,
)
def score(
    images: list[str],
    *,
    guard: str,
    output: str | None = None,
    overwrite: bool = False,
    false_positive_rate: OpenUnitInterval | None = None,
    false_discovery_rate: OpenUnitInterval | None = None,
    by_class: bool = False,
    explain: NonNegativeInt | None = None,
    threshold: float | None = None,
    triage: str | None = None,
    batch_size: PositiveInt | None = None,
    processes: PositiveInt = 1,
    device: str = "cpu",
    max_megapixels: PositiveFloat = 89.0,
    trust: list[str] | None = None,
) -> int:
    """Score images with a guard and write a row for each.

    Args:
        images: files, folders, patterns such as 'photos/*.jpg'; - for a list on stdin.
        guard: folder that `detect` has saved, runs/<experiment>/<time>/guard, or that of its run.
        output: a .parquet, .csv or .jsonl file; by default CSV on standard output.
        overwrite: replace the output if it exists.
        false_positive_rate: share of normal images that may be flagged.
        false_discovery_rate: share of the flagged images that may be normal, in the mean over calls with normal images like
            the calibration's; all images are scored before the first row is written.
        by_class: keep the false-positive rate for each predicted class that has enough calibration images, and for the
            others together.
        explain: add the column `explanation`, what the ten largest parts add to the score of normal images, `usual_score`;
            and with --output figures of the first N images (default: 8) in a folder beside it.
        threshold: flag images that score above this.
        triage: a folder for a page of flagged images in groups, and a table to mark them in for `refit`.
        batch_size: images read together; by default as when the guard was calibrated.
        processes: that share the files; with --device cuda each on another device.
        device: where the network runs, e.g. cuda.
        max_megapixels: larger images are not decoded.
        trust: a package of yours whose classes the guard may name; may be given several times.
    """
    import torch

    from lightning_gradood.core import PassedOver, Refusal, printable, progress, writing_refused
    from lightning_gradood.guard import FileVerdict, Guard, score_files_on_processes
    from lightning_gradood.records import ENDINGS, write_rows

    first = "by_class" if by_class else "false_positive_rate"
    rules = {
        first: by_class or false_positive_rate,
        "false_discovery_rate": false_discovery_rate,
        "threshold": threshold,
    }
    if len(given := [f"`--{name}`" for name, value in rules.items() if value not in (None, False)]) > 1:
        raise Refusal(f"{given[0]} and {given[1]} should not be given together. Got both. Remove one.")
    if output and Path(output).suffix.lower() not in ENDINGS:
        raise Refusal(f"`--output` should end in {', '.join(ENDINGS)}. Got `--output {output}`. Name the format so.")
    figures = Path(output).with_suffix("") if output and explain else None
    for flag, place in (("--output", output), ("--output", figures), ("--triage", triage)):
        if place:
            refuse_existing(flag, Path(place), overwrite)
    loaded = Guard.load(guard, trust or (), device)
    identity = loaded.about.identity
    loaded = _flagging(loaded, threshold, false_positive_rate, by_class)
    collected = _triage() if triage else None
    passed, counts, found = PassedOver(), Counter[str](), Counter[tuple[str | None, bool]]()
    paths, again = itertools.tee(_paths(images, passed))
    if processes == 1:
        verdicts = loaded.score_files(paths, batch_size, max_megapixels)
    else:
        each = "cuda:{}" if device == "cuda" else device
        devices = [each.format(number % max(torch.cuda.device_count(), 1)) for number in range(processes)]
        load = partial(Guard.load, guard, trust or ())
        verdicts = score_files_on_processes(loaded, paths, load, devices, batch_size, max_megapixels)
    verdicts = progress(verdicts, "scoring", None, "images")
    if false_discovery_rate is not None:
        verdicts = _discovered(verdicts, false_discovery_rate)
    columns = dict(zip((one.name for one in fields(FileVerdict)), _TYPES, strict=True))
    explained = None if explain is None else _explaining(loaded, explain, max_megapixels, figures)
    columns |= {"guard": str, **(_EXPLAINED if explained else {})}

    def rows() -> Iterator[dict[str, Any]]:
        for verdict, path in zip(verdicts, again, strict=True):
            counts.update(files=1, unreadable=int(verdict.error is not None), flagged=int(bool(verdict.flagged)))
            found[verdict.prediction, bool(verdict.flagged)] += 1
            if collected:
                collected.add(path, verdict)
            yield asdict(verdict) | {"guard": identity} | (explained(verdict, path) if explained else {})
        if not counts["files"]:  # raised inside, so that no empty file takes an older one's place
            places = "standard input" if images in _LISTED else ", ".join(map(printable, images))
            left = f" {passed.sentence('There')}" if passed else ""
            raise Refusal(f"`score` should find image files. Got none in {places}.{left} Name others.")

    with writing_refused(Path("standard output"), "--output"):  # a file has its own sentence
        write_rows(rows(), columns, Path(output) if output else None)
    told = [_summary(counts, loaded, false_discovery_rate), *_class_lines(found, loaded)]
    lines = [*told, passed.sentence("folders"), output and f"scores: {output}"]
    if triage and collected:
        lines.append(collected.write(Path(triage), loaded, guard, max_megapixels))
    sys.stderr.writelines(f"{line}\n" for line in lines if line)
    return UNREADABLE if counts["unreadable"] else 0


def _paths(images: list[str], passed: "PassedOver") -> Iterator[str]:
    """The files of the command line, or those of a list on standard input."""
    from lightning_gradood.core import Refusal, printable
    from lightning_gradood.guard import image_paths

    if images in _LISTED:
        if sys.stdin is None or sys.stdin.isatty():
            raise Refusal(
                "`score` should be given image files, folders or patterns, or a list of files on standard input."
            )
        if isinstance(sys.stdin, io.TextIOWrapper):  # names of files need not be UTF-8
            sys.stdin.reconfigure(errors="surrogateescape")
        return image_paths((line.rstrip("\n") for line in sys.stdin if line.strip()), passed)
    if not any(os.path.lexists(os.path.expanduser(one)) or glob.has_magic(one) for one in images):
        raise Refusal(
            f"`score` should be given files or folders that exist. Got `{printable(images[0])}`. Correct the path."
        )
    return image_paths(images, passed)


def _flagging(guard: "Guard", threshold: float | None, rate: float | None, by_class: bool) -> "Guard":
    """The guard with the rule that was asked for."""
    if threshold is not None:
        guard = guard.with_threshold(threshold)
    if rate is not None:
        guard = guard.with_false_positive_rate(rate)
    return guard.with_class_thresholds() if by_class else guard


def _triage() -> "Triage":
    from lightning_gradood.report import Triage  # takes seconds to import

    return Triage()


def _discovered(verdicts: Iterable["FileVerdict"], rate: float) -> Iterator["FileVerdict"]:
    """The verdicts, of which those are flagged that Benjamini and Hochberg choose among all."""
    from lightning_gradood.metrics import discoveries

    found = list(verdicts)
    flags = iter(discoveries([one.p_value for one in found if one.p_value is not None], rate).tolist())
    for one in found:
        yield one if one.p_value is None else replace(one, flagged=next(flags))


def _class_lines(found: Counter[tuple[str | None, bool]], guard: "Guard") -> list[str]:
    """For each predicted class: images, how many are flagged, the threshold, and on how many images it is calibrated."""
    thresholds, classes, lines = guard.class_thresholds, guard.about.classes, []
    if thresholds is None:
        return []
    for name in sorted({one for one, _ in found if one}):
        group = thresholds.group(number := classes.index(name) if classes else int(name))
        others = f" with {len(group) - 1} other classes" if len(group) > 1 else ""
        calibrated = f"{thresholds.of(number):.4g}, of {sum(thresholds.counts[one] for one in group)} images{others}"
        flagged, left = found[name, True], found[name, False]
        lines.append(f"  predicted {name}: {flagged} of {flagged + left} flagged, threshold {calibrated}")
    return lines


def _summary(counts: Counter[str], guard: "Guard", discovery: float | None = None) -> str:
    """How many were flagged, with a binomial 95 % interval, and how many would be if all were normal."""
    from lightning_gradood.metrics import binomial_interval

    number = counts["files"] - counts["unreadable"]
    low, high = (100 * bound for bound in binomial_interval(counts["flagged"], number))
    share = 100 * counts["flagged"] / number if number else 0.0
    left = f", {counts['unreadable']} could not be scored" if counts["unreadable"] else ""
    if discovery is not None:
        least = math.ceil(number / (discovery * (len(guard.calibration) + 1)) - 1e-9)
        bound = f" With {len(guard.calibration)} calibration images, none or at least {least} are flagged."
        return (
            f"{number} images scored{left}: {counts['flagged']} flagged, of which at most {100 * discovery:.3g} % are expected "
            f"to be normal.{bound if least > 1 else ''}"
        )
    expected = float((guard.calibration > guard.threshold).sum() + 1) / (len(guard.calibration) + 1)
    if guard.class_thresholds:
        expected = guard.class_thresholds.false_positive_rate
    return (
        f"{number} images scored{left}: {counts['flagged']} flagged, {share:.1f} % [{low:.1f}, {high:.1f}]; if all "
        f"were normal, expect at most {expected * number:.{int(expected * number < 1)}f} false alarms, {100 * expected:.3g} %."
    )


def _explaining(guard: "Guard", number: int, megapixels: float, folder: Path | None) -> "Explain":
    """What `--explain` adds: a function of a verdict and its path that gives the values of two columns.

    Figures of the first `number` images are drawn where there is a `folder` for them.
    """
    from lightning_gradood.core import PixelLimit, as_float, atomic_write, read_picture
    from lightning_gradood.guard import explain

    seen = itertools.count()

    def explained(verdict: "FileVerdict", path: str) -> dict[str, Any]:
        if verdict.error is not None:
            return dict.fromkeys(_EXPLAINED)
        pixels = guard.read(read_picture(path, guard.about.picture, PixelLimit(megapixels)), verdict.path)
        place = next(seen)
        draws = folder is not None and place < number
        (found,) = explain(guard, pixels[None], heat=draws)
        if found.heat is not None:
            from lightning_gradood.report import explanation_figure, figure_bytes

            image = (as_float(pixels) * 255).round().byte().permute(1, 2, 0).numpy()
            flag = "flagged" if verdict.flagged else "not flagged"
            said = f"{verdict.prediction}, score {verdict.score:.4g}, p-value {verdict.p_value:.3g}, {flag}"
            figure = explanation_figure(image, found.heat.numpy(), found.contributions, f"{verdict.path}: {said}")
            with atomic_write(Path(str(folder), f"{place + 1:03d}_{Path(verdict.path).stem}.png"), "--output") as file:
                file.write(figure_bytes(figure))
        parts = sorted(found.contributions.items(), key=lambda part: -abs(part[1]))
        rest = [("others", sum(value for _, value in parts[_LARGEST:]))] * (len(parts) > _LARGEST)
        told = {name: float(f"{value:.6g}") for name, value in [*parts[:_LARGEST], *rest]}
        return {"usual_score": found.baseline, "explanation": json.dumps(told)}

    return explained
