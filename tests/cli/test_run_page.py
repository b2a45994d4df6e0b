"""Every `detect` leaves `report.html` in its run folder: one file that needs nothing else."""

import base64
import re

import pytest
import tiny
from pages import Page
from tiny import FILE, WITH_FIGURES, results

from lightning_gradood.cli import main

HEADINGS = {
    "tiny",
    "Results",
    "Guard",
    "Time",
    "Images in each split",
    "Command",
    "Environment",
}


@pytest.fixture(scope="module")
def drawn(finished, tmp_path_factory):
    """The folder of a run with figures, an attack and every source against each."""
    folder = tmp_path_factory.mktemp("drawn")
    trained = tiny.copy_run(finished, folder) / "checkpoints/best.ckpt"
    more = ["--data.attacks", "{fgsm: FGSM}", "--detection.protocol", "cross", "--run_dir", "runs/tiny/drawn"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["lightning_gradood", "detect", "--data.anomalies", "two words"])
        main(["detect", *FILE, *WITH_FIGURES, "--ckpt_path", str(trained), *more])
    return folder / "runs/tiny/drawn"


def test_a_run_without_figures_has_a_page_without_pictures(run):
    text = (run / "report.html").read_text()
    page = Page(text)
    assert set(page.headings) == HEADINGS
    assert not {"img", "script"} & set(page.tags)
    assert "gradood score --guard " in text


def test_the_page_holds_the_numbers_of_the_results(run):
    text = (run / "report.html").read_text()
    found = results(run)
    for outcome in found["outcomes"]:
        for metric in ("auroc", "aupr_in", "aupr_out", "fpr95_in", "detection_accuracy"):
            assert f"{100 * outcome['metrics']['test'][metric]:.2f}" in text, metric
        assert "+".join(str(number) for number in outcome["counts"]["test"].values()) in text
    assert f"{100 * found['provenance']['classifier']['accuracy']:.2f} % accurate on 20 normal images" in text
    assert found["provenance"]["versions"]["torch"] in text


def test_the_page_is_whole_and_needs_nothing_from_elsewhere(drawn):
    text = (drawn / "report.html").read_text()
    page = Page(text)
    more = {
        "Trained on one source, tested on another",
        "What attacks did",
        "ROC curves",
        "Scores",
        "Heat maps",
        "Images",
    }
    assert set(page.headings) >= HEADINGS | more
    assert "script" not in page.tags
    assert all(reference.startswith("data:") for reference in page.references)
    assert "url(" not in text
    assert "@import" not in text
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    files = sorted(path.read_bytes() for path in (drawn / "figures").glob("*.png"))
    assert sorted(base64.b64decode(picture) for picture in pictures) == files
    assert len(files) > 5


def test_the_command_can_be_pasted(drawn):
    assert "--data.anomalies &#39;two words&#39;" in (drawn / "report.html").read_text()


def test_the_page_is_named_and_made_anew(run, capsys):
    (run / "report.html").write_text("old")
    main(["detect", *FILE, "--run_dir", str(run)])
    assert f"All on one page: {run}/report.html" in capsys.readouterr().out
    assert set(Page((run / "report.html").read_text()).headings) == HEADINGS
    assert not list(run.glob(".*"))
