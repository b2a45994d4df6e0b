"""The numbers of a report under their names: one list that files, tables and loggers share."""

from collections.abc import Sequence

from lightning_gradood.detectors import Outcome
from lightning_gradood.report.bundle import MEAN, by_detector, not_transferred

Numbers = dict[str, dict[str, float]]
"""Split to metric to value."""


def outcome_numbers(outcome: Outcome) -> Numbers:
    """Collect the numbers of one outcome.

    Args:
        outcome: of one detector on one source.

    Returns:
        Split (`train`, `val`, `test`) to metric to value: `n_normal` and `n_anomalous` (counts) everywhere,
        `prevalence` (share of anomalous images) and the metrics, in [0, 1], where there are any, and on `test` the
        interval `auroc_low`, `auroc_high`.
    """
    numbers: Numbers = {}
    for split, counts in outcome.counts.items():
        normal, anomalous = counts["normal"], counts["anomalous"]
        numbers[split] = {"n_normal": normal, "n_anomalous": anomalous}
        if normal + anomalous > 0:
            numbers[split]["prevalence"] = anomalous / (normal + anomalous)
    for split, metrics in outcome.metrics.items():
        numbers.setdefault(split, {}).update(metrics)
    low, high = outcome.auroc_interval
    numbers.setdefault("test", {}).update(auroc_low=low, auroc_high=high)
    return numbers


def mean_numbers(outcomes: "Sequence[Outcome]") -> Numbers:
    """Average the metrics of one detector over its sources, each source counting the same.

    Args:
        outcomes: of one detector, at least one.

    Returns:
        Split to metric to arithmetic mean; a metric that some source lacks has no mean.
    """
    means: Numbers = {}
    for split, metrics in outcomes[0].metrics.items():
        everywhere = [name for name in metrics if all(name in other.metrics.get(split, {}) for other in outcomes)]
        means[split] = {
            name: sum(outcome.metrics[split][name] for outcome in outcomes) / len(outcomes) for name in everywhere
        }
    return means


def detection_scalars(outcomes: list[Outcome]) -> dict[str, float]:
    """Name every final number as loggers and sweeps know it.

    Args:
        outcomes: of all sources and detectors.

    Returns:
        `detection/<source>/<detector>/<val|test>/<metric>` and `detection/mean/<detector>/<val|test>/<metric>` to
        value; the mean is there for a single source too, so that a sweep has one key to optimise. A detector that was
        trained on one other source is `<detector>@<that source>`.
    """
    scalars = {}
    for outcome in outcomes:
        scalars.update(_named(outcome.source, outcome.label, outcome_numbers(outcome)))
    for detector, group in by_detector(outcomes).items():
        scalars.update(_named(MEAN, detector, mean_numbers(group)))
    return scalars


def curve_rows(outcomes: list[Outcome]) -> list[tuple[int, dict[str, float]]]:
    """Line up the training curves of all detectors by epoch.

    Args:
        outcomes: of all sources and detectors; those that trained nothing have no curves.

    Returns:
        (epoch, `detector/<source>/<detector>/<metric>` to value), epochs increasing, each once.
    """
    rows: dict[int, dict[str, float]] = {}
    for outcome in not_transferred(outcomes):  # the others share the curves of the source they were trained on
        for position, point in enumerate(outcome.curves):
            row = rows.setdefault(int(point.get("epoch", position)), {})
            for metric, value in point.items():
                if metric != "epoch":
                    row[f"detector/{outcome.source}/{outcome.detector}/{metric}"] = value
    return sorted(rows.items())


def _named(source: str, detector: str, numbers: Numbers) -> dict[str, float]:
    return {
        f"detection/{source}/{detector}/{split}/{metric}": value
        for split, metrics in numbers.items()
        if split in ("val", "test")
        for metric, value in metrics.items()
    }
