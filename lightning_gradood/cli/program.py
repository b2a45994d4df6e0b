"""Run one verb of an experiment, from the words of the command line or from Python, and say how it ended."""

import errno
import logging
import os
import re
import shutil
import subprocess
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback

from lightning_gradood.cli import parsing
from lightning_gradood.cli.command import Command
from lightning_gradood.cli.verbs import VERBS, Ended, Stopped
from lightning_gradood.core import LOG, Refusal, writing_refusal
from lightning_gradood.evaluation import Outcome
from lightning_gradood.report import Benchmark, Experiment, TableSettings, run_benchmark

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_NOISE = (
    ".*LeafSpec.*is deprecated",  # Lightning 2.6 meets torch 2.15
    "Checkpoint directory .* exists and is not empty",  # that of a run which goes on; whose it is was looked at before
    "LightningCLI's args parameter is intended",  # `benchmark` calls the other verbs so, with words of its own in sys.argv
    "Precision .* is not supported by the model summary",  # its estimate of megabytes under mixed precision
)
_SAID = re.compile(r"Tip: For seamless cloud|`weights_only` was not set")  # other products; at each checkpoint


def run_program(words: Sequence[str]) -> None:
    """Run one verb, e.g. `run_program(["fit", "--config", "configs/digits.yaml"])`; refusals are raised, and logged."""
    _quieten()
    with ExitStack() as leaving:
        try:
            words, trusted = parsing.without_trust(words)
            with parsing.interpolation(), parsing.trusting(trusted):
                if words[:1] == ["benchmark"]:  # calls other verbs, and has no model and data of its own
                    benchmark(words[1:])
                else:
                    trainer = Command(leaving, words).trainer
                    if trainer.failures and trainer.is_global_zero:
                        missing = ", ".join(dict.fromkeys(f"`{one.detector}`" for one in trainer.failures))
                        text = f"fits failed: {len(trainer.failures)}, of {missing}; the table says why, all else is reported."
                        raise Ended(text, 3)
        except Refusal as refusal:
            LOG.error("refused: %s", refusal)
            raise
        except OSError as error:  # of a file that a package writes for us, such as a logger's
            if error.errno not in _FULL:
                raise
            raise writing_refusal(error.filename or "a file of this run", "--run_dir", error) from error
        except Stopped as stopped:
            LOG.error("%s", stopped.sentence)
            ranks = [os.environ[name] for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK") if name in os.environ]
            if ranks[:1] not in ([], ["0"]):
                raise SystemExit(stopped.code) from None  # it is said once
            if stopped.signal == "SIGUSR1" and shutil.which("scontrol"):  # `--signal=SIGUSR1@90`: back into the queue
                array = ["SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"]
                names = array if array[0] in os.environ else ["SLURM_JOB_ID"]
                subprocess.run(["scontrol", "requeue", "_".join(os.environ[name] for name in names)], check=False)
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

    def _run_subcommand(self, subcommand: str) -> None: ...

    def _set_seed(self) -> None: ...


def benchmark(words: list[str]) -> None:
    """Run a benchmark file with the words behind the verb."""
    parser = parsing.Parser(prog="python -m lightning_gradood benchmark", description=VERBS["benchmark"])
    parser.add_argument("-c", "--config", action="config", help="The benchmark file, e.g. configs/tables_digits.yaml.")
    parser.add_class_arguments(Benchmark, as_group=False)
    words = parsing.with_shipped_files(words)
    given = parser.parse_args(words)
    parsing.refuse_null(parser, given, ["tables"])
    # built by hand: the parser would build the classes that `flags` and `detectors` name, which the runs build
    values = {name: given.as_dict()[name] for name in Benchmark.__dataclass_fields__}
    values["experiments"] = {name: Experiment(**one) for name, one in values["experiments"].items()}
    settings = Benchmark(**values | {"tables": TableSettings(**values["tables"])})
    folder = Path(settings.run_dir or Path("runs", "benchmarks", parsing.experiment_name(words)))
    failed = run_benchmark(settings, folder, configuration_of, run_verb)
    if failed:
        names = ", ".join(f"`{name}`" for name in failed)
        raise Ended(f"some fits of {names} failed: their runs say why, and all else is in the tables.", 3)


def _quieten() -> None:
    """Leave out what others say at every start and no user can do anything about."""
    for name in ("utilities.rank_zero", "trainer.connectors.checkpoint_connector"):
        logging.getLogger(f"lightning.pytorch.{name}").addFilter(lambda record: not _SAID.search(record.getMessage()))
    for message in _NOISE:
        warnings.filterwarnings("ignore", message)
