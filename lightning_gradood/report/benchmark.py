"""Experiment files times seeds: the runs that are missing, then the paper's tables and one page with all results."""

import json
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from torch.autograd import profiler as autograd_profiler
from torch.profiler import ProfilerActivity, profile
from typing_extensions import override

from lightning_gradood.core import CHECKPOINTS, Refusal, Seed, as_float, atomic_write, experiment_file, refuse_foreign
from lightning_gradood.extraction import ProbeCallback
from lightning_gradood.probes import Probe
from lightning_gradood.report.benchmark_page import benchmark_page
from lightning_gradood.report.loggers import ReportCallback
from lightning_gradood.report.paper_tables import (
    Row,
    TableSettings,
    full_layout,
    paper_layout,
    table_1,
    table_2,
    tables_csv,
)
from lightning_gradood.report.run import PAGE, RESULTS, Run
from lightning_gradood.report.tables import not_transferred

_OURS = ("config", "run_dir", "cache_dir", "detection.seed", "data.split.seed")  # what the benchmark sets itself
_IDENTITY = ("seed_everything", "model", "data", "detection", "ckpt_path")  # what makes results those of one call


@dataclass(frozen=True)
class Experiment:
    """One experiment file with its place in the tables.

    Args:
        config: the experiment file, relative to the working directory, or one that comes with the package.
        dataset: what the classifier was trained on, as the tables are to say it, e.g. CIFAR-10.
        network: the classifier, as the tables are to say it, e.g. ResNet.
        flags: further flags by dotted name, e.g. {data.limits.images: 100}; see `fit --help` for their names.
        paper: whose of the paper's numbers stand beside ours, e.g. CIFAR-10 ResNet; by default those of `dataset` and
            `network`, if the paper has them.
    """

    config: str
    dataset: str
    network: str
    flags: dict[str, Any] = field(default_factory=dict)
    paper: Literal["CIFAR-10 ResNet", "CIFAR-10 DenseNet", "SVHN ResNet", "SVHN DenseNet"] | None = None

    def __post_init__(self) -> None:
        experiment_file(self.config, "config")
        if taken := sorted(set(self.flags) & set(_OURS)):
            raise Refusal(
                f"`flags` should leave {', '.join(_OURS)} to the benchmark. Got `flags` with {', '.join(taken)}. "
                "Set `seeds`, `run_dir` or `cache_dir` of the benchmark."
            )

    def row(self, name: str, source: str, made_by: Mapping[str, Any]) -> Row:
        """An empty row of the tables."""
        dataset, network = self.paper.split() if self.paper else (self.dataset, self.network)
        return Row(name, self.dataset, self.network, (dataset, network), source, made_by=made_by)


@dataclass(frozen=True)
class Benchmark:
    """Experiment files times seeds, and the tables made of them.

    Args:
        experiments: by name, which becomes a folder's; each with config, dataset, network and flags.
        seeds: of the splits and the detectors; the classifier is trained once, with the first.
        detectors: the detectors beside the MLP in every experiment, as for `--detection.detectors`; by default each
            file's own.
        run_dir: where runs and tables go; by default runs/benchmarks/ and the benchmark file's name.
        cache_dir: where records are kept and found again by later seeds.
        tables: how the tables and the page are made.
    """

    experiments: dict[str, Experiment]
    seeds: list[Seed] = field(default_factory=lambda: [0, 1, 2])
    detectors: list[Any] | None = None
    run_dir: str | None = None
    cache_dir: str = "runs/.records"
    tables: TableSettings = field(default_factory=TableSettings)

    def __post_init__(self) -> None:
        if not self.experiments:
            raise Refusal(
                "`experiments` should name at least one. Got none. "
                "Write e.g. {digits: {config: configs/digits.yaml, dataset: Digits, network: ResNet}}."
            )
        for name in self.experiments:
            if not re.fullmatch(r"[\w+-][\w.+-]*", name):
                raise Refusal(
                    f"`experiments` should have names that can be folders'. Got {name!r}. Use letters, digits, . _ + and -."
                )
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise Refusal(
                f"`seeds` should be different numbers, none below 0. Got `seeds = {self.seeds}`. Write e.g. [0, 1, 2]."
            )
        both = [name for name, one in self.experiments.items() if "detection.detectors" in one.flags]
        if self.detectors is not None and both:
            raise Refusal(
                f"`detectors` should be set once. Got them for all and in the flags of {', '.join(both)}. Remove one of both."
            )


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

    @property
    def command_line(self) -> str:
        """The call as a shell command."""
        return f"python -m lightning_gradood {shlex.join(self.words)}"


def run_benchmark(benchmark: Benchmark, folder: Path, program: Program) -> list[str]:
    """Run what lacks results of some detector, write tables and page, and return the names of detectors that failed."""
    calls = calls_of(benchmark, folder, program)
    refuse_unknown_images(benchmark, calls)
    for call in calls:
        refuse_foreign(call.folder, call.config, _IDENTITY)
    classifiers: dict[str, str] = {}
    for number, call in enumerate(calls, start=1):
        done = is_done(call, classifiers.get(call.experiment))
        _say(f"\n[{number}/{len(calls)}] {'done before: ' if done else ''}{call.command_line}\n")
        if not done:
            program.run(call.words, [ProbeCosts(), ReportCallback(figures=False)])
        classifiers.setdefault(call.experiment, _classifier(Run.read(call.folder)))
    runs: dict[str, list[Run]] = {name: [] for name in benchmark.experiments}
    for call in calls:
        runs[call.experiment].append(Run.read(call.folder))
    _write(benchmark, calls, runs, folder)
    return list(dict.fromkeys(one.detector for found in runs.values() for run in found for one in run.failures))


def calls_of(benchmark: Benchmark, folder: Path, program: Program) -> list[Call]:
    """List the calls in execution order: the first of an experiment may train its classifier."""
    calls: list[Call] = []
    for name in benchmark.experiments:
        first = folder / name / f"seed_{benchmark.seeds[0]}"
        common = _common(benchmark, name)
        trains = _trains(program.configuration(["fit", *common]))
        for seed in benchmark.seeds:
            run = folder / name / f"seed_{seed}"
            own = ["--detection.seed", str(seed), "--data.split.seed", str(seed), "--run_dir", str(run)]
            words = ["fit" if trains and run == first else "detect", *common, *own]
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


def _trains(config: Mapping[str, Any]) -> bool:
    data, model = config["data"]["init_args"], config["model"]["init_args"]
    return bool(data.get("train")) and model.get("weights") is None and config.get("ckpt_path") is None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def is_done(call: Call, classifier: str | None = None) -> bool:
    """Whether results of every detector exist, from a classifier with this digest if one is given."""
    if not (call.folder / RESULTS).is_file():
        return False
    run = Run.read(call.folder)
    return not run.failures and bool(run.guard.sentence) and classifier in (None, _classifier(run))


def _classifier(run: Run) -> str:
    return str(run.provenance.get("network_digest"))


@rank_zero_only
def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


_IMAGES = 16  # of a timed reading


class ProbeCosts(Callback):
    """Measure time and memory of each probe that was just read, as `probe_costs` of our Trainer."""

    @override
    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        probing = next((one for one in callbacks if isinstance(one, ProbeCallback)), None)
        if not trainer.is_global_zero or probing is None:
            return
        reading = probing.reader
        source = reading.data.sources.normal
        images = as_float(source.images(range(min(_IMAGES, len(source))))).to(pl_module.device)
        read = {entry.probe for entry in reading.plan.missing}
        timed = [probe for probe in probing.probes if probe.name in read]
        costs = {probe.name: probe_cost(probe, reading.network, images) for probe in timed}
        trainer.probe_costs = costs  # type: ignore[attr-defined]


def probe_cost(probe: Probe, network: nn.Module, images: Tensor) -> dict[str, float]:
    """Measure `milliseconds` and peak `mebibytes` an image of a prepared probe on images float32 [N, C, H, W].

    Wall clock after a warm-up; memory beyond what was held before, records included, and missing where another profiler
    is active.
    """
    probe(network, images)
    started = _now(images.device)
    probe(network, images)
    cost = {"milliseconds": 1000 * (_now(images.device) - started) / len(images)}
    measure = _peak_on_gpu if images.device.type == "cuda" else _peak_on_cpu
    peak = measure(lambda: probe(network, images), images.device)
    if peak is not None:
        cost["mebibytes"] = peak / 2**20 / len(images)
    return cost


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _peak_on_gpu(work: Callable[[], object], device: torch.device) -> int:
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    return torch.cuda.max_memory_allocated(device) - before


def _peak_on_cpu(work: Callable[[], object], device: torch.device) -> int | None:
    """From the allocator's log: the process' size grows in steps and never shrinks."""
    if autograd_profiler._is_profiler_enabled:
        return None
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or it warns of missing drivers
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as log:
        work()
    events = log.profiler.kineto_results.events()
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def _rows_of(name: str, experiment: Experiment, runs: Sequence[Run]) -> list[Row]:
    """The results of an experiment over its seeds, by source in order of first appearance."""
    rows: dict[str, Row] = {}
    for run in runs:
        made = run.provenance.get("perturbations", {})
        for source in dict.fromkeys(one.source for one in not_transferred(run.outcomes)):
            rows.setdefault(source, experiment.row(name, source, made.get(source, {}))).add(run)
    return list(rows.values())


@rank_zero_only
def _write(benchmark: Benchmark, calls: Sequence[Call], runs: Mapping[str, Sequence[Run]], folder: Path) -> None:
    rows = [row for name, found in runs.items() for row in _rows_of(name, benchmark.experiments[name], found)]
    tables = [table for table in (table_1(rows), table_2(rows, benchmark.tables)) if table.rows]
    contents = {"tables.csv": tables_csv(tables)}
    for table in tables:
        papers = [paper_layout(table, benchmark.tables.columns)] if table.name == "table_2" else []
        layouts = [*papers, full_layout(table)]
        contents[f"{table.name}.md"] = "\n".join(one.markdown for one in layouts)
        contents[f"{table.name}.tex"] = "\n".join(one.latex for one in layouts)
    first, commands = {name: found[0] for name, found in runs.items()}, [call.command_line for call in calls]
    contents[PAGE] = benchmark_page(folder.name, benchmark.seeds, first, tables, benchmark.tables, commands)
    for name, text in contents.items():
        with atomic_write(folder / name) as file:
            file.write(text.encode())
    shown = "\n".join(contents[f"{table.name}.md"] for table in tables)
    sys.stdout.write(f"\n{shown}\nTables and page: {folder}\n")
