"""The page of a run and of several: all that the console and the files say, the best in bold, names escaped."""

import math
import re
from functools import partial
from pathlib import Path

import pytest
from asserts import assert_refused

from lightning_gradood.records import write_columns
from lightning_gradood.report import GuardSummary, Run, as_png, comparison_page, comparison_text, read_runs
from lightning_gradood.report.image_figures import sample_sheet
from lightning_gradood.report.pages import run_page
from lightning_gradood.report.run_comparison import auroc_figures, compared, compared_means
from lightning_gradood.report.tables import Table, result_table

from .examples import OUTCOMES, SAMPLES, crossed, outcome, run, written

METRICS = {"digit": {"test/auroc": 0.9123, "test/flagged": 0.5}, "normal": {"test/flagged": 0.023}}
GUARD = GuardSummary("`mlp`, fitted on digit. It may flag 5 % of normal images.", "images", METRICS, "mlp", 0.05)
NO_GUARD = GuardSummary("No guard is saved: too few images.")


def words(page):
    """The text of a page, without marks and styles."""
    return " ".join(re.sub("<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL).split())


def bold(page):
    return re.findall("<strong>(.*?)</strong>", page)


def headings(page):
    return re.findall(r"<h[123]>(.*?)</h", page)


def test_every_number_of_the_printed_table_the_guard_and_attacks_is_on_the_page_where_there_is_one():
    found = run(guard=GUARD)
    page = run_page(found, {})
    table, shown = result_table(found.outcomes), words(page)
    assert len(table.rows) == 4
    assert [row[head] for row in (*table.rows, *table.means) for head in table.heads if row[head] not in shown] == []
    assert [note for note in table.notes if note.replace("'", "&#39;") not in shown] == []
    assert "mlp , fitted on digit. It may flag 5 % of normal images." in shown
    assert "images AUROC flagged, % digit 91.23 50.0 normal - 2.3" in shown
    assert f"lightning_gradood score --guard {found.folder}/guard FOLDER" in shown
    sometimes = {"What attacks did", "Trained on one source, tested on another"}
    assert not sometimes & set(headings(page))
    assert "<img" not in page
    shown = words(run_page(run(guard=NO_GUARD), {}))
    assert "No guard is saved: too few images." in shown
    assert "It scores any image" not in shown
    attack = {
        "class_path": "a.b.FGSM",
        "init_args": {"eps": 0.125},
        "images": 77,
        "attack_success": 0.5,
        "attack_l2": 1.25,
    }
    made = {"svhn": attack, "outliers": {"class_path": "a.b.Blur", "init_args": {}, "images": 77}}
    outcomes = crossed(["svhn", "lsun"])
    page = run_page(run(outcomes, provenance={"perturbations": made}), {})
    assert sometimes <= set(headings(page))
    assert "FGSM eps=0.125 77 50.00 1.250 -" in words(page)
    assert "Blur" not in page  # a detector is trained on it, none is tested on it
    numbers = [f"{100 * one.metrics['test']['auroc']:.1f}" for one in outcomes if one.detector == "mlp"]
    assert [text for text in numbers if text not in words(page)] == []


def test_the_best_of_each_source_is_bold_and_the_best_mean_is_named():
    outcomes = [outcome("svhn", "mlp", 3.0), outcome("lsun", "mlp", 0.5), outcome("svhn", "energy", 0.2)]
    outcomes += [outcome("lsun", "energy", 3.0, seed=1)]
    page = run_page(run(outcomes), {})
    aurocs = {(one.source, one.detector): one.metrics["test"]["auroc"] for one in outcomes}
    mean = {name: (aurocs["svhn", name] + aurocs["lsun", name]) / 2 for name in ("mlp", "energy")}
    highest = max(mean, key=mean.get)
    best = (aurocs["svhn", "mlp"], aurocs["lsun", "energy"], mean[highest])
    assert bold(page) == [f"{100 * value:.2f}" for value in best]
    assert f"mean AUROC over 2 sources on the test split, {100 * mean[highest]:.2f} %, is that of {highest}" in page


def test_names_are_escaped_and_figures_stand_in_sections():
    name = '<script>alert("x")</script>'
    pixel = as_png(sample_sheet(SAMPLES))
    figures = dict.fromkeys((f"roc_{name}", "samples", "scores_mlp", "aurocs", "roc_energy"), pixel)
    page = run_page(run([outcome(name, name)], name=name), figures)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 5
    assert page.count('src="data:image/png;base64,') == 5
    wanted = ["Source by source", "ROC curves", "Scores", "Images"]
    assert [one for one in headings(page) if one in wanted] == wanted
    lines = Table(["model", "source"], [["a", "x"], ["a", "y"], ["b", "x"]]).lines  # a head that repeats is shown once
    shown = [[(cell.text, cell.rows) for cell in line] for line in lines]
    assert shown == [[("a", 2), ("x", 1)], [("y", 1)], [("b", 1), ("x", 1)]]


@pytest.fixture
def folders(tmp_path):
    """Two runs that share two of three sources."""
    one = [outcome("svhn", seed=1), outcome("lsun", gap=1.0, seed=2), outcome("svhn", "energy", 1.0)]
    two = [outcome("svhn", gap=1.5, seed=3), outcome("lsun", gap=2.5, seed=4), outcome("bim", seed=5)]
    first = {"seed": 0, "data": {"limit": 20, "attacks": None}, "run_dir": "a", "gone": {"x": 1}}
    second = {"seed": 0, "data": {"limit": 30, "attacks": None}, "run_dir": "b", "models": ["<b>"]}
    known = {"classifier": {"images": 50, "accuracy": 0.75}}
    return [
        written(tmp_path / "x/a", one, config=first, provenance=known),
        written(tmp_path / "x/b", two, config=second, provenance={}),
    ]


def aurocs_of(folder):
    """Source and detector to AUROC."""
    return {(one.source, one.detector): one.metrics["test"]["auroc"] for one in Run.read(folder).outcomes}


def test_runs_are_compared_by_their_files_and_means_are_over_shared_sources(folders):
    runs, (one, two) = read_runs(folders), map(aurocs_of, folders)
    means = [(found["svhn", "mlp"] + found["lsun", "mlp"]) / 2 for found in (one, two)]
    values = {pair: [found and found.value for found in row] for pair, row in compared(runs).items()}
    pairs = [("svhn", "mlp"), ("svhn", "energy"), ("lsun", "mlp"), ("bim", "mlp")]
    assert values == {pair: [one.get(pair), two.get(pair)] for pair in pairs} | {("mean", "mlp"): pytest.approx(means)}
    assert compared_means(runs)["energy"][0] == ["svhn"]
    assert compared_means(runs[::-1])["mlp"][0] == ["svhn", "lsun"]  # the second run alone has tested `bim`
    lines = [line.split() for line in comparison_text(runs).splitlines()]
    assert lines[0][-2:] == ["a", "b"]
    difference = f"({100 * (means[1] - means[0]):+.2f})"
    assert lines[2] == ["mlp", "2", f"{100 * means[0]:.2f}", f"{100 * means[1]:.2f}", difference]
    assert lines[3] == ["energy", "1", f"{100 * one['svhn', 'energy']:.2f}", "-"]
    assert lines[4] == ["classifier's", "accuracy", "75.00", "-"]
    page = comparison_page(runs)
    best = [max(one[pair], two[pair]) for pair in (("svhn", "mlp"), ("lsun", "mlp"))]
    assert bold(page) == [f"{100 * value:.2f}" for value in (*best, max(means))]
    assert f"{100 * (two['lsun', 'mlp'] - one['lsun', 'mlp']):+.2f}" in page
    assert "75.00 % accurate on 50 normal images" in page
    assert page.count("<img") == 2
    row = r'<th class="key" rowspan="1">(.*?)</th><td class="text">(.*?)</td><td class="text">(.*?)</td>'
    assert re.findall(row, page[page.index("Keys whose values differ") :]) == [
        ("data.limit", "20", "30"),
        ("gone.x", "1", "(not there)"),
        ("models", "(not there)", "[&#34;&lt;b&gt;&#34;]"),
    ]
    (folders[1] / "config.yaml").unlink()
    assert "Not compared, as their folders hold no config.yaml: b." in comparison_page(read_runs(folders))
    (folders[1] / "config.yaml").write_text((folders[0] / "config.yaml").read_text())
    assert "The configurations are the same." in comparison_page(read_runs(folders))


def test_what_is_not_of_the_paper_s_protocol_or_no_number_is_left_out_and_names_differ(tmp_path):
    none = outcome("lsun", seed=1)
    none.metrics["test"]["auroc"] = math.nan
    one = [outcome("svhn", trained_on="svhn"), outcome("svhn", seed=1, trained_on="bim"), none]
    two = [outcome("svhn", seed=3, trained_on="others")]
    runs = read_runs([written(tmp_path / name / "seed_0", found) for name, found in (("a", one), ("b", two))])
    assert [run.name for run in runs] == [str(Path("a/seed_0")), str(Path("b/seed_0"))]
    found = [{pair: row[place].value for pair, row in compared(runs).items() if row[place]} for place in (0, 1)]
    assert found == [{("svhn", "mlp"): first.metrics["test"]["auroc"]} for first in (one[0], two[0])]


def test_a_chart_has_a_bar_for_each_auroc(folders):
    runs = read_runs(folders)
    figures, rows = auroc_figures(runs), compared(runs)
    for detector in ("mlp", "energy"):
        heights = sorted(bar.get_height() for bar in figures[f"AUROC of {detector}"].axes[0].patches)
        values = [100 * one.value for (_, name), found in rows.items() if name == detector for one in found if one]
        assert heights == pytest.approx(sorted(values))


def test_the_page_of_one_run_is_its_own_with_all_figures():
    found = run(OUTCOMES[:1], arrays={"samples": SAMPLES})
    page = comparison_page([found])
    assert page.count("<img") == 5
    assert {"Results", "Source by source", "Images"} <= set(headings(page))


def test_files_that_are_broken_are_refused(folders):
    broken = [
        ("provenance.json", b"{", "provenance.json` should be as `detect` has written it. Got Expecting property name"),
        ("provenance.json", b'{"x": []}', "Got none with `experiment`. Run `detect` again with --run_dir "),
        ("provenance.json", b'{"experiment": "x", "failures": 1}', "Got 'int' object is not iterable"),
        ("provenance.json", b"\xff\xfe\x00", "provenance.json` should be as `detect` has written it."),
        ("results.parquet", b"PAR1", "results.parquet should be a table as it was written. Got what cannot be read"),
        ("config.yaml", b"text", "config.yaml` should be as `detect` has written it. Got "),
    ]
    for name, content, sentence in broken:
        whole = (folders[1] / name).read_bytes()
        (folders[1] / name).write_bytes(content)
        assert_refused((partial(read_runs, folders), sentence))
        (folders[1] / name).write_bytes(whole)
    write_columns(folders[1] / "results.parquet", {"source": ["svhn"]})
    assert_refused(
        (partial(read_runs, folders), "results.parquet` should be as `detect` has written it. Got none with")
    )
    (folders[0] / "figures.npz").write_bytes(b"PK")
    assert_refused((lambda: Run.read(folders[0]).arrays, "figures.npz` should be as `detect` has written it. Got what"))
