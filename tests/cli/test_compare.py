"""The verb `compare`: a table, a page, and nothing written where something is wrong."""

import shutil
from pathlib import Path

import pytest
from pages import Page
from test_score import called
from tiny import FILE, refused, results, snapshot

from lightning_gradood.cli import main


@pytest.fixture
def runs(run, workplace):
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
    wanted = {
        "Comparison of 2 runs",
        "Runs",
        "AUROC",
        f"Differences to {names[0]}",
        "Source by source",
        "Configuration",
    }
    assert set(page.headings) == wanted
    assert "script" not in page.tags
    assert all(reference.startswith("data:") for reference in page.references)
    for key in ("data.init_args.split_seed", "detection.detectors"):
        assert f">{key}</th>" in text
    assert "seed_everything" not in text


def test_one_run_is_shown_alone(run, capsys):
    code, out, _ = called(["compare", str(run), "--output", "alone.html"], capsys)
    assert (code, out.splitlines()[-1]) == (0, "Comparison: alone.html")
    assert {"Runs", "AUROC", "Source by source"} <= set(Page(Path("alone.html").read_text()).headings)
    assert not Path("compare.html").exists()


def test_a_page_that_exists_is_replaced_only_on_request(run, capsys):
    Path("compare.html").write_text("mine")
    assert "Got `--output compare.html`, which exists. Add --overwrite." in refused(["compare", str(run)], capsys)
    assert Path("compare.html").read_text() == "mine"
    assert called(["compare", str(run), "--overwrite"], capsys)[0] == 0
    assert Page(Path("compare.html").read_text()).headings


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "The following arguments are required: RUN. See --help."),
        (["{run}", "--zzz"], "Unrecognized arguments: --zzz. See --help."),
        (
            ["{run}", "nowhere"],
            "`compare` should be given run folders. Got `nowhere`, which does not exist. Correct the path.",
        ),
        (["{run}", "tiny.yaml"], "Got `tiny.yaml`, which is no folder."),
        (
            ["{run}", "empty"],
            "`empty` should be a run folder with results. Got no results.json in it. `detect`, or `fit` at its end, writes them.",
        ),
        (
            ["runs/tiny"],
            "`runs/tiny` should be a run folder with results. Got no results.json in it. Did you mean `{run}`?",
        ),
        (["{run}", "{run}/"], "`compare` should be given each run once. Got `{run}` twice. Remove one."),
        (["{run}", "broken"], "`broken/results.json` should be as `detect` has written it. Got "),
        (["{run}", "--output", "away/a.html"], "Got `--output away/a.html`. Make `away`, or name another."),
        (
            ["{run}", "--output", "{run}/results.json", "--overwrite"],
            "`--output` should end in .html. Got `--output {run}/",
        ),
        (["{run}", "--output", "folder.html", "--overwrite"], "`--output` should be a place that can be written."),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_sentence(run, words, sentence, capsys):
    for name in ("empty", "broken", "folder.html"):
        Path(name).mkdir()
    Path("folder.html/kept").touch()
    Path("broken/results.json").write_text('{"outcomes": ')
    before = snapshot(Path("."))
    words, sentence = [word.replace("{run}", str(run)) for word in words], sentence.replace("{run}", str(run))
    assert sentence in refused(["compare", *words], capsys)
    assert snapshot(Path(".")) == before


def test_a_run_under_another_name_is_the_same_run(run, capsys):
    Path("link").symlink_to(run)
    assert "Got `link` twice." in refused(["compare", str(run), "link"], capsys)


def test_a_run_whose_classifier_alone_was_trained_is_refused(run, capsys):
    shutil.copytree(run, "trained")
    Path("trained/results.json").unlink()
    message = refused(["compare", str(run), "trained"], capsys)
    assert "`trained` should be a run folder with results." in message
