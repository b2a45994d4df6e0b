"""The verb `compare`: a table, a page, and nothing written where something is wrong."""

import shutil
from pathlib import Path

import pytest
from pages import Page
from test_score import called
from tiny import FILE, refused, results, snapshot

from lightning_gradood.cli import main


@pytest.fixture
def runs(run):
    """Two runs of one classifier with different splits; the second reads nothing anew."""
    other = Path("runs/tiny/other")
    words = ["detect", *FILE, "--ckpt_path", str(run / "checkpoints/best.ckpt"), "--run_dir", str(other)]
    main([*words, "--data.split_seed", "1", "--detection.detectors", "[Energy]"])
    return [str(run), str(other)]


def test_two_runs_stand_side_by_side(runs, capsys):
    code, out, _ = called(["compare", *runs], capsys)
    assert code == 0
    heads, _, *rows = [line.split() for line in out.splitlines()]
    names = [Path(run).name for run in runs]
    assert heads == ["mean", "AUROC,", "%", "sources", *names]
    means = [results(Path(run))["mean"]["mlp"]["test"]["auroc"] for run in runs]
    assert rows[0] == ["mlp", "2", *(f"{100 * value:.2f}" for value in means), f"({100 * (means[1] - means[0]):+.2f})"]
    assert rows[1][0] == "energy"
    assert out.splitlines()[-1] == "Comparison: compare.html"
    text = Path("compare.html").read_text()
    page = Page(text)
    wanted = {"Comparison of 2 runs", "Runs", "AUROC", "Source by source", "Configuration"}
    assert set(page.headings) == wanted | {f"Differences to {names[0]}"}
    assert "script" not in page.tags
    assert all(reference.startswith("data:") for reference in page.references)
    for key in ("data.init_args.split_seed", "detection.detectors"):
        assert f">{key}</th>" in text
    assert "seed_everything" not in text


def test_one_run_is_shown_alone_and_replaces_a_page_only_on_request(run, capsys):
    Path("alone.html").write_text("mine")
    words = ["compare", str(run), "--output", "alone.html"]
    assert "Got `--output alone.html`, which exists. Add --overwrite." in refused(words, capsys)
    assert Path("alone.html").read_text() == "mine"
    code, out, _ = called([*words, "--overwrite"], capsys)
    assert (code, out.splitlines()[-1]) == (0, "Comparison: alone.html")
    assert {"Runs", "AUROC", "Source by source"} <= set(Page(Path("alone.html").read_text()).headings)


def test_what_cannot_be_compared_is_refused_in_a_sentence(run, capsys):
    for name in ("empty", "broken", "folder.html"):
        Path(name).mkdir()
    Path("folder.html/kept").touch()
    Path("broken/results.json").write_text('{"outcomes": ')
    Path("link").symlink_to(run)
    shutil.copytree(run, "trained")
    Path("trained/results.json").unlink()
    results_of = "should be a run folder with results. Got no results.json in it."
    rows = [
        ([], "the following arguments are required: runs."),
        (["{run}", "--overwrit"], "Got `overwrit`. Did you mean `overwrite`?"),
        (["{run}", "nowhere"], "should be given run folders. Got `nowhere`, which does not exist. Correct the path."),
        (["{run}", "tiny.yaml"], "Got `tiny.yaml`, which is no folder."),
        (["{run}", "empty"], f"`empty` {results_of} `detect`, or `fit` at its end, writes them."),
        (["{run}", "trained"], f"`trained` {results_of}"),
        (["runs/tiny"], f"`runs/tiny` {results_of} Did you mean `{run}`?"),
        (["{run}", "{run}/"], f"`compare` should be given each run once. Got `{run}` twice. Remove one."),
        (["{run}", "link"], "Got `link` twice."),
        (["{run}", "broken"], "`broken/results.json` should be as `detect` has written it. Got "),
        (["{run}", "--output", "away/a.html"], "Got `--output away/a.html`. Make `away`, or name another."),
        (["{run}", "--output", "{run}/results.json", "--overwrite"], "`--output` should end in .html."),
        (["{run}", "--output", "folder.html", "--overwrite"], "`--output` should be a place that can be written."),
    ]
    before = snapshot(Path("."))
    for words, sentence in rows:
        assert sentence in refused(["compare", *(word.replace("{run}", str(run)) for word in words)], capsys)
    assert snapshot(Path(".")) == before
