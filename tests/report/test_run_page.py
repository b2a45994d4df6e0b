"""The page of a run says all that the console and the files say, and escapes whatever names are."""

import dataclasses
import re

import pytest

from lightning_gradood.report import GuardSummary, draw_figures, run_page, write_run_page
from lightning_gradood.report.figures import as_png, as_pngs, write_figures
from lightning_gradood.report.tables import result_table

from .examples import outcome, report

METRICS = {"digit": {"test/auroc": 0.9123, "test/flagged": 0.5}, "normal": {"test/flagged": 0.023}}
GUARD = GuardSummary("`mlp`, fitted on digit. It may flag 5 % of normal images.", "images", METRICS, "gradood score X")
PIXEL = as_png(draw_figures(report())["samples"])


def headings(page):
    return re.findall(r"<h[123]>(.*?)</h", page)


def words(page):
    """The text of a page, without marks and styles."""
    return " ".join(re.sub("<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL).split())


def test_every_number_of_the_printed_table_is_on_the_page(tmp_path):
    found = report()
    page = run_page(found, GUARD, {}, tmp_path)
    table = result_table(found.outcomes)
    shown = words(page)
    assert len(table.rows) == 4
    for row in (*table.rows, *table.means):
        for head, text in zip(table.heads, row, strict=True):
            assert text in shown, head
    for note in table.notes:
        assert note.replace("'", "&#39;") in shown


def test_the_best_of_each_source_is_bold_and_the_best_mean_is_named(tmp_path):
    outcomes = [outcome("svhn", "mlp", 3.0), outcome("lsun", "mlp", 0.5), outcome("svhn", "energy", 0.2)]
    outcomes += [outcome("lsun", "energy", 3.0, seed=1)]
    page = run_page(dataclasses.replace(report(), outcomes=outcomes), GUARD, {}, tmp_path)
    aurocs = {(one.source, one.detector): one.metrics["test"]["auroc"] for one in outcomes}
    bold = re.findall("<strong>(.*?)</strong>", page)
    mean = {name: (aurocs["svhn", name] + aurocs["lsun", name]) / 2 for name in ("mlp", "energy")}
    highest = max(mean, key=mean.get)
    assert bold == [f"{100 * value:.2f}" for value in (aurocs["svhn", "mlp"], aurocs["lsun", "energy"], mean[highest])]
    assert f"mean AUROC over 2 sources on the test split, {100 * mean[highest]:.2f} %, is that of {highest}" in page


def test_a_matrix_and_attacks_are_there_where_the_run_has_them(tmp_path):
    plain = run_page(report(), GUARD, {}, tmp_path)
    assert not {"What attacks did", "Trained on one source, tested on another"} & set(headings(plain))
    pairs = [("svhn", "svhn"), ("lsun", "svhn"), ("svhn", "lsun"), ("lsun", "lsun")]
    outcomes = [dataclasses.replace(outcome(one, seed=n), trained_on=of) for n, (one, of) in enumerate(pairs)]
    made = {
        "svhn": {
            "attack": "a.b.FGSM",
            "settings": {"eps": 0.125},
            "images": 77,
            "attack_success": 0.5,
            "attack_l2": 1.25,
        },
        "outliers": {"attack": "a.b.Blur", "settings": {}, "images": 77},
    }
    provenance = {**report().provenance, "perturbations": made}
    page = run_page(dataclasses.replace(report(), outcomes=outcomes, provenance=provenance), GUARD, {}, tmp_path)
    assert {"What attacks did", "Trained on one source, tested on another"} <= set(headings(page))
    assert "FGSM eps=0.125 77 50.00 1.250 -" in words(page)
    assert "Blur" not in page  # a detector is trained on it, none is tested on it
    for one in outcomes:
        assert f"{100 * one.metrics['test']['auroc']:.1f}" in words(page)


def test_the_guard_is_there_with_its_table_or_with_the_reason_why_not(tmp_path):
    shown = words(run_page(report(), GUARD, {}, tmp_path))
    assert "mlp , fitted on digit. It may flag 5 % of normal images." in shown
    assert "images AUROC flagged, % digit 91.23 50.0 normal - 2.3" in shown
    assert "gradood score X" in shown
    shown = words(run_page(report(), GuardSummary("No guard is saved: too few images."), {}, tmp_path))
    assert "No guard is saved: too few images." in shown
    assert "It scores any image" not in shown


def test_names_are_escaped(tmp_path):
    name = '<script>alert("x")</script>'
    found = dataclasses.replace(report(), experiment=name, outcomes=[outcome(name, name)])
    page = run_page(found, GuardSummary(f"No guard is saved: `{name}`."), {f"roc_{name}": PIXEL}, tmp_path)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 5


def test_figures_stand_in_sections_and_none_is_left_out(tmp_path):
    figures = dict.fromkeys(("roc_mlp", "samples", "scores_mlp", "of_another_version", "roc_energy"), PIXEL)
    page = run_page(report(), GUARD, figures, tmp_path)
    assert page.count('src="data:image/png;base64,') == 5
    wanted = ["ROC curves", "Scores", "Images", "More figures"]
    assert [one for one in headings(page) if one in wanted] == wanted
    assert "<img" not in run_page(report(), GUARD, {}, tmp_path)


@pytest.mark.parametrize("kept", [True, False])
def test_pictures_are_the_files_or_drawn_where_none_is_png(tmp_path, kept):
    small = dataclasses.replace(report(), outcomes=report().outcomes[:1], norms={}, layer_names=[], samples={})
    paths = write_figures(small, tmp_path)
    found = as_pngs(small, paths if kept else [path.with_suffix(".pdf") for path in paths])
    assert list(found) == list(draw_figures(small))
    assert all(png.startswith(b"\x89PNG") for png in found.values())
    if kept:
        assert [found[path.stem] for path in paths] == [path.read_bytes() for path in paths]
    assert as_pngs(small, []) == {}


def test_a_page_that_cannot_be_made_leaves_the_older_one(tmp_path):
    write_run_page(report(), GUARD, {}, tmp_path)
    before = (tmp_path / "report.html").read_bytes()
    with pytest.raises(Exception, match="unpack"):
        write_run_page(report(), GUARD, {"samples": b"no picture"}, tmp_path)
    assert (tmp_path / "report.html").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
