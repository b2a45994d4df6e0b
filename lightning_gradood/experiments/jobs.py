"""The runs of a benchmark: one command for each experiment and seed, run in this process."""

import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only

from lightning_gradood.core import CHECKPOINTS, Refusal, refuse_foreign
from lightning_gradood.experiments.artifacts import RunArtifacts, StoreArtifacts
from lightning_gradood.experiments.settings import Benchmark
from lightning_gradood.report import read_results


@dataclass(frozen=True)
class Program:
    """The command line as functions of its words.

    Args:
        configuration: returns the resolved configuration of the words; nothing is run.
        run: runs the verb in this process, with these callbacks beside those of the configuration.
    """

    configuration: Callable[[list[str]], Mapping[str, Any]]
    run: Callable[[list[str], Sequence[Callback]], object]


@dataclass(frozen=True)
class Call:
    """One experiment with one seed; `words` are the command line, verb first, and `config` is what they resolve to."""

    experiment: str
    seed: int
    folder: Path
    words: list[str]
    config: Mapping[str, Any]


def calls_of(benchmark: Benchmark, folder: Path, program: Program) -> list[Call]:
    """List the calls in execution order: the first of an experiment may train its classifier."""
    calls: list[Call] = []
    for name in benchmark.experiments:
        first = folder / name / f"seed_{benchmark.seeds[0]}"
        common = _common(benchmark, name)
        trains = _trains(program.configuration(["fit", *common]))
        for seed in benchmark.seeds:
            run = folder / name / f"seed_{seed}"
            words = ["fit" if trains and run == first else "detect", *common, *_of_seed(seed, run)]
            if trains and run != first:
                words += ["--ckpt_path", str(first / CHECKPOINTS / "best.ckpt")]
            calls.append(Call(name, seed, run, words, program.configuration(words)))
    return calls


def refuse_unknown_images(benchmark: Benchmark, calls: Sequence[Call]) -> None:
    """Refuse sources for Figure 1 that are not among `data.anomalies`."""
    known = list(dict.fromkeys(name for call in calls for name in call.config["data"]["init_args"]["anomalies"] or {}))
    for key in ("near", "far"):
        name = getattr(benchmark.tables, key)
        if name is not None and name not in known:
            raise Refusal(
                f"`tables.{key}` should be a source of `data.anomalies`. Got `tables.{key} = {name}`; there are {known}."
            )


def _common(benchmark: Benchmark, name: str) -> list[str]:
    experiment = benchmark.experiments[name]
    words = ["--config", experiment.config, "--cache_dir", benchmark.cache_dir]
    if benchmark.detectors is not None:
        words += ["--detection.detectors", _text(benchmark.detectors)]
    return words + [word for flag, value in experiment.flags.items() for word in (f"--{flag}", _text(value))]


def _of_seed(seed: int, run: Path) -> list[str]:
    return ["--detection.seed", str(seed), "--data.split.seed", str(seed), "--run_dir", str(run)]


def _trains(config: Mapping[str, Any]) -> bool:
    data, model = config["data"]["init_args"], config["model"]["init_args"]
    return bool(data.get("train")) and model.get("weights") is None and config.get("ckpt_path") is None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


_IDENTITY = ("seed_everything", "model", "data", "detection", "ckpt_path")  # what makes results those of one call
RESULTS = "results.json"


def make_calls(calls: Sequence[Call], program: Program) -> None:
    """Make every call that has no results of the same configuration and classifier, and print each command.

    Folders of other configurations are refused before the first call.
    """
    for call in calls:
        refuse_foreign(call.folder, call.config, _IDENTITY)
    weights: dict[str, str] = {}
    for number, call in enumerate(calls, start=1):
        done = is_done(call, weights.get(call.experiment))
        _say(f"[{number}/{len(calls)}] {'done before: ' if done else ''}{command_line(call)}")
        if not done:
            program.run(call.words, [StoreArtifacts()])
        weights.setdefault(call.experiment, RunArtifacts.read(call.folder).weights)


def is_done(call: Call, weights: str | None = None) -> bool:
    """Whether results of every detector exist, from a classifier with this digest if one is given."""
    if not (call.folder / RESULTS).is_file() or not RunArtifacts.path(call.folder).is_file():
        return False
    if failures_of(call):
        return False
    return weights in (None, RunArtifacts.read(call.folder).weights)


def failures_of(call: Call) -> list[str]:
    """Names of the detectors that failed, each once."""
    found = read_results(call.folder)
    return list(dict.fromkeys(one["detector"] for one in found.get("failures", [])))


def command_line(call: Call) -> str:
    """The call as a shell command."""
    return f"python -m lightning_gradood {shlex.join(call.words)}"


@rank_zero_only
def _say(line: str) -> None:
    sys.stdout.write(f"\n{line}\n")
    sys.stdout.flush()
