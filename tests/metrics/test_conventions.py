"""Each convention equals a slow re-computation in its codebase's own terms, from confidences of normal and other images."""

import itertools

import numpy as np
import pytest
from asserts import assert_refused
from sklearn import metrics as judge

from lightning_gradood.metrics import CONVENTIONS, conventional_metrics


def by_lee2018(known, novel):
    """Pass the images one by one from the lowest confidence, of equals the known one first; trapezoids over all steps."""
    queue = sorted([(value, 0) for value in known] + [(value, 1) for value in novel])
    true, false, steps = len(known), len(novel), [(len(known), len(novel))]
    for _, is_novel in queue:
        true, false = (true, false - 1) if is_novel else (true - 1, false)
        steps.append((true, false))
    nearest = min(steps, key=lambda step: abs(step[0] / len(known) - 0.95))  # the first of equals
    curve = [(1.0, 1.0), *((true / len(known), false / len(novel)) for true, false in steps), (0.0, 0.0)]
    inside = [(1.0, 0.5), *((t / len(known), t / (t + f)) for t, f in steps if t + f), (0.0, 0.0)]
    out = [(len(novel) - f, len(known) - t) for t, f in steps]
    outside = [(0.0, 0.0), *((f / len(novel), f / (t + f)) for f, t in out if t + f), (1.0, 0.5)]
    return {
        "tnr_at_tpr95": 1 - nearest[1] / len(novel),
        "auroc": -area([(tpr, 1 - fpr) for tpr, fpr in curve]),
        "detection_accuracy": max((tpr + 1 - fpr) / 2 for tpr, fpr in curve[1:-1]),
        "aupr_in": -area(inside),
        "aupr_out": area(outside),
    }


def by_odin(known, novel):
    """Go through 100,000 thresholds one after the other and sum rectangles, as the original does with its two files."""
    start, end = min([*known, *novel]), max([*known, *novel])
    gap, totals = (end - start) / 100_000, {"auroc": 0.0, "aupr_in": 0.0, "aupr_out": 0.0, "detection_error": 1.0}
    fpr_before, recall_before, at95 = 1.0, 1.0, []
    up, down = np.arange(start, end, gap), np.arange(end, start, -gap)
    pairs = ((known, np.greater_equal), (novel, np.greater_equal), (novel, np.greater), (known, np.less))
    for tpr, fpr, strict, missed in zip(*(shares(values, up, where) for values, where in pairs), strict=True):
        totals["detection_error"] = min(totals["detection_error"], (missed + strict) / 2)
        at95 += [strict] if 0.9495 <= tpr <= 0.9505 else []
        totals["auroc"] += (fpr_before - fpr) * tpr
        fpr_before = fpr
        if tpr + fpr > 0:  # rounding may put the last threshold above all
            precision = tpr / (tpr + fpr)
            totals["aupr_in"] += (recall_before - tpr) * precision
            recall_before = tpr
    totals["auroc"] += fpr * tpr
    totals["aupr_in"] += recall_before * precision
    before = 1.0
    for false, true in zip(shares(known, down, np.less), shares(novel, down, np.less), strict=True):
        if true + false == 0:
            break
        totals["aupr_out"] += (before - true) * true / (true + false)
        before, last = true, true / (true + false)
    totals["aupr_out"] += before * last
    return totals | ({"fpr_at_tpr95": np.mean(at95)} if at95 else {})


def shares(values, cuts, where):
    return np.concatenate([where(values, part[:, None]).mean(axis=1) for part in np.array_split(cuts, 50)]).tolist()


def by_openood(known, novel):
    confidence, is_novel = np.concatenate([known, novel]), np.repeat([0, 1], [len(known), len(novel)])
    fpr, tpr, _ = judge.roc_curve(is_novel, -confidence)
    precision_in, recall_in, _ = judge.precision_recall_curve(1 - is_novel, confidence)
    precision_out, recall_out, _ = judge.precision_recall_curve(is_novel, -confidence)
    return {
        "fpr_at_tpr95": fpr[np.argmax(tpr >= 0.95)],
        "auroc": judge.auc(fpr, tpr),
        "aupr_in": judge.auc(recall_in, precision_in),
        "aupr_out": judge.auc(recall_out, precision_out),
    }


def by_energy(known, novel):
    """Recall at each threshold from the highest that finds all known images upwards; the first nearest to 95 % counts."""
    confidence, is_known = np.concatenate([known, novel]), np.repeat([1, 0], [len(known), len(novel)])
    thresholds = [cut for cut in sorted(set(confidence)) if cut >= min(known)]
    nearest = min(thresholds, key=lambda cut: abs(np.mean(known >= cut) - 0.95))
    return {
        "fpr_at_tpr95": np.mean(novel >= nearest),
        "auroc": judge.roc_auc_score(is_known, confidence),
        "aupr": judge.average_precision_score(is_known, confidence),
    }


def area(points):
    return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(points))


def softmax_like(seed, known, novel, decimals=None):
    rng = np.random.default_rng(seed)
    values = 0.1 + 0.9 * rng.beta(5, 2, known), 0.1 + 0.9 * rng.beta(3, 3, novel)
    return values if decimals is None else tuple(np.round(value, decimals) for value in values)


CASES = {
    "as many": softmax_like(0, 300, 300),
    "more normal": softmax_like(1, 401, 57),
    "more anomalous": softmax_like(2, 40, 333),
    "ties": softmax_like(3, 240, 200, decimals=1),
    "few": (np.array([0.9, 0.7, 0.7]), np.array([0.2, 0.7])),
    "apart": (np.array([0.9, 0.8]), np.array([0.2, 0.1, 0.3])),
    "the wrong way round": (np.array([0.2, 0.1, 0.3]), np.array([0.9, 0.8])),
}


def measured(case, convention):
    known, novel = CASES[case]
    return conventional_metrics(np.r_[-known, -novel], np.repeat([0, 1], [len(known), len(novel)]), convention)


@pytest.mark.parametrize("case", CASES)
def test_each_convention_equals_a_slow_version(case):
    for convention, slow in (("lee2018", by_lee2018), ("openood", by_openood), ("energy", by_energy)):
        assert measured(case, convention) == pytest.approx(slow(*CASES[case]), abs=1e-12), convention
    assert measured(case, "odin") == pytest.approx(by_odin(*CASES[case]), abs=1e-9)


def test_odin_leaves_out_what_the_original_divides_by_zero():
    assert set(measured("few", "odin")) == {"detection_error", "auroc", "aupr_in", "aupr_out"}  # no TPR of 95 %
    assert conventional_metrics([2.0, 2.0], [0, 1], "odin") == {}  # its grid of thresholds is empty


def test_large_and_constant_scores_stay_fractions_and_what_has_no_number_is_refused():
    rng, labels = np.random.default_rng(0), np.repeat([0, 1], 100)
    for convention in CONVENTIONS:
        for scores in (rng.lognormal(0, 20, 200), np.full(200, -3.0), np.where(labels == 1, 1e300, -1e300)):
            assert all(0 <= value <= 1 for value in conventional_metrics(scores, labels, convention).values())
    missing = [(lambda name=name: conventional_metrics([0.0, 1.0], [1, 1], name), "both occur") for name in CONVENTIONS]
    assert_refused(*missing)
