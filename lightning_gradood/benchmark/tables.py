"""The paper's two tables from our runs: which row, which column, which number is best."""

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_gradood.benchmark.cells import Cell, Row
from lightning_gradood.benchmark.paper import METHODS_1, METHODS_2, METRICS_2, paper_number
from lightning_gradood.benchmark.settings import TableSettings

AUDIT = "image_statistics"  # shows what is easy for the wrong reason; it is no rival and never the best
_ATTACKS = {"fgsm": "FGSM", "bim": "BIM", "cw": "C&W", "pgd": "PGD", "iterll": "IterLL", "semantic": "Semantic"}
_METHODS = {
    "baseline": "Baseline",
    "odin": "ODIN",
    "lid": "LID",
    "mahalanobis_v": "M(V)",
    "mahalanobis_p": "M(P)",
    "mahalanobis_fe": "M(FE)",
    "mahalanobis_p_fe": "M(P+FE)",
    "energy": "Energy",
    "paper": "Ours (all ones)",
    "mlp": "Ours",
    "gradnorm": "GradNorm",
    "knn": "kNN",
    "gradient_gaussian": "Gradient Gaussian",
    "gradient_knn": "Gradient kNN",
    "gradient_forest": "Gradient forest",
    AUDIT: "(image statistics)",
}
_TITLES = {
    "detection_accuracy": "Detection accuracy",
    "accuracy_at_val_threshold": "Accuracy (threshold of val)",
    "accuracy_at_0.5": "Accuracy (at 0.5)",
    "auroc": "AUROC",
    "aupr_out": "AUPR (anomalous positive)",
    "aupr_in": "AUPR (normal positive)",
}


Lines = list[tuple[tuple[str, ...], dict[str, Cell | None]]]


@dataclass(frozen=True)
class Table:
    """Numbers with their heads.

    Args:
        name: of its files, such as `table_1`.
        caption: one sentence.
        heads: what the row heads are.
        detectors: of the columns, in order.
        rows: row heads, and a cell for each detector or None.
    """

    name: str
    caption: str
    heads: tuple[str, ...]
    detectors: list[str]
    rows: Lines


def table_1(rows: Sequence[Row]) -> Table:
    """AUROC on attacked (and corrupted) images, a row for each classifier and attack."""
    made = _in_the_paper_s_order([row for row in rows if row.made])
    detectors = _ordered(made, METHODS_1)
    body: Lines = [
        ((_model(row), _ATTACKS.get(row.source, row.source)), _cells(row, detectors, "auroc")) for row in made
    ]
    return Table("table_1", "Adversarial detection, AUROC.", ("Model", "Attack"), detectors, body)


def table_2(rows: Sequence[Row], settings: TableSettings) -> Table:
    """Detection accuracy, AUROC and AUPR on other images: three blocks of a row for each classifier and source."""
    found = [row for row in rows if not row.made]
    detectors = _ordered(found, METHODS_2)
    metrics = dict(zip(METRICS_2, (settings.accuracy, "auroc", settings.aupr), strict=True))
    body: Lines = [
        ((_TITLES[metric], _model(row), row.source), _cells(row, detectors, metric, kind, settings.same))
        for kind, metric in metrics.items()
        for row in found
    ]
    return Table("table_2", "Out-of-distribution detection.", ("Metric", "In", "Out"), detectors, body)


def title(detector: str) -> str:
    """A detector's column head."""
    return _METHODS.get(detector, detector)


def best_of(cells: dict[str, Cell | None]) -> set[str]:
    """The detectors with the highest mean as it is printed, ties included; the audit is left out."""
    means = {name: round(100 * cell.mean, 2) for name, cell in cells.items() if cell and name != AUDIT}
    return {name for name, mean in means.items() if mean == max(means.values())}


def _in_the_paper_s_order(rows: Sequence[Row]) -> list[Row]:
    """The rows of each experiment by the paper's order of attacks, others behind."""
    experiments = list(dict.fromkeys(row.experiment for row in rows))
    attacks = [*_ATTACKS]
    place = {
        source: attacks.index(source) if source in attacks else len(attacks) for source in {row.source for row in rows}
    }
    return sorted(rows, key=lambda row: (experiments.index(row.experiment), place[row.source]))


def _ordered(rows: Sequence[Row], paper: Sequence[str]) -> list[str]:
    """The paper's methods in its order, ours at the end of them as there, then all others, the audit last."""
    run = list(dict.fromkeys(detector for row in rows for detector in row.metrics))
    known = [*(method for method in paper if method != "ours"), "paper", "mlp"]
    others = [detector for detector in run if detector not in known]
    return [*(d for d in known if d in run), *sorted(others, key=lambda detector: detector == AUDIT)]


def _cells(
    row: Row, detectors: Sequence[str], metric: str, kind: str = "auroc", same: dict[str, str] | None = None
) -> dict[str, Cell | None]:
    source = (_ATTACKS if row.made else same or {}).get(row.source, "")
    ours = "paper" if "paper" in row.metrics else "mlp"  # the all-ones label alone is the paper's method
    cells = {}
    for detector in detectors:
        method = "ours" if detector == ours else detector
        number = paper_number(*row.about.of_the_paper, source, method, kind)
        cells[detector] = row.cell(detector, metric, number)
    return cells


def _model(row: Row) -> str:
    return f"{row.about.dataset} ({row.about.network})"
