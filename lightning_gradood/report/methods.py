"""ROC curves of all detectors on one source, in one picture."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from lightning_gradood.metrics import auroc, roc_curve
from lightning_gradood.report.palette import NORMAL_COLOUR, line_styles, new_figure, tidy
from lightning_gradood.report.tables import percent

_PER_COLUMN = 9  # names in the legend


def method_rocs(source: str, scores: "Mapping[str, Mapping[str, object]]") -> Figure:
    """Draw true against false positives of every detector, anomalous as the positive class.

    Args:
        source: its name, for the title.
        scores: detector to `labels` int64 [n] and `scores` float64 [n].

    Returns:
        One axes: a line per detector, labelled with its AUROC in %, and the diagonal of chance.
    """
    figure = new_figure(5.4, 6.4)
    axes = figure.add_subplot()
    axes.set_title(f"ROC on {source}, test split", fontsize=11)
    axes.set_aspect("equal")
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    tidy(axes)
    axes.plot([0, 1], [0, 1], color=NORMAL_COLOUR, linewidth=0.8, linestyle=(0, (4, 4)), label="_chance")
    styles = line_styles(list(scores))
    for detector, one in scores.items():
        false_positives, true_positives = roc_curve(one["scores"], one["labels"])[:2]  # type: ignore[arg-type]
        colour, dash = styles[detector]
        label = f"{detector} {percent(auroc(one['scores'], one['labels']))}"  # type: ignore[arg-type]
        axes.plot(false_positives, true_positives, color=colour, linestyle=dash, linewidth=1.6, label=label)
    axes.set_xlabel("normal images taken for anomalous")
    axes.set_ylabel("anomalous images found")
    columns = 2 if len(scores) <= 2 * _PER_COLUMN else 3
    figure.legend(loc="outside lower center", ncols=columns, fontsize=8, frameon=False, title="AUROC in %")
    return figure
