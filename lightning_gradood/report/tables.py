"""Tables: their one model, the results of a run printed, as matrices, and under the names of loggers."""

import csv
import itertools
import math
import re
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import numpy as np
from tabulate import SEPARATING_LINE, tabulate

from lightning_gradood.evaluation import FLAGGED, Failure, Outcome
from lightning_gradood.records import NORMAL, SPLITS

MEAN = "mean"  # in place of a source, in numbers that are means over sources
ABSENT = "-"  # in place of a number that there is not
_SHORTEST = 10  # characters of a name that is broken
_BEFORE = r" (?=[(\[±])"  # where a number may be broken


class Cell(NamedTuple):
    """One cell of a table: `text`, `small` beside it or below it in small type, `best` in bold."""

    text: str
    small: str = ""
    best: bool = False

    def __str__(self) -> str:
        return f"{f'**{self.text}**' if self.best else self.text} {self.small}".rstrip()


@dataclass(frozen=True)
class Table:
    """A table as text or on a page; the first `words` columns hold text and are flush left, the others hold numbers."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    words: int = 1

    def text(self, form: str = "simple") -> str:
        """The table in one of tabulate's formats, the best between `**`."""
        rows = [[str(cell) for cell in row] for row in self.rows]
        if form == "simple":
            return "\n".join(_lines(self.heads, rows, self.words)[:-1])
        align = ["left"] * self.words + ["right"] * (len(self.heads) - self.words)
        return str(tabulate(rows, self.heads, form, colalign=align, disable_numparse=True))


def _lines(heads: Sequence[str], rows: Sequence[Any], words: int, most: int = 100) -> list[str]:
    """Lay out a table for the terminal; heads, then names, else numbers are broken, to stay within `most` characters."""
    cells, columns = [row for row in rows if row != SEPARATING_LINE], range(len(heads))
    own = [max((len(row[place]) for row in cells), default=1) for place in columns]
    parts = [
        max((len(part) for row in cells for part in re.split(_BEFORE, row[place])), default=1) for place in columns
    ]
    widths = [max(width, *map(len, head.split("\n"))) for head, width in zip(heads, own, strict=True)]
    heading = [min(_SHORTEST, max(map(len, re.split(r"\s|(?<=-)", head)))) for head in heads]
    names, gaps = [min(width, _SHORTEST) for width in own[:words]], 2 * (len(widths) - 1)
    for least in (names + own[words:], own[:words] + parts[words:], names + parts[words:]):
        least = [max(pair) for pair in zip(heading, least, strict=True)]
        if sum(least) + gaps <= most:
            break
    excess = sum(widths) + gaps - most
    for _ in range(excess):
        if wide := [place for place, width in enumerate(widths) if width > least[place]]:
            widths[max(wide, key=lambda place: (place >= words, widths[place]))] -= 1
    align = ["left"] * words + ["right"] * (len(heads) - words)
    limits = {"maxcolwidths": widths} if excess > 0 else {}
    # the header is a plain row, as tabulate makes columns under a real one two characters wider
    text = tabulate([heads, SEPARATING_LINE, *rows], (), "simple", colalign=align, disable_numparse=True, **limits)
    return str(text).split("\n")[1:]  # without the rule above


def percent(value: float | None) -> str:
    """Write a share in [0, 1] as a percentage with two decimals, `-` if there is none."""
    return ABSENT if value is None or math.isnan(value) else f"{100 * value:.2f}"


def brackets(low: float, high: float) -> str:
    """Write an interval of shares in [0, 1] in %, with one decimal, `-` if there is none."""
    return ABSENT if math.isnan(low) else f"[{100 * low:.1f}, {100 * high:.1f}]"


def by_detector(outcomes: Iterable[Outcome]) -> dict[str, list[Outcome]]:
    """Group outcomes by detector, those trained on one other source apart; both in order of first appearance."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.label, []).append(outcome)
    return groups


def not_transferred(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Leave out the outcomes of detectors that were trained on one other source, which are shown in a matrix."""
    return [outcome for outcome in outcomes if not outcome.transferred]


def outcome_numbers(outcome: Outcome) -> dict[str, dict[str, float]]:
    """Numbers of one outcome by split: counts, `prevalence`, metrics in [0, 1], interval of the test AUROC."""
    numbers: dict[str, dict[str, float]] = {}
    for split, counts in outcome.counts.items():
        normal, anomalous = counts["normal"], counts["anomalous"]
        shares = {"prevalence": anomalous / (normal + anomalous)} if normal + anomalous else {}
        numbers[split] = {"n_normal": normal, "n_anomalous": anomalous, **shares, **outcome.metrics.get(split, {})}
    numbers["test"] |= dict(zip(("auroc_low", "auroc_high"), outcome.auroc_interval, strict=True))
    return numbers


def grouped(outcomes: Sequence[Outcome], groups: Mapping[str, Sequence[str]]) -> dict[str, list[Outcome]]:
    """The outcomes on the sources of each group, those groups left out of which there are none."""
    found = {name: [one for one in outcomes if one.source in sources] for name, sources in groups.items()}
    return {name: members for name, members in found.items() if members}


def mean_numbers(outcomes: Sequence[Outcome]) -> dict[str, dict[str, float]]:
    """Average one detector's metrics over sources with equal weight; a metric that a source lacks has no mean."""
    return {
        split: {
            name: sum(one.metrics[split][name] for one in outcomes) / len(outcomes)
            for name in metrics
            if all(name in one.metrics[split] for one in outcomes)
        }
        for split, metrics in outcomes[0].metrics.items()
    }


def detection_scalars(outcomes: Sequence[Outcome], groups: Mapping[str, Sequence[str]] = {}) -> dict[str, float]:
    """Every final number as `detection/<source, group or mean>/<detector>/<val|test>/<metric>`, for loggers and sweeps.

    The mean exists for a single source too, so that a sweep always has its key.
    """
    found = [(one.source, one.label, outcome_numbers(one)) for one in outcomes]
    for detector, own in by_detector(outcomes).items():
        means = grouped(own, groups) | {MEAN: own}
        found += [(name, detector, mean_numbers(members)) for name, members in means.items()]
    return {
        f"detection/{source}/{detector}/{split}/{metric}": value
        for source, detector, numbers in found
        for split in ("val", "test")
        for metric, value in numbers[split].items()
    }


def matrices(outcomes: Sequence[Outcome]) -> dict[str, Table]:
    """AUROC in % of each detector that was trained on one source (rows) and tested on another (columns), and means."""
    found = {}
    for detector in dict.fromkeys(one.detector for one in outcomes if one.transferred):
        own = [one for one in outcomes if one.detector == detector]
        aurocs = {(one.trained_on, one.source): 100 * one.metrics["test"]["auroc"] for one in own}
        sources, rows = list(dict.fromkeys(one.source for one in own)), []
        for trained in sources:
            values = [aurocs.get((trained, tested), math.nan) for tested in sources]
            others = np.nanmean([value for tested, value in zip(sources, values, strict=True) if tested != trained])
            rows.append([trained, *(f"{value:.1f}" for value in (*values, others))])
        found[detector] = Table(["trained on", *sources, "others"], rows)
    return found


class Auroc(NamedTuple):
    """An AUROC on `test` with its 95 % interval, shares in [0, 1]; a mean has no interval, NaN."""

    value: float
    low: float = math.nan
    high: float = math.nan


def compared(
    runs: Sequence[Sequence[Outcome]], groups: Mapping[str, Sequence[str]] = {}
) -> dict[tuple[str, str], list[Auroc | None]]:
    """Source and detector to the AUROC in each run, then means of groups, and as source `mean`; no transferred detectors.

    Means are over the sources that all runs with the detector share; as these share their normal images, they have no
    interval.
    """
    found = [
        {(one.source, one.detector): Auroc(one.metrics["test"]["auroc"], *one.auroc_interval) for one in outcomes}
        for outcomes in map(not_transferred, runs)
    ]
    pairs = dict.fromkeys(pair for aurocs in found for pair, one in aurocs.items() if not math.isnan(one.value))
    sources, detectors = (list(dict.fromkeys(names)) for names in zip(*pairs, strict=True))
    ordered = [(source, name) for source in sources for name in detectors if (source, name) in pairs]
    rows = {pair: [aurocs.get(pair) for aurocs in found] for pair in ordered}
    for mean, name in itertools.product([*groups, MEAN], detectors):
        having = [aurocs for aurocs in found if any(detector == name for _, detector in aurocs)]
        members = [source for source in sources if source in groups.get(mean, sources)]
        shared = [source for source in members if all((source, name) in aurocs for aurocs in having)]
        values = [[aurocs[source, name].value for source in shared if aurocs in having] for aurocs in found]
        if shared:
            rows[mean, name] = [Auroc(float(np.mean(one))) if one else None for one in values]
    return rows


_COLUMNS = {  # of the full table alone, to metrics of `test`
    "AUPR-in": "aupr_in",
    "AUPR-out": "aupr_out",
    "acc(oracle)": "detection_accuracy",
    "acc(0.5)": "accuracy_at_0.5",
    "acc(val)": "accuracy_at_val_threshold",
    **{f"FPR({100 * rate:.0f}%)": name for name, rate in FLAGGED.items()},
}
TEXT = ("source", "detector", "trained on")  # columns of words
_SHIFTED, _ALARMS, _OPENOOD = "full spectrum", "flagged (normal)", "OpenOOD"
_SHORT = ("source", "detector", "trained on", "AUROC", _OPENOOD, "95 % interval", _SHIFTED, "FPR95", _ALARMS)
FAILED = "failed"  # in place of the AUROC of a detector that could not be fitted or tested
DEFINITIONS = [
    "n = normal+anomalous images. AUPR-in: normal is positive; AUPR-out: anomalous is. Accuracies: oracle = best balanced "
    "accuracy of any threshold; 0.5 = the MLP's own; val = threshold chosen on val.",
    "FPR(1%), FPR(5%) = share of normal test images flagged by conformal thresholds for these rates, from normal val images. "
    "success = share of perturbed images that the classifier no longer gives their class.",
    "Intervals: bootstrap, or Newcombe's (2006) where few images are on the wrong side and a bootstrap is too narrow.",
]
"""Of the columns that the full table has beside those of the short one."""


def printed_rows(
    outcomes: Sequence[Outcome],
    failures: Sequence[Failure] = (),
    groups: Mapping[str, Sequence[str]] = {},
    leaderboard: str | None = None,
    rate: float = 0.05,
    first: str = "",
) -> tuple[list[dict[str, str]], list[str]]:
    """Lay out results as text by column, and notes on them and on the short table's columns; no transferred detectors.

    Rows are per detector, the one called `first` before others, and source; then per failure; then means over each group
    and, as source `mean`, over all of several sources. Columns that say nothing are left out; that of OpenOOD's numbers is
    of its benchmark `leaderboard`. Images are flagged by conformal thresholds for `rate` of normal images.
    """
    own = by_detector(_with_flagged(one, rate) for one in not_transferred(outcomes))
    own = {name: own[name] for name in sorted(own, key=lambda name: name != first)}
    rows = [
        _row(one.source, one.trained_on or one.source, one.metrics["test"], one)
        for group in own.values()
        for one in group
    ]
    rows += [_row(one.source, one.trained_on, {}, one) | {"AUROC": FAILED} for one in failures]
    for name in (*groups, MEAN):
        for group in own.values():
            members = (grouped(group, groups) | {MEAN: group}).get(name, [])
            if len(members) > (name == MEAN):
                known = {one.trained_on or ABSENT for one in members}
                shared = known.pop() if len(known) == 1 else ABSENT
                rows.append(_row(name, shared, mean_numbers(members)["test"], group[0], mean=True))
    notes = [f"{FAILED}: `{one.detector}` on `{one.source}`: {one.reason}" for one in failures]
    notes.append(
        "In % on the test split. FPR95: share of the source's images that pass for normal where 95 % of normal images do. "
        f"{_ALARMS}: share of its images, and of normal ones, above the threshold for {100 * rate:.3g} % false alarms."
    )
    if any(row[_SHIFTED] != ABSENT for row in rows):
        notes.append(
            f"{_SHIFTED} = AUROC where test images of the group `shifted` count as normal, as OpenOOD's fsood."
        )
    notes += _add_published(rows, leaderboard)
    told = [name for name in rows[0] if name not in ("source", "detector")]
    silent = [name for name in told if all(row[name] in (ABSENT, row["source"]) for row in rows)]
    return [{name: text for name, text in row.items() if name not in silent} for row in rows], notes


def _with_flagged(outcome: Outcome, rate: float) -> Outcome:
    """Add `flagged` and `normal_flagged` to its `test`, where there are scores and enough normal images for the rate."""
    limit = rate * (1 + 1e-9)  # 1 / 100 and 0.01 may differ in the last bit
    if not outcome.scores or 1 / (len(outcome.scores["val"].normal) + 1) > limit:
        return outcome
    labels, alarms = outcome.scores["test"].labels, outcome.p_values("test") <= limit
    shares = {"flagged": alarms[labels == 1].mean(), "normal_flagged": alarms[labels == 0].mean()}
    return replace(outcome, metrics=outcome.metrics | {"test": outcome.metrics["test"] | shares})


def _row(
    source: str, trained_on: str, test: Mapping[str, float], about: Outcome | Failure, mean: bool = False
) -> dict[str, str]:
    """A row of metrics of `test`; that of an outcome has numbers of images and an interval, a mean has none."""
    outcome = about if isinstance(about, Outcome) and not mean else None
    counts = outcome.counts if outcome else {}
    return {
        "source": source,
        "detector": about.detector,
        "trained on": trained_on,
        "AUROC": percent(test.get("auroc")),
        _OPENOOD: ABSENT,
        "95 % interval": brackets(*outcome.auroc_interval) if outcome else ABSENT,
        _SHIFTED: percent(test.get("full_spectrum/auroc")),
        "FPR95": percent(test.get("fpr95_in")),
        _ALARMS: f"{100 * test['flagged']:.1f} ({100 * test['normal_flagged']:.1f})" if "flagged" in test else ABSENT,
        **{column: percent(test.get(metric)) for column, metric in _COLUMNS.items()},
        "success": percent(test.get("attack_success")) if outcome else ABSENT,
        **{f"n {split}": "+".join(map(str, counts[split].values())) if split in counts else ABSENT for split in SPLITS},
    }


@cache
def published(name: str, *keys: str) -> dict[tuple[str | None, ...], dict[str, str]]:
    """Rows of a table of others' numbers that comes with the package, by some of their columns."""
    text = (resources.files("lightning_gradood.report") / name).read_text()
    return {tuple(row[key] for key in keys): row for row in csv.DictReader(text.splitlines())}


def _add_published(rows: Sequence[dict[str, str]], benchmark: str | None) -> list[str]:
    """Add OpenOOD's published AUROCs to the rows of the groups `near` and `far`; returns their source, and doubts."""
    places, doubts = dict[str, None](), dict[str, None]()
    known = published("openood_leaderboard.csv", "benchmark", "detector")
    for row in rows:
        group, found = row["source"], known.get((benchmark, row["detector"]))
        if found and group in ("near", "far"):
            disputed = found["disputed"].startswith(f"{group}:")
            row[_OPENOOD] = found[group] + " (disputed)" * disputed
            places[f"a {found['network']} ({found['source']} of {found['date']})"] = None
            doubts |= {f"Disputed: {found['postprocessor']}, {found['disputed']}.": None} if disputed else {}
    if not places:
        return []
    place = "github.com/zjysteven/OpenOOD, branch leaderboard"
    about = f"its leaderboard ({place}), cross-entropy training of {', '.join(places)}; ± over three trainings."
    return [f"{_OPENOOD} = AUROC of {about}", *doubts]


def console_table(
    rows: Sequence[Mapping[str, str]],
    notes: Sequence[str],
    matrices_below: Mapping[str, Table] = {},
    full: bool = False,
) -> str:
    """Lay results out as plain text of at most 100 columns for usual names, or with all columns, and `matrices` below."""
    heads = [head for head in rows[0] if full or head in _SHORT]
    if not full and all(row.get("trained on") in (None, ABSENT, NORMAL, row["source"]) for row in rows):
        heads = [head for head in heads if head != "trained on"]
    notes = [*notes, *(DEFINITIONS if full else ["All numbers: --report.table full, results.csv, and the page."])]
    cells: list[Any] = []
    for _, group in itertools.groupby(rows, key=lambda row: row["AUROC"] != FAILED and row["95 % interval"] == ABSENT):
        cells += [*([row[head] for head in heads] for row in group), SEPARATING_LINE]
    table = _lines(heads, cells[:-1], sum(head in TEXT for head in heads), most=sys.maxsize if full else 100)
    where = "trained on the row's source, tested on the column's"
    below = [
        f"\n{name}: AUROC in %, {where}; others = mean but its own\n{matrix.text()}"
        for name, matrix in matrices_below.items()
    ]
    return "\n".join([*table, *(textwrap.fill(note, 100) for note in notes), *below])
