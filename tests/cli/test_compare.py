"""The verb `compare`: a table, a page, and nothing written where something is wrong."""

import re
import shutil
from pathlib import Path

from pages import whole
from tiny import all_refused, called, detect, results

from lightning_gradood.records import write_rows


def test_two_runs_stand_side_by_side_and_one_alone(run, capsys):
    other = detect(run, "runs/tiny/other", "--data.split.seed", "1", "--detection.detectors", "[Energy]")
    code, out, _ = called(["compare", str(run), str(other)], capsys)
    assert code == 0
    heads, _, *rows = [line.split() for line in out.splitlines()]
    assert heads == ["mean", "AUROC,", "%", run.name, "other"]
    means = [results(one)["mean"]["mlp"]["test"]["auroc"] for one in (run, other)]
    assert rows[0] == ["mlp", *(f"{100 * value:.2f}" for value in means), f"({100 * (means[1] - means[0]):+.2f})"]
    assert rows[1][0] == "energy"
    assert out.splitlines()[-1] == "Comparison: compare.html"
    wanted = {"Comparison of 2 runs", "Runs", "AUROC", "Source by source", "Configuration"}
    assert set(whole(Path("compare.html"))[0].headings) == wanted
    text = Path("compare.html").read_text()
    for key in ("data.init_args.split.seed", "detection.detectors"):
        assert f">{key}</th>" in text
    assert "seed_everything" not in text
    before = (run / "report.html").read_text()
    code, out, _ = called(["compare", str(run)], capsys)
    assert (code, out.splitlines()[-1]) == (0, f"Page: {run}/report.html")
    page, pictures = whole(run / "report.html")  # this time with the figures, which the run was told not to draw
    assert {"Results", "Guard", "Source by source", "Images", "Layer by layer"} <= set(page.headings)
    with_figures = re.sub(r'<h2 id="\d+">|<nav>.*', "", (run / "report.html").read_text())  # more headings are numbered
    lines = re.sub(r'<h2 id="\d+">|<nav>.*', "", before).splitlines()
    assert [line for line in lines if line not in with_figures] == []
    assert len(pictures) > 5


def test_what_cannot_be_compared_is_refused_in_a_sentence(run, capsys):
    for name in ("empty", "folder.html"):
        Path(name).mkdir()
    Path("folder.html/kept").touch()
    Path("mine.html").write_text("mine")
    shutil.copytree(run, "broken")
    write_rows([{"source": "svhn"}], {"source": str}, Path("broken/results.parquet"))
    shutil.copytree(run, "trained")
    Path("trained/results.parquet").unlink()
    results_of = "should be a run folder with results. Got no results.parquet in it."
    mine = str(run)
    rows = [
        ([], "`runs` should be given. Got none."),
        ([mine, "nowhere"], "A run folder should be given. Got `nowhere`, which does not exist. Correct the path."),
        ([mine, "tiny.yaml"], "Got `tiny.yaml`, which is no folder."),
        ([mine, "empty"], f"`empty` {results_of} `detect`, or `fit` at its end, writes them."),
        (["trained"], f"`trained` {results_of}"),
        (["runs/tiny"], f"`runs/tiny` {results_of} Did you mean `{run}`?"),
        ([mine, "broken"], "`broken/results.parquet` should be as `detect` has written it. Got "),
        ([mine, "--output", "page.pdf"], "`--output` should end in .html, as it is a page. Got `--output page.pdf`."),
        ([mine, "--output", "mine.html"], "Got `--output mine.html`, which exists. Add --overwrite."),
        ([mine, "--output", "folder.html", "--overwrite"], "`--output` should be a place that can be written."),
    ]
    all_refused([(["compare", *words], sentence) for words, sentence in rows], capsys)
