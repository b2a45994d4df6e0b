"""A robustness card as a table and a figure."""

from __future__ import annotations

from matplotlib.figure import Figure

from lightning_gradood.audit import Robustness
from lightning_gradood.report.score_figures import NORMAL_COLOUR, styles_of
from lightning_gradood.report.tables import ABSENT, Table, percent

_ABOUT = {"evade": "misclassified and not flagged, %", "hide": "not flagged, %", "alarm": "flagged, %"}


def card_table(card: Robustness) -> Table:
    """What each attack reached at each radius."""
    rates, errs = list(card.rows[0].shares), card.goal == "evade"
    rows = [
        [
            one.attack,
            f"{one.radius:.4f}" if one.radius else ABSENT,
            *(percent(one.shares[rate]) for rate in rates),
            *([percent(one.misclassified)] if errs else []),
            percent(one.auroc),
        ]
        for one in sorted(card.rows, key=lambda one: one.radius)
    ]
    heads = [f"{card.goal} at {100 * float(rate):g} % false alarms, %" for rate in rates]
    return Table(["attack", "eps", *heads, *(["misclassified, %"] if errs else []), "AUROC, %"], rows)


def card_figure(card: Robustness) -> Figure:
    """Draw the shares of all attacks together against the radius, and of each against its steps at the largest radius."""
    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    together = sorted((one for one in card.rows if one.attack == "all"), key=lambda one: one.radius)
    for rate, style in zip(together[0].shares, ("-", "--"), strict=False):
        low, high = zip(*(one.intervals[rate] for one in together), strict=True)
        radii, shares = [one.radius for one in together], [100 * one.shares[rate] for one in together]
        left.plot(radii, shares, style, marker="o", color=NORMAL_COLOUR, label=f"{100 * float(rate):g} % false alarms")
        left.fill_between(
            radii, [100 * one for one in low], [100 * one for one in high], color=NORMAL_COLOUR, alpha=0.15
        )
    left.set(xlabel=f"largest change ({card.norm})", ylabel=_ABOUT[card.goal], ylim=(-2, 102))
    left.legend(frameon=False, fontsize=8)
    largest = [one for one in card.rows if one.radius == together[-1].radius and one.by_step]
    styles = styles_of([one.attack for one in largest])
    for one in largest:
        places = [100 * number / max(len(one.by_step) - 1, 1) for number in range(len(one.by_step))]
        colour, dash, _ = styles[one.attack]
        right.plot(places, [100 * share for share in one.by_step], color=colour, linestyle=dash, label=one.attack)
    right.set(xlabel=f"steps of the attack, %, at {together[-1].radius:.4f}")
    right.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    return figure
