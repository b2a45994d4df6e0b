"""Experiments: files times seeds, the paper's Tables 1 and 2, and one page with all results.

`run_benchmark` runs a verb for each experiment and seed of a `Benchmark`, as a user could, and prints the command;
finished runs are not repeated. From the run folders it writes tables as Markdown, LaTeX and CSV (mean and standard
deviation over seeds beside the paper's numbers) and `report.html`, drawn from what `StoreArtifacts` kept.

    >>> from lightning_gradood.experiments import Cell, paper_number
    >>> cell = Cell((0.97, 0.98, 0.96), paper_number("CIFAR-10", "ResNet", "PGD", "ours", "auroc"))
    >>> f"{cell.mean:.2f} ± {cell.spread:.2f}, the paper {cell.paper:.4f}"
    '0.97 ± 0.01, the paper 0.9582'
"""

from lightning_gradood.experiments.artifacts import StoreArtifacts
from lightning_gradood.experiments.jobs import Program
from lightning_gradood.experiments.run import run_benchmark
from lightning_gradood.experiments.settings import Benchmark, Experiment, TableSettings
from lightning_gradood.experiments.tables import Cell, paper_number

__all__ = [
    "Benchmark",
    "Cell",
    "Experiment",
    "Program",
    "StoreArtifacts",
    "TableSettings",
    "paper_number",
    "run_benchmark",
]
