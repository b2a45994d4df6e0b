"""Pages in headless Chromium on a phone, a laptop and a large screen: nothing overflows, all is loaded, nothing is empty."""

import shutil
from pathlib import Path

import browser
import pytest
from browser import WIDTHS, check, look_at
from tiny import FILE, WITH_FIGURES

from lightning_gradood.cli import main

LONG = "a_source_with_a_rather_long_name"
BAD = """<!DOCTYPE html><html><body><h1>Bad</h1><div style="width: 800px">wide</div><img src="data:image/png;base64,AAAA">
<table><tbody></tbody></table><script>throw new Error("mistake")</script></body></html>"""


@pytest.fixture
def drawn(run):
    """The finished run, reported again: with figures, an attack, long names, and every source against each."""
    words = [
        "detect",
        *FILE,
        *WITH_FIGURES,
        "--ckpt_path",
        str(run / "checkpoints/best.ckpt"),
        "--run_dir",
        "runs/tiny/drawn",
    ]
    more = [
        "--data.attacks",
        "{fgsm: FGSM}",
        f"--data.anomalies.{LONG}",
        "{class_path: PhotoPatches, init_args: {scale: 2.0}}",
    ]
    main([*words, *more, "--detection.protocol", "cross", "--detection.detectors", "[Energy]"])
    return Path("runs/tiny/drawn")


def test_the_page_of_a_run_and_that_of_several_look_right(run, drawn, tmp_path_factory):
    headings = {"tiny", "Results", "Guard", "What attacks did", "ROC curves", "Images", "Environment"}
    check(drawn / "report.html", tmp_path_factory.mktemp("run"), headings)
    check(run / "report.html", tmp_path_factory.mktemp("plain"), {"tiny", "Results", "Guard"}, pictures=False)
    main(["compare", str(run), str(drawn)])
    headings = {"Comparison of 2 runs", "AUROC", "Source by source", "Configuration"}
    check(Path("compare.html"), tmp_path_factory.mktemp("compare"), headings)


def test_a_page_that_looks_wrong_is_seen_to_be_so(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    Path("bad.html").write_text(BAD)
    (seen,), console = look_at([Path("bad.html")], folder)
    assert [one.width for one in seen] == list(WIDTHS)
    assert [one.scroll_width > one.client_width for one in seen] == [True, False, False]
    assert [one.headings for one in seen] == [["Bad"]] * len(WIDTHS)
    assert all(one.images[0][0] == 0 for one in seen)
    assert [one.rows for one in seen] == [[0]] * len(WIDTHS)
    assert console
    assert all("mistake" in line for line in console)


def test_without_a_browser_ci_fails_and_a_developer_is_told(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="none of chromium, chromium-browser, google-chrome is installed"):
        browser.browser()
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="apt-get install chromium"):
        browser.browser()
