"""Wrong values of every key of an experiment file: the cases, and what a run makes of one.

All cases of a file, with the failures grouped by kind::

    python tests/cli/settings.py digits
    python tests/cli/settings.py cifar_resnet --only trainer.logger --every 3
"""

import argparse
import contextlib
import copy
import functools
import io
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import yaml

import lightning_gradood.extraction.reading as reading_module
from lightning_gradood.cli import main
from lightning_gradood.cli.calls import configuration_of
from lightning_gradood.cli.command import Command
from lightning_gradood.cli.program import interpolation
from lightning_gradood.data import DigitsSource, PhotoPatches, Source
from lightning_gradood.tasks import ClassificationTask

CONFIGS = Path(__file__).parents[2] / "configs"
EXPERIMENTS = [path.stem for path in sorted(CONFIGS.glob("*.yaml")) if not path.stem.startswith("tables_")]
VALUES = {
    "null": None,
    "minus": -1,
    "zero": 0,
    "half": 0.5,
    "1e30": 1e30,
    "2**63": 2**63,
    "nan": float("nan"),
    "inf": float("inf"),
    "true": True,
    "empty": "",
    "word": "nonsense",
    "nul": "a\0b",
    "parent": "..",
    "root": "/",
    "list": ["nonsense"],
    "no list": [],
    "dict": {"nonsense": 1},
    "no dict": {},
}
NAMES = ["", ".", "..", "/", "a/b", "a\0b", "normal", "mean", "x" * 300]  # of sources
SECONDS = 10
_SMALL = [
    *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
    *("--trainer.accelerator", "cpu", "--data.limit", "20", "--detection.false_positive_rate", "0.2"),
]

_OWN = {"folders": ["--detection.detectors", "[Energy]"]}  # its `no_anomalies` needs more images


class Case(NamedTuple):
    """One wrong value.

    Args:
        experiment: an experiment file's name.
        key: path in the resolved configuration.
        value: that takes its place; where `key` ends in `NAME`, the name of the only anomaly source.
    """

    experiment: str
    key: tuple[str | int, ...]
    value: Any

    def __str__(self) -> str:
        return f"{self.experiment}: {'.'.join(map(str, self.key))} = {self.value!r:.60}"


class Reached(BaseException):
    """The first step is about to be taken, or the first image read: the value was accepted."""


class Hung(BaseException):
    """A refusal took too long."""


def _reached(*_: Any, **__: Any) -> None:
    raise Reached


def _hung(*_: Any) -> None:
    raise Hung


@functools.cache
def resolved(experiment: str, data: Path, verb: str) -> dict[str, Any]:
    """The configuration of a verb with an experiment file, on a CPU and few images.

    Args:
        experiment: its name.
        data: folder of the data sets, see `tiny_archives`.
        verb: that is run.
    """
    with mock.patch.dict(os.environ, {"DATA_DIR": str(data)}), mock.patch("sys.argv", ["lightning_gradood"]):
        words = [verb, "--config", str(CONFIGS / f"{experiment}.yaml"), *_SMALL, *_OWN.get(experiment, [])]
        with interpolation(), warnings.catch_warnings():
            config = configuration_of(words)
    config["trainer"]["logger"] = None  # each case would start a run of W&B
    return config


def keys(config: Any, prefix: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every key of a configuration, those that hold others among them, and the first element of each list."""
    inner = config.items() if isinstance(config, dict) else enumerate(config[:1]) if isinstance(config, list) else ()
    for name, value in inner:
        if name == "class_path" and not isinstance(value, str):
            continue
        yield (*prefix, name)
        yield from keys(value, (*prefix, name))


def cases(experiment: str, config: dict[str, Any]) -> list[Case]:
    """All wrong values of all keys of an experiment file."""
    found = [
        Case(experiment, key, value)
        for key in keys(config)
        for value in VALUES.values()
        if (type(value) is not type(at(config, key)) or value != at(config, key)) and not _walks(key, value)
    ]
    names = [("data", "init_args", kind, "NAME") for kind in ("anomalies", "attacks", "corruptions")]
    return [*found, *(Case(experiment, key, name) for key in names for name in NAMES)]


def _walks(key: tuple[str | int, ...], value: Any) -> bool:
    """Whether it names the whole file system as a folder of images, which is no wrong value, but long."""
    return value == "/" and "data" in key and len(key) <= 4


def at(config: Any, key: tuple[str | int, ...]) -> Any:
    """What stands under a key."""
    for name in key:
        config = config[name]
    return config


def changed(config: dict[str, Any], case: Case) -> dict[str, Any]:
    """The configuration with a case's value."""
    config = copy.deepcopy(config)
    if case.key[-1] != "NAME":
        at(config, case.key[:-1])[case.key[-1]] = case.value
        return config
    kind = {"anomalies": {"class_path": "PhotoPatches"}, "attacks": "FGSM", "corruptions": "Fog"}[str(case.key[-2])]
    if case.key[-2] == "corruptions":
        kind = {"class_path": "Corruption", "init_args": {"kind": "fog", "severity": 3}}
    config["data"]["init_args"] |= {"anomalies": {}, "attacks": None, "corruptions": None, "limits": None}
    config["data"]["init_args"][case.key[-2]] = {case.value: kind}
    return config


def verb_of(experiment: str) -> str:
    """The verb that an experiment file is for: `folders` names no training images."""
    return "detect" if experiment == "folders" else "fit"


def as_it_is(experiment: str, config: dict[str, Any]) -> Case:
    """A case that changes nothing, which must be accepted: otherwise all others would be refused for its reason."""
    return Case(experiment, ("run_dir",), config["run_dir"])


def verdict(case: Case, config: dict[str, Any], verb: str) -> str:
    """Run a verb with a case in the working directory, which holds nothing else.

    Returns:
        `accepted`, or the sentence of a refusal.

    Raises:
        AssertionError: anything else happened.
    """
    Path("case.yaml").write_text(yaml.safe_dump(changed(config, case), sort_keys=False, allow_unicode=True))
    error = io.StringIO()
    before = signal.signal(signal.SIGALRM, _hung), signal.signal(signal.SIGPROF, _hung)
    signal.alarm(6 * SECONDS)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()), _stopping_early(verb):
            main([verb, "--config", "case.yaml"])
        raise AssertionError("ended without a step")
    except Reached:
        _nothing_outside()
        return "accepted"
    except Hung as hung:
        raise AssertionError(f"took more than {SECONDS} s in {_place(hung)}") from hung
    except SystemExit as ended:
        return _sentence(ended.code, error.getvalue())
    except AssertionError as failed:
        if str(failed).startswith(("ended", "wrote")):
            raise
        raise AssertionError(f"AssertionError: {failed} in {_place(failed)}") from failed
    except BaseException as raised:
        first = next(iter(str(raised).splitlines()), "")
        raise AssertionError(f"{type(raised).__name__}: {first} in {_place(raised)}") from raised
    finally:
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGALRM, before[0])
        signal.signal(signal.SIGPROF, before[1])


@functools.cache
def _opened(kind: type[Source], arguments: str, open_: Any) -> Any:
    return open_(kind(**yaml.safe_load(arguments)))


def _open_once(kind: type[Source]) -> Any:
    """Let bundled images be prepared once for all cases."""
    open_ = kind.open
    return mock.patch.object(kind, "open", lambda source: _opened(kind, yaml.safe_dump(vars(source)), open_))


@contextlib.contextmanager
def _stopping_early(verb: str) -> Iterator[None]:
    verbs = {verb: Command.subcommands()[verb]}
    with (
        mock.patch.object(Command, "subcommands", staticmethod(lambda: verbs)),  # parsers of the others take a second
        _open_once(DigitsSource),
        _open_once(PhotoPatches),
        mock.patch.object(ClassificationTask, "training_step", _reached),
        mock.patch.object(reading_module, "read_probes", _reached),
        mock.patch("sys.argv", ["lightning_gradood"]),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


def _sentence(code: object, error: str) -> str:
    assert code == 2, f"ended with code {code}: {error[-200:]}"
    assert "Traceback" not in error, "wrote a traceback"
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, f"wrote {len(lines)} sentences: {error[-300:]}"
    assert error.rstrip().endswith(lines[0]), f"wrote more below its sentence: {error[-300:]}"
    left = [str(path) for path in Path.cwd().rglob("*") if path.is_file() and path.name != "case.yaml"]
    assert not left, f"wrote {left[:3]} before it refused: {lines[0]}"
    _nothing_outside()
    return lines[0].removeprefix("error: ")


def _nothing_outside() -> None:
    """The working directory is alone in its parent, and holds only the file and the folder of runs."""
    beside = [path.name for path in Path.cwd().parent.iterdir() if path != Path.cwd()]
    assert not beside, f"wrote beside the working directory: {beside}"


def clear(folder: Path) -> None:
    """Empty the working directory for the next case."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _place(raised: BaseException) -> str:
    frames = traceback.extract_tb(raised.__traceback__)
    ours = [one for one in frames if "lightning_gradood" in one.filename and "tests" not in one.filename]
    return " < ".join(f"{Path(one.filename).name}:{one.lineno}" for one in [*frames[-1:], *ours[:-4:-1]])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--verb", help="the file's own by default")
    parser.add_argument("--only", nargs="*", default=[""], help="beginnings of keys")
    parser.add_argument("--without", nargs="*", default=[], help="files whose keys are left out")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--gib", type=float, default=14, help="limit on the address space")
    return parser.parse_args()


def _try_as_it_is(experiment: str, config: dict[str, Any], verb: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "place")
        place.mkdir()
        os.chdir(place)
        found = verdict(as_it_is(experiment, config), config, verb)
        os.chdir("/")
    if found != "accepted":
        sys.exit(f"`{verb}` refuses {experiment} as it is: {found}")


def _run_all() -> None:
    import tiny_archives

    given = _arguments()
    resource.setrlimit(resource.RLIMIT_AS, (int(given.gib * 2**30),) * 2)
    patch = __import__("pytest").MonkeyPatch()
    tiny_archives.accept_any_checksum(patch)
    data = Path(tempfile.mkdtemp())
    tiny_archives.place_everything(data)
    tiny_archives.place_odin(data, "normal")
    verb = given.verb or verb_of(given.experiment)
    config = resolved(given.experiment, data, verb)
    _try_as_it_is(given.experiment, config, verb)
    chosen = cases(given.experiment, config)
    known = {key for other in given.without for key in keys(resolved(other, data, verb))}
    chosen = [case for case in chosen if case.key not in known]
    chosen = [case for case in chosen if ".".join(map(str, case.key)).startswith(tuple(given.only))]
    kinds: dict[str, list[str]] = defaultdict(list)
    of_wrong_type: set[tuple[tuple[str | int, ...], type]] = set()
    for case in chosen[given.start :: given.every]:
        if (case.key, type(case.value)) in of_wrong_type and isinstance(case.value, float | str):
            continue  # others of this type are refused in the same words
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder, "place")
            place.mkdir()
            os.chdir(place)
            try:
                found = verdict(case, config, verb)
                kind = "accepted" if found == "accepted" else "refused"
                if re.search("Expected an|wrong type|no class called", found):
                    of_wrong_type.add((case.key, type(case.value)))
            except AssertionError as failed:
                found = str(failed)
                kind = re.sub(r"[\d.e+]{2,}|'[^']*'", "…", found)
            os.chdir("/")
        kinds[kind].append(str(case))
        sys.stdout.write(f"{'ok' if kind == 'refused' else kind:.9}\t{case}\t{found}\n")
        sys.stdout.flush()
    for kind, ones in sorted(kinds.items(), key=lambda item: -len(item[1])):
        sys.stdout.write(f"== {len(ones)} {kind}\n")
        if kind not in ("accepted", "refused"):
            sys.stdout.writelines(f"     {one}\n" for one in ones)


if __name__ == "__main__":
    _run_all()
