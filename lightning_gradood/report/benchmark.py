"""Experiment files times seeds: the runs that are missing, then the paper's tables and one page with all results."""

import itertools
import json
import logging
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TextIO

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
from lightning_gradood.records import write_rows
from lightning_gradood.report.loggers import ReportCallback
from lightning_gradood.report.pages import benchmark_page
from lightning_gradood.report.paper_tables import CSV_COLUMNS, Row, TableSettings, csv_rows, overview, table_1, table_2
from lightning_gradood.report.run import PAGE, RESULTS, GuardSummary, Run

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
        weights: checkpoints of the same network, each a run of `detect` for every seed; the tables have mean and standard
            deviation over all of them. By default the experiment file's classifier.
    """

    config: str
    dataset: str
    network: str
    flags: dict[str, Any] = field(default_factory=dict)
    paper: Literal["CIFAR-10 ResNet", "CIFAR-10 DenseNet", "SVHN ResNet", "SVHN DenseNet"] | None = None
    weights: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        experiment_file(self.config, "config")
        if taken := sorted(set(self.flags) & set(_OURS)):
            raise Refusal(
                f"`flags` should leave {', '.join(_OURS)} to the benchmark. Got `flags` with {', '.join(taken)}. "
                "Set `seeds`, `run_dir` or `cache_dir` of the benchmark."
            )
        if self.weights and (taken := sorted({"ckpt_path", "model.weights"} & set(self.flags))):
            raise Refusal(
                f"`flags` should leave the classifier to `weights`. Got `flags` with {', '.join(taken)}. Remove one."
            )

    def row(self, source: str, perturbed: bool, group: Sequence[str] = ()) -> Row:
        """An empty row of the tables, of a source or of the mean over a group of them."""
        dataset, network = self.paper.split() if self.paper else (self.dataset, self.network)
        return Row(f"{self.dataset} ({self.network})", (dataset, network), source, perturbed, {}, group)


@dataclass(frozen=True)
class Benchmark:
    """Experiment files times seeds, and the tables made of them.

    Args:
        experiments: by name, which becomes a folder's; each with config, dataset, network and flags.
        seeds: of the splits and the detectors; the classifier is trained once, with the first.
        detectors: the detectors beside the MLP in every experiment whose flags name none, as for
            `--detection.detectors`; by default each file's own.
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
        for name in self.experiments:
            if not re.fullmatch(r"[\w+-][\w.+-]*", name):
                raise Refusal(
                    f"`experiments` should have names that can be folders'. Got {name!r}. Use letters, digits, . _ + and -."
                )
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise Refusal(
                f"`seeds` should be different numbers, none below 0. Got `seeds = {self.seeds}`. Write e.g. [0, 1, 2]."
            )


Configuration = Callable[[list[str]], Mapping[str, Any]]  # of a command line, resolved; nothing is run


class Call(NamedTuple):
    """One experiment with one seed; `words` are the command line, verb first, and `config` is what they resolve to.

    Calls of one `classifier` have the same weights.
    """

    experiment: str
    classifier: str
    folder: Path
    words: list[str]
    config: Mapping[str, Any]


def run_benchmark(
    benchmark: Benchmark,
    folder: Path,
    configuration: Configuration,
    run_verb: Callable[[list[str], Sequence[Callback]], object],
) -> list[str]:
    """Run what lacks results of some detector, write tables and page, and return the names of detectors that failed."""
    calls = calls_of(benchmark, folder, configuration)
    for call in calls:
        refuse_foreign(call.folder, call.config, _IDENTITY)
    classifiers: dict[str, Any] = {}
    for number, call in enumerate(calls, start=1):
        done = is_done(call, classifiers.get(call.classifier))
        output = call.folder.with_suffix(".txt")
        about = "done before" if done else f"its output is in {output}"
        rank_zero_only(sys.stdout.write)(f"[{number}/{len(calls)}] {call.folder}: {about}\n")
        sys.stdout.flush()
        if not done:
            with _into(output) as file:
                file.write(f"python -m lightning_gradood {shlex.join(call.words)}\n")
                run_verb(call.words, [ProbeCosts(), ReportCallback(figures=False)])
        classifiers.setdefault(call.classifier, Run.read(call.folder).provenance.get("network_digest"))
    runs = {name: [Run.read(one.folder) for one in calls if one.experiment == name] for name in benchmark.experiments}
    _write(benchmark, runs, folder)
    return list(dict.fromkeys(one.detector for found in runs.values() for run in found for one in run.failures))


@contextmanager
def _into(path: Path) -> Iterator[TextIO]:
    """Append what the block prints to a file, in the first process; Lightning's handlers keep the stream of their start."""
    path.parent.mkdir(parents=True, exist_ok=True)
    loggers = map(logging.getLogger, ("lightning.pytorch", "lightning.fabric"))
    streams = {one: one.stream for log in loggers for one in log.handlers if type(one) is logging.StreamHandler}
    target = path if getattr(rank_zero_only, "rank", 0) == 0 else Path(os.devnull)
    with target.open("a", buffering=1) as file, redirect_stdout(file), redirect_stderr(file):
        for one in streams:
            one.setStream(file)
        try:
            yield file
        finally:
            for one, stream in streams.items():
                one.setStream(stream)


def calls_of(benchmark: Benchmark, folder: Path, configuration: Configuration) -> list[Call]:
    """List the calls in execution order: the first of an experiment may train its classifier.

    A source for Figure 1 that is not among `data.anomalies` is refused.
    """
    calls: list[Call] = []
    for name, experiment in benchmark.experiments.items():
        common = ["--config", experiment.config, "--cache_dir", benchmark.cache_dir]
        if benchmark.detectors is not None:
            common += ["--detection.detectors", _text(benchmark.detectors)]
        common += [word for flag, value in experiment.flags.items() for word in (f"--{flag}", _text(value))]
        config = configuration(["fit", *common])
        data, model = config["data"]["init_args"], config["model"]["init_args"]
        trains = (
            not experiment.weights
            and bool(data.get("train"))
            and model.get("weights") is None
            and config.get("ckpt_path") is None
        )
        first = folder / name / f"seed_{benchmark.seeds[0]}"
        for seed, (number, weights) in itertools.product(benchmark.seeds, enumerate(experiment.weights or [None])):
            run = folder / name / f"{f'weights_{number}_' if weights else ''}seed_{seed}"
            own = ["--detection.seed", str(seed), "--data.split.seed", str(seed), "--run_dir", str(run)]
            words = ["fit" if trains and run == first else "detect", *common, *own]
            if trains and run != first:
                words += ["--ckpt_path", str(first / CHECKPOINTS / "best.ckpt")]
            words += ["--ckpt_path", weights] if weights else []
            calls.append(Call(name, f"{name}/{number}", run, words, configuration(words)))
    known = {name: None for call in calls for name in call.config["data"]["init_args"]["anomalies"] or {}}
    for key, source in (("near", benchmark.tables.near), ("far", benchmark.tables.far)):
        if source not in (None, *known):
            raise Refusal(
                f"`tables.{key}` should be a source of `data.anomalies`. Got `tables.{key} = {source}`; there are {[*known]}."
            )
    return calls


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def is_done(call: Call, classifier: Any = None) -> bool:
    """Whether results of every detector and a guard exist, from a classifier with this digest if one is given."""
    if not (call.folder / RESULTS).is_file():
        return False
    run = Run.read(call.folder)
    same = classifier in (None, run.provenance.get("network_digest"))
    return same and not run.failures and run.guard != GuardSummary()


class ProbeCosts(Callback):
    """Measure time and memory of each probe that was just read, as `probe_costs` of our Trainer."""

    @override
    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        for probing in [one for one in callbacks if isinstance(one, ProbeCallback) and trainer.is_global_zero]:
            reading = probing.reader
            source = reading.data.sources.normal
            images = as_float(source.images(range(min(16, len(source))))).to(pl_module.device)
            costs = {probe.name: probe_cost(probe, reading.network, images) for probe in probing.prepared}
            trainer.probe_costs = costs  # type: ignore[attr-defined]


def probe_cost(probe: Probe, network: nn.Module, images: Tensor) -> dict[str, float]:
    """Measure `milliseconds` and peak `mebibytes` an image of a prepared probe on images float32 [N, C, H, W].

    Wall clock after a warm-up; memory beyond what was held before, records included, and missing where another profiler
    is active.
    """
    on_gpu, started = images.device.type == "cuda", 0.0
    for _ in range(2):
        started = time.perf_counter()
        probe(network, images)
        if on_gpu:
            torch.cuda.synchronize(images.device)
    cost = {"milliseconds": 1000 * (time.perf_counter() - started) / len(images)}
    held = peak = 0
    if on_gpu:
        held = torch.cuda.memory_allocated(images.device)
        torch.cuda.reset_peak_memory_stats(images.device)
        probe(network, images)
        peak = torch.cuda.max_memory_allocated(images.device) - held
    elif not autograd_profiler._is_profiler_enabled:
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or it warns of missing drivers
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as log:
            probe(network, images)
        # from the allocator's log, as the process' size grows in steps and never shrinks
        for event in sorted(log.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
            if event.name() == "[memory]":
                held += event.nbytes()
                peak = max(peak, held)
    return cost | ({"mebibytes": peak / 2**20 / len(images)} if peak else {})


@rank_zero_only
def _write(benchmark: Benchmark, runs: Mapping[str, Sequence[Run]], folder: Path) -> None:
    """Write the tables as Markdown, LaTeX and CSV, and the page, and print mean AUROCs."""
    rows, means = dict[tuple[str, str], Row](), dict[tuple[str, str], Row]()
    for name, found in runs.items():
        for run in found:
            made = run.provenance.get("perturbations", {})
            single = {one.source: [one.source] for one in run.outcomes}
            for source, members in {**single, **run.groups}.items():
                row = benchmark.experiments[name].row(source, {*members} <= {*made}, members)
                rows.setdefault((name, source), row).add(run)
            for kind, perturbed in (("perturbed", True), ("other images", False)):
                if members := [source for source in single if (source in made) == perturbed]:
                    row = benchmark.experiments[name].row(f"{name}\n{kind}", perturbed, members)
                    means.setdefault((name, kind), row).add(run)
    both, mean = (table_1([*rows.values()]), table_2([*rows.values()], benchmark.tables)), overview([*means.values()])
    tables = [table for table in both if table.lines]
    first = {name: found[0] for name, found in runs.items()}
    contents = {PAGE: benchmark_page(folder.name, benchmark.seeds, first, mean, tables, benchmark.tables)}
    for table in tables:
        contents |= {f"{table.name}.md": table.markdown, f"{table.name}.tex": table.latex}
    for name, text in contents.items():
        with atomic_write(folder / name) as file:
            file.write(text.encode())
    write_rows(csv_rows(tables), CSV_COLUMNS, folder / "tables.csv", "--run_dir")
    sys.stdout.write(
        f"\n{mean.text()}\nMean AUROC over sources in %, ± standard deviation over seeds and checkpoints.\n"
        f"By source, with the paper's numbers: {', '.join(f'{table.name}.md' for table in tables)} and {PAGE} in {folder}\n"
    )
