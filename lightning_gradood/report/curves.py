"""ROC and precision-recall curves, all sources of one detector in one picture."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_gradood.detectors import Outcome
from lightning_gradood.metrics import precision_recall_curve, roc_curve
from lightning_gradood.report.palette import NORMAL_COLOUR, line_styles, new_figure, tidy
from lightning_gradood.report.tables import percent


def roc_curves(outcomes: "Sequence[Outcome]") -> Figure:
    """Draw true against false positives on the test split, anomalous as the positive class.

    Args:
        outcomes: of one detector, one per source.

    Returns:
        One axes: a line per source, labelled with its AUROC and interval in %, and the diagonal of chance.
    """
    figure, axes = _square(f"ROC of {outcomes[0].detector}, test split")
    styles = line_styles([outcome.source for outcome in outcomes])
    axes.plot([0, 1], [0, 1], color=NORMAL_COLOUR, linewidth=0.8, linestyle=(0, (4, 4)), label="_chance")
    for outcome in outcomes:
        test = outcome.scores["test"]
        false_positives, true_positives = roc_curve(test.scores, test.labels)[:2]
        low, high = (percent(bound) for bound in outcome.auroc_interval)
        label = f"{outcome.source}  {percent(outcome.metrics['test']['auroc'])} [{low}, {high}]"
        colour, dash = styles[outcome.source]
        axes.plot(false_positives, true_positives, color=colour, linestyle=dash, linewidth=1.8, label=label)
    axes.set_xlabel("normal images taken for anomalous")
    axes.set_ylabel("anomalous images found")
    axes.legend(loc="lower right", fontsize=8, title="AUROC in %, 95 % interval", title_fontsize=8)
    return figure


def precision_recall_curves(outcomes: "Sequence[Outcome]") -> Figure:
    """Draw precision against recall on the test split, anomalous as the positive class.

    Args:
        outcomes: of one detector, one per source.

    Returns:
        One axes: a step line per source, labelled with its average precision (AUPR-out) and its prevalence in %.
    """
    figure, axes = _square(f"Precision and recall of {outcomes[0].detector}, test split")
    styles = line_styles([outcome.source for outcome in outcomes])
    for outcome in outcomes:
        test = outcome.scores["test"]
        precision, recall = precision_recall_curve(test.scores, test.labels)[:2]
        prevalence = f"{100 * test.labels.mean():.0f}"
        label = f"{outcome.source}  {percent(outcome.metrics['test']['aupr_out'])} ({prevalence})"
        colour, dash = styles[outcome.source]
        # Steps, not slopes: average precision is the area under the steps.
        axes.step(recall, precision, where="post", color=colour, linestyle=dash, linewidth=1.8, label=label)
    axes.set_xlabel("recall: anomalous images found")
    axes.set_ylabel("precision: alarms that are right")
    axes.legend(loc="lower left", fontsize=8, title="AUPR-out in % (share of anomalous images in %)", title_fontsize=8)
    return figure


def _square(title: str) -> tuple[Figure, Axes]:
    figure = new_figure(5.4, 5.4)
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=11)
    axes.set_aspect("equal")
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    tidy(axes)
    return figure, axes
