"""Run one verb of an experiment: interpolation in files, warnings of other packages, and refusals as one sentence.

`interpolation` adds resolvers for `${...}` in experiment files. `benchmark` is the verb that runs other verbs.
"""

import errno
import logging
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from jsonargparse import set_parsing_settings
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_gradood.cli.calls import configuration_of, run_verb
from lightning_gradood.cli.command import Command
from lightning_gradood.cli.parsing import Parser, experiment_name, limit_texts, with_shipped_files
from lightning_gradood.cli.settings import refuse_null
from lightning_gradood.cli.stopping import Stopped, end, is_first
from lightning_gradood.cli.trust import trusting, without_trust
from lightning_gradood.cli.verbs import VERBS
from lightning_gradood.core import LOG, Refusal, writing_refusal
from lightning_gradood.experiments import Benchmark, Experiment, Program, TableSettings, run_benchmark

_KEYS = [name for kind in (Benchmark, Experiment, TableSettings) for name in kind.__dataclass_fields__]


class BenchmarkParser(Parser):
    """Suggests keys of a benchmark file, where other verbs have those of an experiment."""

    def vocabulary(self) -> dict[str, str]:
        """Keys of a benchmark file, and classes for its `detectors`."""
        return {name: path for name, path in super().vocabulary().items() if path} | dict.fromkeys(_KEYS, "")


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
        end(f"some fits of {names} failed: their runs say why, and all else is in the tables.", 3)


def _built(given: dict[str, Any]) -> Benchmark:
    """Built by hand: the parser would build the classes that `flags` and `detectors` name, which the runs build."""
    given["experiments"] = {name: Experiment(**one) for name, one in given["experiments"].items()}
    given["tables"] = TableSettings(**given["tables"])
    return Benchmark(**{name: given[name] for name in Benchmark.__dataclass_fields__})


@contextmanager
def interpolation() -> Iterator[None]:
    """Let files use `${key}` across files and after overrides, `${oc.env:NAME,default}` and `${div:8,255}`."""
    OmegaConf.register_resolver("div", _div, replace=True)
    # without it each file would be resolved alone, and overrides (a sweep's too) would leave stale values behind
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    limit_texts()
    try:
        yield
    except OmegaConfBaseException as error:
        key = f" at `{error.full_key}`" if error.full_key else ""
        raise Refusal(
            f"The configuration should hold only interpolations that can be resolved. Got{key}: {_first_line(error)}. "
            "Define that key or variable, or give a default as in ${oc.env:NAME,default}."
        ) from error


def _div(numerator: int | float, denominator: int | float) -> float:  # OmegaConf warns of an int given for a float
    return numerator / denominator


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")


_OF_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_NOISE = (
    ".*LeafSpec.*is deprecated",  # Lightning 2.6 meets torch 2.15
    "Checkpoint directory .* exists and is not empty",  # that of a run which goes on; whose it is was looked at before
    "LightningCLI's args parameter is intended",  # `benchmark` calls the other verbs so, with words of its own in sys.argv
    "Precision .* is not supported by the model summary",  # its estimate of megabytes under mixed precision
)


def run_program(args: Sequence[str] | None = None) -> None:
    """Run one verb, e.g. `run_program(["fit", "--config", "configs/digits.yaml"])`; exit codes as `main`."""
    _quieten()
    with ExitStack() as leaving:
        try:
            words, trusted = without_trust(sys.argv[1:] if args is None else args)
            with interpolation(), trusting(trusted):
                if words[:1] == ["benchmark"]:  # calls other verbs, and has no model and data of its own
                    benchmark(words[1:])
                else:
                    refuse_missing(Command(leaving, words))
        except Refusal as refusal:
            LOG.error("refused: %s", refusal)
            end(str(refusal))
        except OSError as error:  # of a file that a package writes for us, such as a logger's
            if error.errno not in _OF_WRITING:
                raise
            end(str(writing_refusal(error.filename or "a file of this run", "--run_dir", error)))
        except Stopped as stopped:
            LOG.error("%s", stopped)
            if stopped.signal == "SIGUSR1" and is_first() and shutil.which("scontrol"):
                _requeue(os.environ)
            raise


def _requeue(given: Mapping[str, str]) -> None:
    """Put the job back into SLURM's queue after the signal that means so (`--signal=SIGUSR1@90`).

    Lightning would save a checkpoint in the middle of a step first, for which it waits for all processes.
    """
    array = f"{given['SLURM_ARRAY_JOB_ID']}_{given['SLURM_ARRAY_TASK_ID']}" if "SLURM_ARRAY_JOB_ID" in given else ""
    subprocess.run(["scontrol", "requeue", array or given["SLURM_JOB_ID"]], check=False)


def refuse_missing(command: Command) -> None:
    """End with code 3 where some detectors have failed and the others are reported, on the process that reports them."""
    failures = command.trainer.failures
    if failures and command.trainer.is_global_zero:
        missing = ", ".join(dict.fromkeys(f"`{one.detector}`" for one in failures))
        end(f"fits failed: {len(failures)}, of {missing}; the table says why, and all else is reported.", 3)


def _quieten() -> None:
    """Leave out what others say at every start and no user can do anything about."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_no_advertisement)
    for message in _NOISE:
        warnings.filterwarnings("ignore", message)


def _no_advertisement(record: logging.LogRecord) -> bool:
    """Lightning recommends other products at every start, above the lines that matter."""
    return "Tip: For seamless cloud" not in record.getMessage()
