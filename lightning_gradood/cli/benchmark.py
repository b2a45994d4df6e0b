"""The verb `benchmark`: several experiment files and seeds, the paper's two tables, one page."""

import difflib
import re
from pathlib import Path
from typing import Any, NoReturn

from lightning_gradood.cli.command import configuration_of, run_verb
from lightning_gradood.cli.parsing import Parser, experiment_name
from lightning_gradood.cli.verbs import VERBS
from lightning_gradood.core import Refusal
from lightning_gradood.experiments import Benchmark, Experiment, Program, TableSettings, run_benchmark

_KEYS = [name for kind in (Benchmark, Experiment, TableSettings) for name in kind.__dataclass_fields__]
_UNKNOWN = re.compile(r"(?:[Oo]ption|Key|arguments:) '?(?:--)?(?P<word>[\w.]+)'?")


class BenchmarkParser(Parser):
    """Suggests keys of a benchmark file, where other verbs have those of an experiment."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the refusal that `main` prints."""
        if "are required: experiments" in message:
            raise Refusal(
                "`experiments` should be given. Got none. Name a benchmark file, e.g. `--config configs/tables_digits.yaml`."
            ) from ex
        match = _UNKNOWN.search(message)
        if match is None:
            super().error(message, ex)
        word = match["word"]
        near = difflib.get_close_matches(word.rpartition(".")[2], _KEYS, n=1)
        hint = f"Did you mean `{near[0]}`?" if near else "`benchmark --help` lists them."
        raise Refusal(f"A benchmark file should hold only keys that it knows. Got `{word}`. {hint}") from ex


def benchmark(words: list[str]) -> None:
    """Run a benchmark file.

    Args:
        words: of the command line, without the verb.
    """
    parser = BenchmarkParser(prog="python -m lightning_gradood benchmark", description=VERBS["benchmark"])
    parser.add_argument("-c", "--config", action="config", help="The benchmark file, e.g. configs/tables_digits.yaml.")
    parser.add_class_arguments(Benchmark, as_group=False)
    settings = _built(parser.parse_args(words).as_dict())
    folder = Path(settings.run_dir or Path("runs", "benchmarks", experiment_name(words)))
    run_benchmark(settings, folder, Program(configuration_of, run_verb))


def _built(given: dict[str, Any]) -> Benchmark:
    """Built by hand: the parser would build the classes that `flags` and `detectors` name, which the runs build."""
    given["experiments"] = {name: Experiment(**one) for name, one in given["experiments"].items()}
    given["tables"] = TableSettings(**given["tables"])
    return Benchmark(**{name: given[name] for name in Benchmark.__dataclass_fields__})
