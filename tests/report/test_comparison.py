"""Runs side by side: numbers as in their files, means over shared sources, differences, what differs in the configuration."""

import dataclasses
import json
import math
import re
from pathlib import Path

import pytest
import yaml

from lightning_gradood.core import Refusal
from lightning_gradood.report import auroc_figures, comparison_page, comparison_text, read_runs, write_results
from lightning_gradood.report.comparison import compared, compared_means

from .examples import outcome, report


def write_run(folder, outcomes, config=None, accuracy=None):
    """Write a run's results as `detect` does."""
    classifier = {"classifier": {"images": 50, "accuracy": accuracy}} if accuracy else {}
    found = dataclasses.replace(report(), outcomes=outcomes, provenance={**report().provenance, **classifier})
    folder.mkdir(parents=True)
    write_results(found, folder)
    if config is not None:
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture
def folders(tmp_path):
    """Two runs that share two of three sources."""
    one = [outcome("svhn", seed=1), outcome("lsun", gap=1.0, seed=2), outcome("svhn", "energy", 1.0)]
    two = [outcome("svhn", gap=1.5, seed=3), outcome("lsun", gap=2.5, seed=4), outcome("bim", seed=5)]
    first = {"seed": 0, "data": {"limit": 20, "attacks": None}, "run_dir": "a", "gone": {"x": 1}}
    second = {"seed": 0, "data": {"limit": 30, "attacks": None}, "run_dir": "b", "models": ["<b>"]}
    return [write_run(tmp_path / "x/a", one, first, 0.75), write_run(tmp_path / "x/b", two, second)]


def auroc(folder, source, detector="mlp"):
    (found,) = [
        one
        for one in json.loads((folder / "results.json").read_text())["outcomes"]
        if (one["source"], one["detector"]) == (source, detector)
    ]
    return found["metrics"]["test"]["auroc"]


def test_numbers_are_those_of_the_files_and_means_are_over_shared_sources(folders):
    rows = compared(read_runs(folders))
    values = {pair: [None if one is None else one.value for one in found] for pair, found in rows.items()}
    both = [[auroc(folder, source) for source in ("svhn", "lsun")] for folder in folders]
    assert values == {
        ("svhn", "mlp"): [both[0][0], both[1][0]],
        ("svhn", "energy"): [auroc(folders[0], "svhn", "energy"), None],
        ("lsun", "mlp"): [both[0][1], both[1][1]],
        ("bim", "mlp"): [None, auroc(folders[1], "bim")],
        ("mean", "mlp"): [pytest.approx(sum(one) / 2) for one in both],
    }
    assert list(compared_means(read_runs(folders))["energy"][0]) == ["svhn"]


def test_the_text_has_means_differences_and_accuracies(folders):
    text = comparison_text(read_runs(folders))
    one, two = [sum(auroc(folder, source) for source in ("svhn", "lsun")) / 2 for folder in folders]
    lines = [line.split() for line in text.splitlines()]
    assert lines[0][-2:] == ["a", "b"]
    assert lines[2] == ["mlp", "2", f"{100 * one:.2f}", f"{100 * two:.2f}", f"({100 * (two - one):+.2f})"]
    assert lines[3] == ["energy", "1", f"{100 * auroc(folders[0], 'svhn', 'energy'):.2f}", "-"]
    assert lines[4] == ["classifier's", "accuracy", "75.00", "-"]


def test_the_page_has_the_best_in_bold_and_the_differences(folders):
    page = comparison_page(read_runs(folders))
    bold = re.findall("<strong>(.*?)</strong>", page)
    assert bold == [
        f"{100 * max(values):.2f}"
        for values in (
            [auroc(folder, "svhn") for folder in folders],
            [auroc(folder, "lsun") for folder in folders],
            [(auroc(folder, "svhn") + auroc(folder, "lsun")) / 2 for folder in folders],
        )
    ]
    assert f"{100 * (auroc(folders[1], 'lsun') - auroc(folders[0], 'lsun')):+.2f}" in page
    assert "75.00 % accurate on 50 normal images" in page
    assert page.count("<img") == 2


def test_only_keys_that_differ_are_shown(folders):
    page = comparison_page(read_runs(folders))
    table = page[page.index("Keys whose values differ") :]
    rows = re.findall(
        r'<th class="key" rowspan="1">(.*?)</th><td class="text">(.*?)</td><td class="text">(.*?)</td>', table
    )
    assert rows == [
        ("data.limit", "20", "30"),
        ("gone.x", "1", "(not there)"),
        ("models", "(not there)", "[&#34;&lt;b&gt;&#34;]"),
    ]
    (folders[1] / "config.yaml").unlink()
    assert "Not compared, as their folders hold no config.yaml: b." in comparison_page(read_runs(folders))
    (folders[1] / "config.yaml").write_text((folders[0] / "config.yaml").read_text())
    assert "The configurations are the same." in comparison_page(read_runs(folders))


def test_detectors_of_one_other_source_are_left_out(tmp_path):
    crossed = [dataclasses.replace(outcome("svhn", seed=n), trained_on=of) for n, of in enumerate(("svhn", "bim"))]
    (run,) = read_runs([write_run(tmp_path / "a", crossed)])
    assert run.aurocs["svhn", "mlp"].value == crossed[0].metrics["test"]["auroc"]
    others = dataclasses.replace(outcome("svhn", seed=3), trained_on="others")
    (run,) = read_runs([write_run(tmp_path / "b", [others])])
    assert run.aurocs["svhn", "mlp"].value == others.metrics["test"]["auroc"]


def test_runs_whose_folders_share_a_name_are_told_apart(tmp_path):
    folders = [write_run(tmp_path / name / "seed_0", [outcome(seed=n)]) for n, name in enumerate("ab")]
    assert [run.name for run in read_runs(folders)] == [str(Path("a/seed_0")), str(Path("b/seed_0"))]


def test_a_chart_has_a_bar_for_each_auroc_from_chance_or_from_zero(folders, tmp_path):
    figures = auroc_figures(read_runs(folders))
    heights = {
        caption: sorted(bar.get_height() for bar in figure.axes[0].patches) for caption, figure in figures.items()
    }
    runs = compared(read_runs(folders))
    for detector in ("mlp", "energy"):
        values = [100 * one.value for (_, name), found in runs.items() if name == detector for one in found if one]
        assert heights[f"AUROC of {detector}"] == pytest.approx(sorted(values))
    assert figures["AUROC of mlp"].axes[0].get_ylim()[0] == 50
    worse = write_run(tmp_path / "worse", [outcome("svhn", gap=-2.0), outcome("svhn", "energy", 2.0)])
    (alone,) = auroc_figures(read_runs([worse])).values()
    assert alone.axes[0].get_ylim()[0] == 0
    assert [text.get_text() for text in alone.legends[0].get_texts()] == ["mlp", "energy"]


def test_an_auroc_that_does_not_exist_is_a_dash(tmp_path):
    none = outcome("lsun", seed=1)
    none.metrics["test"]["auroc"] = math.nan
    (run,) = read_runs([write_run(tmp_path / "a", [outcome("svhn"), none])])
    assert list(run.aurocs) == [("svhn", "mlp")]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("results.json", "{", "results.json` should be as `detect` has written it. Got Expecting property name"),
        ("results.json", "[]", "results.json` should be as `detect` has written it."),
        ("results.json", '{"outcomes": []}', "Got none with `experiment`. Run `detect` again with --run_dir "),
        ("results.json", '{"outcomes": [{}], "experiment": "x"}', "Got none with `trained_on`"),
        ("results.json", '{"outcomes": [], "experiment": "x", "provenance": {}}', "Got no AUROC of any detector"),
        ("results.json", b"\xff\xfe\x00", "results.json` should be as `detect` has written it."),
        ("config.yaml", "a: [", "config.yaml` should be as `detect` has written it."),
        ("config.yaml", "text", "config.yaml` should be as `detect` has written it. Got a str."),
    ],
)
def test_files_that_are_broken_are_refused(folders, name, text, words):
    (folders[1] / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(Refusal) as refusal:
        read_runs(folders)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)
