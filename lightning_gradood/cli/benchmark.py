"""The verb `benchmark`: several experiment files and seeds, the paper's two tables, one page."""

import difflib
import io
import re
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NoReturn

import yaml

from lightning_gradood.cli.parsing import VERBS, Parser, experiment_name
from lightning_gradood.core import Refusal
from lightning_gradood.experiments import Benchmark, Experiment, TableSettings, run_benchmark

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


def benchmark(words: list[str], main: Callable[[list[str]], None]) -> None:
    """Run a benchmark file.

    Args:
        words: of the command line, without the verb.
        main: the program, which makes each call.
    """
    parser = BenchmarkParser(prog="python -m lightning_gradood benchmark", description=VERBS["benchmark"])
    parser.add_argument("-c", "--config", action="config", help="The benchmark file, e.g. configs/tables_digits.yaml.")
    parser.add_class_arguments(Benchmark, as_group=False)
    settings = _built(parser.parse_args(words).as_dict())
    folder = Path(settings.run_dir or Path("runs", "benchmarks", experiment_name(words)))
    run_benchmark(settings, folder, main, lambda call: _resolved(call, main))


def _built(given: dict[str, Any]) -> Benchmark:
    """By hand: the parser would build the classes that `flags` and `detectors` name, which are for the calls to build."""
    given["experiments"] = {name: Experiment(**one) for name, one in given["experiments"].items()}
    given["tables"] = TableSettings(**given["tables"])
    return Benchmark(**{name: given[name] for name in Benchmark.__dataclass_fields__})


def _resolved(words: list[str], main: Callable[[list[str]], None]) -> Mapping[str, Any]:
    """What a call would run with, as it prints it."""
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            main([*words, "--print_config"])
    except SystemExit as exit_:
        if exit_.code:
            raise
    return dict(yaml.safe_load(printed.getvalue()))
