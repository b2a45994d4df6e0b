"""What a run found: a table, files, figures and logged numbers.

Everything is made from one `DetectionReport`: outcomes of the detectors, gradient norms per layer, a few images,
provenance. `ReportCallback` writes the console table, `results.json` and `results.csv`, figures and `report.html`, and
sends the numbers to every Lightning logger; `read_runs` reads finished runs. Numbers are shares in [0, 1] under the
same names everywhere; only the console table and the figures are in percent. W&B is imported here alone, and only when
a run uses it.

Example:
    >>> import numpy as np
    >>> from lightning_gradood.evaluation import Outcome, SplitScores
    >>> rng = np.random.default_rng(0)
    >>> labels = np.repeat([0, 1], 50)
    >>> test = SplitScores([str(i) for i in range(100)], labels, rng.normal(2.0 * labels))
    >>> counts = {"test": {"normal": 50, "anomalous": 50}}
    >>> outcome = Outcome("svhn", "mlp", counts, {"test": {"auroc": 0.92}}, (0.86, 0.97), 1.0, {"test": test}, [], 0.1)
    >>> report = DetectionReport("digits", [outcome])
    >>> print(console_table(report.outcomes).splitlines()[2].split()[:7])
    ['svhn', 'mlp', '-', '-', '50+50', '92.00', '[86.0,']
"""

from lightning_gradood.report.bundle import DetectionReport, ImageRow, first_layer, make_report
from lightning_gradood.report.comparison import comparison_page, comparison_text
from lightning_gradood.report.dashboard import apply_dashboard, dashboard_sections, definition
from lightning_gradood.report.drift import ScoredImages, drift_by_class, drift_figure, drift_table
from lightning_gradood.report.figures import ReportSettings, as_png
from lightning_gradood.report.finished_runs import read_results, read_runs
from lightning_gradood.report.guards import (
    GuardSummary,
    Workplace,
    choose_guard,
    keep_guard,
    no_guard,
    without_anomalies_sentence,
)
from lightning_gradood.report.image_figures import explanation_figure, extreme_images, sample_sheet
from lightning_gradood.report.loggers import ReportCallback
from lightning_gradood.report.names import detector_title, source_title
from lightning_gradood.report.network_figures import activation_norms, first_layer_figure, layer_norms
from lightning_gradood.report.page import Cells, Grid, Picture, Section, render
from lightning_gradood.report.plots import method_rocs
from lightning_gradood.report.provenance import (
    ATTACK_HEADS,
    READING_HEADS,
    accuracy_text,
    accuracy_warning,
    attack_cells,
    environment,
    pairs,
    reading_cells,
    split_cells,
    working_commit,
)
from lightning_gradood.report.results import csv_text
from lightning_gradood.report.tables import console_table, text_table
from lightning_gradood.report.wandb_runs import (
    FINISH_SECONDS,
    PROJECT,
    LoggingSettings,
    WandbCallback,
    alert,
    has_wandb_account,
    offline_without_account,
)

__all__ = [
    "ATTACK_HEADS",
    "FINISH_SECONDS",
    "PROJECT",
    "READING_HEADS",
    "Cells",
    "DetectionReport",
    "Grid",
    "GuardSummary",
    "ImageRow",
    "LoggingSettings",
    "Picture",
    "ReportCallback",
    "ReportSettings",
    "ScoredImages",
    "Section",
    "WandbCallback",
    "Workplace",
    "accuracy_text",
    "accuracy_warning",
    "activation_norms",
    "alert",
    "apply_dashboard",
    "as_png",
    "attack_cells",
    "choose_guard",
    "comparison_page",
    "comparison_text",
    "console_table",
    "csv_text",
    "dashboard_sections",
    "definition",
    "detector_title",
    "drift_by_class",
    "drift_figure",
    "drift_table",
    "environment",
    "explanation_figure",
    "extreme_images",
    "first_layer",
    "first_layer_figure",
    "has_wandb_account",
    "keep_guard",
    "layer_norms",
    "make_report",
    "method_rocs",
    "no_guard",
    "offline_without_account",
    "pairs",
    "read_results",
    "read_runs",
    "reading_cells",
    "render",
    "sample_sheet",
    "source_title",
    "split_cells",
    "text_table",
    "without_anomalies_sentence",
    "working_commit",
]
