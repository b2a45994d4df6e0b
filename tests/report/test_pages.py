"""The page of a run and of several: all that the console and the files say, the best in bold, names escaped."""

import io
import math
import re
from functools import partial

import pytest
from asserts import assert_refused
from PIL import Image

from lightning_gradood.records import write_rows
from lightning_gradood.report import GuardSummary, Run, comparison_page, comparison_text, figure_bytes, pages, read_runs
from lightning_gradood.report.figures import image_rows
from lightning_gradood.report.pages import printed, run_page
from lightning_gradood.report.tables import DEFINITIONS, compared

from .examples import SAMPLES, crossed, outcome, run, written

DIGIT = {"test/auroc": 0.9123, "test/auroc_low": 0.45, "test/auroc_high": 0.95, "test/flagged": 0.5}
METRICS = {"digit": DIGIT, "normal": {"test/flagged": 0.023}}
CLASSES = {
    "cat": {"calibration": 40.0, "test": 20.0, "common": 0.15, "own": 0.05},
    "all others": {"calibration": 9.0, "test": 0.0},
}
GUARD = GuardSummary(
    "`mlp`, fitted on digit. It may flag 5 % of normal images.", "images", METRICS, "mlp", 0.05, classes=CLASSES
)


def words(page):
    """The text of a page, without marks and styles."""
    return " ".join(re.sub("<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL).split())


def test_sources_that_are_easy_for_their_looks_or_their_files_are_named_above_the_table_and_attacks_are_not():
    outcomes = [outcome(source, "image_statistics", 9.0) for source in ("textures", "fgsm")]
    outcomes += [outcome("svhn", "image_statistics", 0.1), outcome("svhn", "mlp", 9.0)]
    about = {
        "files": ["Files of another kind: `svhn`."],
        "perturbations": {"fgsm": {"class_path": "FGSM", "init_args": {}, "images": 7}},
    }
    shown = words(run_page(run(outcomes, provenance=about), {}))
    assert "Files of another kind: svhn ." in shown
    easy = re.search("Easy for reasons other than content: (.*?) there say little", shown)[1]
    assert "textures 100.00 %" in easy
    assert not re.search("svhn|fgsm", easy)
    assert "Easy for" not in run_page(run(outcomes[2:]), {})


def bold(page):
    return re.findall("<strong>(.*?)</strong>", page)


def headings(page):
    return re.findall(r"<h[123][^>]*>(.*?)</h", page)


def test_every_number_of_the_printed_table_the_guard_and_attacks_is_on_the_page_where_there_is_one():
    found = run(guard=GUARD)
    page, (rows, notes) = run_page(found, {}), printed(found)
    shown = words(page)
    assert len(rows) == 6
    assert [text for row in rows for text in row.values() if text not in shown] == []
    assert [note for note in [*notes, *DEFINITIONS] if note.replace("'", "&#39;") not in shown] == []
    assert "mlp , fitted on digit. It may flag 5 % of normal images." in shown
    assert "images AUROC 95 % interval flagged, % digit 91.23 [45.0, 95.0] 50.0 normal - - 2.3" in shown
    assert "with --by_class, % cat 40 20 15.00 5.00 all others 9 0 - -" in shown
    assert "Warning: the guard is not clearly better than chance" in shown
    assert re.findall('<a href="#(.*?)">(.*?)</a>', page) == re.findall('<h2 id="(.*?)">(.*?)</h2>', page) != []
    assert f"lightning_gradood score --guard {found.folder}/guard FOLDER" in shown
    sometimes = {"What attacks did", "Trained on one source, tested on another"}
    assert not sometimes & set(headings(page))
    assert "It scores any image" not in words(run_page(run(guard=GuardSummary("No guard is saved: few images.")), {}))
    about = {"class_path": "a.b.FGSM", "init_args": {"eps": 0.125}, "images": 77}
    made = {
        "svhn": about | {"attack_success": 0.5, "attack_l2": 1.25},
        "outliers": {"class_path": "a.b.Blur", "init_args": {}, "images": 77},
    }
    outcomes = crossed(["svhn", "lsun"])
    page = run_page(run(outcomes, provenance={"perturbations": made}), {})
    assert sometimes <= set(headings(page))
    assert "FGSM eps=0.125 77 50.00 1.250 -" in words(page)
    assert "Blur" not in page  # a detector is trained on it, none is tested on it
    numbers = [f"{100 * one.metrics['test']['auroc']:.1f}" for one in outcomes if one.detector == "mlp"]
    assert [text for text in numbers if text not in words(page)] == []


def test_the_best_of_each_source_is_bold_names_are_escaped_and_figures_stand_in_sections():
    outcomes = [outcome("svhn", "mlp", 3.0), outcome("lsun", "mlp", 0.5), outcome("svhn", "energy", 0.2)]
    outcomes += [outcome("lsun", "energy", 3.0, seed=1)]
    aurocs = {(one.source, one.detector): one.metrics["test"]["auroc"] for one in outcomes}
    mean = max((aurocs["svhn", name] + aurocs["lsun", name]) / 2 for name in ("mlp", "energy"))
    best = (aurocs["svhn", "mlp"], aurocs["lsun", "energy"], mean)
    assert bold(run_page(run(outcomes), {})) == [f"{100 * value:.2f}" for value in best]
    name = '<script>alert("x")</script>'
    figures = dict.fromkeys((f"roc_{name}", "samples", "scores_mlp", "aurocs"), figure_bytes(image_rows(SAMPLES)))
    page = run_page(run([outcome(name, name)], name=name), figures)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 5
    assert page.count('src="data:image/webp;base64,') == 4
    wanted = ["Source by source", "ROC curves", "Scores", "Images"]
    assert [one for one in headings(page) if one in wanted] == wanted


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


def test_runs_are_compared_by_their_files_and_means_are_over_shared_sources(folders):
    runs = read_runs(folders)
    one, two = ({(at.source, at.detector): at.metrics["test"]["auroc"] for at in found.outcomes} for found in runs)
    means = [(found["svhn", "mlp"] + found["lsun", "mlp"]) / 2 for found in (one, two)]
    rows = compared([found.outcomes for found in runs])
    pairs = [("svhn", "mlp"), ("svhn", "energy"), ("lsun", "mlp"), ("bim", "mlp")]
    expected = {pair: [one.get(pair), two.get(pair)] for pair in pairs}
    expected |= {("mean", "mlp"): pytest.approx(means), ("mean", "energy"): [one["svhn", "energy"], None]}
    assert {pair: [found and found.value for found in row] for pair, row in rows.items()} == expected
    lines = [line.split() for line in comparison_text(runs).splitlines()]
    assert lines[0][-2:] == ["a", "b"]
    difference = f"({100 * (means[1] - means[0]):+.2f})"
    assert lines[2] == ["mlp", f"{100 * means[0]:.2f}", f"{100 * means[1]:.2f}", difference]
    assert lines[3] == ["energy", f"{100 * one['svhn', 'energy']:.2f}", "-"]
    assert lines[4] == ["classifier's", "accuracy", "75.00", "-"]
    page = comparison_page(runs)
    best = [max(one[pair], two[pair]) for pair in (("svhn", "mlp"), ("lsun", "mlp"))]
    assert bold(page) == [f"{100 * value:.2f}" for value in (*best, max(means))]
    assert f"({100 * (two['lsun', 'mlp'] - one['lsun', 'mlp']):+.2f})" in page
    assert page.count("<img") == 2
    row = r'<th class="key">(.*?)</th><td class="name">(.*?)</td><td class="name">(.*?)</td>'
    assert re.findall(row, page[page.index("Keys whose values differ") :]) == [
        ("data.limit", "20", "30"),
        ("gone.x", "1", "null"),
        ("models", "null", "[&#34;&lt;b&gt;&#34;]"),
    ]
    (folders[1] / "config.yaml").write_text((folders[0] / "config.yaml").read_text())
    assert "The configurations are the same." in comparison_page(read_runs(folders))


def test_a_picture_that_fails_or_is_longer_than_webp_takes_loses_no_page(folders, monkeypatch, capsys):
    Image.new("RGB", (2, 17_000)).save(buffer := io.BytesIO(), "PNG")  # as of a hundred sources
    assert run_page(run(), {"samples": buffer.getvalue()}).count("<img") == 1
    monkeypatch.setattr(pages, "auroc_bars", lambda _: 1 / 0)
    assert "<img" not in comparison_page(read_runs(folders))
    assert "warning: the figure mlp is left out: ZeroDivisionError" in capsys.readouterr().err


def test_what_is_not_of_the_paper_s_protocol_or_no_number_is_left_out_and_names_differ(tmp_path):
    none = outcome("lsun", seed=1)
    none.metrics["test"]["auroc"] = math.nan
    one = [outcome("svhn", trained_on="svhn"), outcome("svhn", seed=1, trained_on="bim"), none]
    two = [outcome("svhn", seed=3, trained_on="others")]
    folders = [written(tmp_path / name / "seed_0", found) for name, found in (("a", one), ("b", two))]
    runs = read_runs(folders)
    assert [found.name for found in runs] == list(map(str, folders))
    aurocs = [first.metrics["test"]["auroc"] for first in (one[0], two[0])]
    values = {pair: [found.value for found in row] for pair, row in compared([one, two]).items()}
    assert values == {("svhn", "mlp"): aurocs, ("mean", "mlp"): aurocs}


def test_files_that_are_broken_are_refused(folders):
    expected = "` should be as `detect` has written it. Got "
    broken = [
        ("provenance.json", b"{", f"provenance.json{expected}Unparsable: Expecting property name"),
        ("provenance.json", b'{"x": []}', "Got KeyError: 'experiment'. Run `detect` again with --run_dir "),
        ("provenance.json", b"\xff\xfe\x00", f"provenance.json{expected}"),
        ("results.parquet", b"PAR1", "results.parquet` should be a readable table. Got what cannot be read"),
        ("config.yaml", b"text", f"config.yaml{expected}"),
    ]
    for name, content, sentence in broken:
        whole = (folders[1] / name).read_bytes()
        (folders[1] / name).write_bytes(content)
        assert_refused((partial(read_runs, folders), sentence))
        (folders[1] / name).write_bytes(whole)
    write_rows([{"source": "svhn"}], {"source": str}, folders[1] / "results.parquet")
    assert_refused((partial(read_runs, folders), f"results.parquet{expected}KeyError"))
    (folders[0] / "figures.npz").write_bytes(b"PK")
    assert_refused((lambda: Run.read(folders[0]).arrays, f"figures.npz{expected}"))
