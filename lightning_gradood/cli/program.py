"""Run one verb of an experiment, from the words of the command line or from Python, and say how it ended."""

import errno
import logging
import os
import shutil
import subprocess
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback

from lightning_gradood.cli.command import Command
from lightning_gradood.cli.parsing import Parser, experiment_name, interpolation, refuse_null, with_shipped_files
from lightning_gradood.cli.stopping import Ended, Stopped
from lightning_gradood.cli.trusted_files import trusting, without_trust
from lightning_gradood.cli.verbs import VERBS
from lightning_gradood.core import LOG, Refusal, writing_refusal
from lightning_gradood.evaluation import Outcome
from lightning_gradood.report import Benchmark, Experiment, Program, TableSettings, run_benchmark

_BENCHMARK_KEYS = [name for kind in (Benchmark, Experiment, TableSettings) for name in kind.__dataclass_fields__]
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_NOISE = (
    ".*LeafSpec.*is deprecated",  # Lightning 2.6 meets torch 2.15
    "Checkpoint directory .* exists and is not empty",  # that of a run which goes on; whose it is was looked at before
    "LightningCLI's args parameter is intended",  # `benchmark` calls the other verbs so, with words of its own in sys.argv
    "Precision .* is not supported by the model summary",  # its estimate of megabytes under mixed precision
)


def run_program(words: Sequence[str]) -> None:
    """Run one verb, e.g. `run_program(["fit", "--config", "configs/digits.yaml"])`; refusals are raised, and logged."""
    _quieten()
    with ExitStack() as leaving:
        try:
            words, trusted = without_trust(words)
            with interpolation(), trusting(trusted):
                if words[:1] == ["benchmark"]:  # calls other verbs, and has no model and data of its own
                    benchmark(words[1:])
                else:
                    _report_missing(Command(leaving, words))
        except Refusal as refusal:
            LOG.error("refused: %s", refusal)
            raise
        except OSError as error:  # of a file that a package writes for us, such as a logger's
            if error.errno not in _FULL:
                raise
            raise writing_refusal(error.filename or "a file of this run", "--run_dir", error) from error
        except Stopped as stopped:
            LOG.error("%s", stopped.sentence)
            if not _is_first():
                raise SystemExit(stopped.code) from None  # it is said once
            if stopped.signal == "SIGUSR1" and shutil.which("scontrol"):
                _requeue(os.environ)
            raise


def configuration_of(words: list[str]) -> dict[str, Any]:
    """Return the resolved configuration of a command line, as plain values, without running it."""
    with ExitStack() as leaving:
        return Parsed(leaving, words).configuration


def run_verb(words: list[str], callbacks: Sequence[Callback] = ()) -> list[Outcome]:
    """Run a verb in this process; return one outcome for each anomaly source and detector that it fitted."""
    with ExitStack() as leaving:
        return Command(leaving, words, callbacks).outcomes


class Parsed(Command):
    """A call that is parsed, and not run."""

    def before_instantiate_classes(self) -> None:
        """Leave the file system alone."""

    def instantiate_classes(self) -> None:
        """Build nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing."""

    def _set_seed(self) -> None:
        """Seed nothing."""


class BenchmarkParser(Parser):
    """Suggests keys of a benchmark file, where other verbs have those of an experiment."""

    def vocabulary(self) -> dict[str, str]:
        """Keys of a benchmark file, and classes for its `detectors`."""
        return {name: path for name, path in super().vocabulary().items() if path} | dict.fromkeys(_BENCHMARK_KEYS, "")


def benchmark(words: list[str]) -> None:
    """Run a benchmark file with the words behind the verb."""
    parser = BenchmarkParser(prog="python -m lightning_gradood benchmark", description=VERBS["benchmark"])
    parser.add_argument("-c", "--config", action="config", help="The benchmark file, e.g. configs/tables_digits.yaml.")
    parser.add_class_arguments(Benchmark, as_group=False)
    words = with_shipped_files(words)
    given = parser.parse_args(words)
    refuse_null(parser, given, ["tables"])
    settings = _built(given.as_dict())
    folder = Path(settings.run_dir or Path("runs", "benchmarks", experiment_name(words)))
    failed = run_benchmark(settings, folder, Program(configuration_of, run_verb))
    if failed:
        names = ", ".join(f"`{name}`" for name in failed)
        raise Ended(f"some fits of {names} failed: their runs say why, and all else is in the tables.", 3)


def _built(given: dict[str, Any]) -> Benchmark:
    """Built by hand: the parser would build the classes that `flags` and `detectors` name, which the runs build."""
    given["experiments"] = {name: Experiment(**one) for name, one in given["experiments"].items()}
    given["tables"] = TableSettings(**given["tables"])
    return Benchmark(**{name: given[name] for name in Benchmark.__dataclass_fields__})


def _is_first() -> bool:
    """Whether this is the first of the run's processes, as its launcher says."""
    ranks = [os.environ[name] for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK") if name in os.environ]
    return ranks[:1] in ([], ["0"])


def _requeue(given: Mapping[str, str]) -> None:
    """Put the job back into SLURM's queue after the signal that means so (`--signal=SIGUSR1@90`).

    Lightning would save a checkpoint in the middle of a step first, for which it waits for all processes.
    """
    array = f"{given['SLURM_ARRAY_JOB_ID']}_{given['SLURM_ARRAY_TASK_ID']}" if "SLURM_ARRAY_JOB_ID" in given else ""
    subprocess.run(["scontrol", "requeue", array or given["SLURM_JOB_ID"]], check=False)


def _report_missing(command: Command) -> None:
    """End with code 3 where some detectors have failed and the others are reported, on the process that reports them."""
    failures = command.trainer.failures
    if failures and command.trainer.is_global_zero:
        missing = ", ".join(dict.fromkeys(f"`{one.detector}`" for one in failures))
        raise Ended(f"fits failed: {len(failures)}, of {missing}; the table says why, and all else is reported.", 3)


def _quieten() -> None:
    """Leave out what others say at every start and no user can do anything about."""
    # Lightning recommends other products above the lines that matter
    advertised = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    advertised.addFilter(_no_advertisement)
    for message in _NOISE:
        warnings.filterwarnings("ignore", message)


def _no_advertisement(record: logging.LogRecord) -> bool:
    return "Tip: For seamless cloud" not in record.getMessage()
