"""The verb `benchmark`: several experiment files and seeds, the paper's two tables, one page."""

import io
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import yaml

from lightning_gradood.benchmark import Benchmark, run_benchmark
from lightning_gradood.cli.help import VERBS
from lightning_gradood.cli.parsing import Parser, experiment_name


def benchmark(words: list[str], main: Callable[[list[str]], None]) -> None:
    """Run a benchmark file.

    Args:
        words: of the command line, without the verb.
        main: the program, which makes each call.
    """
    parser = Parser(prog="python -m lightning_gradood benchmark", description=VERBS["benchmark"])
    parser.add_argument("-c", "--config", action="config", help="The benchmark file, e.g. configs/tables_digits.yaml.")
    parser.add_class_arguments(Benchmark, as_group=False)
    settings = parser.instantiate_classes(parser.parse_args(words))
    given = {name: settings[name] for name in Benchmark.__dataclass_fields__}
    folder = Path(given["run_dir"] or Path("runs", "benchmarks", experiment_name(words)))
    run_benchmark(Benchmark(**given), folder, main, lambda call: _resolved(call, main))


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
