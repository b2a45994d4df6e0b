"""The documentation's site builds without a warning, every room has its page, and the notebook runs."""

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
RUN_NOTEBOOK = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=200).execute()
nbformat.write(notebook, sys.argv[2])
"""
ROOMS = sorted(path.parent.name for path in (ROOT / "lightning_gradood").glob("*/__init__.py"))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site; links and anchors that lead nowhere are warnings, and a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


class Page(HTMLParser):
    """What a page loads and the text of its headings."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.anchors = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        held = dict(attributes)
        if tag in ("script", "img", "link") and (held.get("rel") != "canonical"):
            self.loads.append(held.get("src") or held.get("href") or "")
        self.anchors.add(held.get("id"))


def test_every_room_s_public_names_are_on_its_page(site):
    for room in set(ROOMS) - {"cli"}:
        page = Page((site / "api" / room / "index.html").read_text())
        module = __import__(f"lightning_gradood.{room}", fromlist=["__all__"])
        shown = [name for name in module.__all__ if f"lightning_gradood.{room}.{name}" in page.anchors]
        described = [
            name for name in module.__all__ if getattr(module, name).__doc__ and callable(getattr(module, name))
        ]
        files = {path.stem for path in (ROOT / "lightning_gradood" / room).glob("*.py")}
        hidden = set(described) & files  # a function in a file of its name, which stands on the page in its place
        assert set(described) - hidden <= set(shown), set(described) - set(shown)


def test_no_page_loads_anything_from_elsewhere(site):
    for path in site.rglob("*.html"):
        elsewhere = [one for one in Page(path.read_text()).loads if re.match(r"(https?:)?//", one)]
        assert elsewhere == [], path


def test_every_page_is_in_the_navigation():
    text = re.sub(r"!!python\S+", "", (ROOT / "mkdocs.yml").read_text())
    named = set(re.findall(r"[\w/]+\.md", str(yaml.safe_load(text)["nav"])))
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert pages - named == {"torch_batch_norm.md"}  # a report to torch's developers


def test_the_notebook_runs(tmp_path):
    shutil.copy(ROOT / "examples/gradients.ipynb", tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", RUN_NOTEBOOK, "gradients.ipynb", "done.ipynb"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    cells = json.loads((tmp_path / "done.ipynb").read_text())["cells"]
    said = "".join("".join(output.get("text", "")) for cell in cells for output in cell.get("outputs", []))
    assert "Guard:" in said
    assert "mean log10 of the squared norm" in said
    assert (
        len(re.findall(r"^taken for class \d, p-value [01]\.\d{3}, (?:not )?flagged$", said, flags=re.MULTILINE)) == 4
    )
