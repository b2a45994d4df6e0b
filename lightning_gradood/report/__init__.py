"""What a run found: written into its folder while network and records are at hand, and told from the folder alone.

`write_run` fills the folder; `Run.read` is its only reader; tables, figures, pages, loggers, `compare` and `benchmark` are
functions of one or several runs. Numbers are shares in [0, 1] under the same names everywhere; only tables and figures for
readers are in percent. W&B is imported here alone, and only when a run uses it.

Examples:
    >>> from lightning_gradood.evaluation import Outcome
    >>> counts = {"test": {"normal": 50, "anomalous": 50}}
    >>> outcome = Outcome("svhn", "mlp", counts, {"test": {"auroc": 0.92}}, (0.86, 0.97), 1.0, {}, [], 0.1)
    >>> print(console_table(*printed_rows([outcome])).splitlines()[2])
    svhn    mlp       92.00   [86.0, 97.0]
"""

from lightning_gradood.report.benchmark import Benchmark, Experiment, run_benchmark
from lightning_gradood.report.figures import ReportSettings, explanation_figure, figure_bytes
from lightning_gradood.report.loggers import (
    FINISH_SECONDS,
    PROJECT,
    LoggingSettings,
    ReportCallback,
    WandbCallback,
    alert,
    apply_dashboard,
    dashboard_definition,
    has_wandb_account,
    offline_without_account,
    tell,
)
from lightning_gradood.report.pages import comparison_page, comparison_text
from lightning_gradood.report.paper_tables import TableSettings
from lightning_gradood.report.robustness_card import card_table
from lightning_gradood.report.run import GuardSummary, Run, newest_run, read_runs, write_guard_summary
from lightning_gradood.report.run_writer import (
    Workplace,
    keep_guard,
    working_commit,
    write_run,
)
from lightning_gradood.report.score_drift import DriftStream, ScoredImages, drift_report
from lightning_gradood.report.tables import console_table, printed_rows
from lightning_gradood.report.triage import Triage, read_marks, refit_text

__all__ = [
    "FINISH_SECONDS", "PROJECT", "Benchmark", "DriftStream", "Experiment", "GuardSummary", "LoggingSettings",
    "ReportCallback", "ReportSettings", "Run", "ScoredImages", "TableSettings", "Triage", "WandbCallback", "Workplace", "alert",
    "apply_dashboard", "card_table", "comparison_page", "comparison_text", "console_table",
    "dashboard_definition", "drift_report", "explanation_figure", "figure_bytes", "has_wandb_account", "keep_guard", "newest_run",
    "offline_without_account", "printed_rows", "read_marks", "read_runs", "refit_text", "run_benchmark", "tell",
    "working_commit", "write_guard_summary", "write_run",
]  # fmt: skip
