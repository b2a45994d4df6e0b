"""Pages and figures of a run: one file that needs nothing else, which looks right on a phone, a laptop and a large screen."""

from pathlib import Path

import numpy as np
import pytest
from browser import check
from pages import Page, whole
from PIL import Image
from tiny import WITH_FIGURES, detect, results

from lightning_gradood.cli import main
from lightning_gradood.records import read_rows
from lightning_gradood.report import Run

HEADINGS = {"tiny", "Results", "Guard", "Time", "Environment"}
MORE = {"Trained on one source, tested on another", "What attacks did", "ROC curves", "Scores", "Heat maps", "Images"}


def test_a_run_without_figures_has_a_page_of_its_numbers(run):
    text = (run / "report.html").read_text()
    page, found = Page(text), results(run)
    assert set(page.headings) == HEADINGS
    assert not {"img", "script"} & set(page.tags)
    aurocs = [f"{100 * outcome['metrics']['test']['auroc']:.2f}" for outcome in found["outcomes"]]
    assert [auroc for auroc in aurocs if auroc not in text] == []
    assert f"{100 * found['provenance']['classifier']['accuracy']:.2f} % accurate on 20 normal images" in text
    assert found["provenance"]["versions"]["torch"] in text


def test_the_page_is_whole_and_needs_nothing_from_elsewhere(drawn):
    page, pictures = whole(drawn / "drawn/report.html")
    assert set(page.headings) >= HEADINGS | MORE
    files = {path.stem: path for path in (drawn / "drawn/figures").glob("*.png")}
    assert len(pictures) == len(files)
    paper = {"first_layer", "layer_norms", "activation_norms", "samples", "attacked_samples"}
    assert files.keys() >= {*paper, "roc_mlp", "precision_recall_mlp", "scores_mlp"}
    assert "--data.perturbations.attacks &#39;{fgsm: " in (drawn / "drawn/report.html").read_text()  # can be pasted
    pairs = Run.read(drawn / "drawn").arrays["attacked_samples"]["fgsm"]
    change = np.abs(pairs["attacked"].astype(int) - pairs["clean"]).max(axis=(1, 2, 3))
    assert (change > 0).all()
    assert (change <= 0.1 * 255 + 1).all()  # FGSM's bound: another image would be far away
    assert set(pairs["predictions"].flat) <= set(read_rows(drawn / "drawn/scores.parquet")["prediction"])


def test_figures_are_written_in_formats_and_with_titles_as_papers_want_them(run, drawn):
    folder = detect(run, "paper", *WITH_FIGURES, "--report.formats", "[svg, png]", "--report.titles", "false")
    assert {path.suffix for path in (folder / "figures").iterdir()} == {".svg", ".png"}
    titled = Image.open(drawn / "drawn/figures/roc_mlp.png").convert("L").crop((0, 0, 800, 30)).getextrema()
    plain = Image.open(folder / "figures/roc_mlp.png").convert("L")
    assert titled[0] < 100  # black letters
    assert plain.crop((0, 0, plain.width, 5)).getextrema() == (255, 255)
    own = "[{class_path: ReportCallback, init_args: {figures: true, settings: {formats: [pdf]}}}]"
    folder = detect(run, "own", "--trainer.callbacks", own, "--report.formats", "[svg]")
    assert {path.suffix for path in (folder / "figures").iterdir()} == {".pdf"}


def test_telling_that_fails_is_a_warning_and_results_scores_and_guard_are_there(run, capsys, monkeypatch):
    def fail(*_):
        raise ValueError("no ink")

    with monkeypatch.context() as patch:
        patch.setattr("lightning_gradood.report.loggers.run_page", fail)
        patch.setattr("lightning_gradood.report.loggers.log_run", fail)
        patch.setattr("lightning_gradood.report.figure_data.first_layer", fail)
        folder = detect(run, "silent", *WITH_FIGURES)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert said == [
        "warning: what the figure `first_layer` needs is left out: ValueError: no ink",
        "warning: the page is left out: ValueError: no ink",
        "warning: what ReportCallback tells is left out: ValueError: no ink",
    ]
    assert not (folder / "report.html").exists()
    assert (folder / "guard/guard.json").is_file()
    main(["compare", str(folder)])
    assert {"Results", "Guard", "ROC curves"} <= set(whole(folder / "report.html")[0].headings)


def test_the_page_of_a_run_looks_right_in_a_browser(drawn, tmp_path_factory):
    headings = {"tiny", "Results", "Guard", "What attacks did", "ROC curves", "Images", "Environment"}
    check(drawn / "drawn/report.html", tmp_path_factory.mktemp("run"), headings)


@pytest.mark.slow
def test_pages_without_pictures_and_of_several_runs_look_right(run, drawn, tmp_path_factory):
    check(run / "report.html", tmp_path_factory.mktemp("plain"), {"tiny", "Results", "Guard"}, pictures=False)
    main(["compare", str(run), str(drawn / "drawn")])
    headings = {"Comparison of 2 runs", "AUROC", "Source by source", "Configuration"}
    check(Path("compare.html"), tmp_path_factory.mktemp("compare"), headings)
