"""The documentation's site builds without a warning, every room has its page, and the notebook runs."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
LOADED = r"""<(?:script|img|link)\b(?![^>]*canonical)[^>]*?\s(?:src|href)=["']?((?:https?:)?//[^"' >]*)"""
RUN_NOTEBOOK = """
import nbformat
from nbclient import NotebookClient
notebook = nbformat.read("gradients.ipynb", as_version=4)
NotebookClient(notebook, timeout=200).execute()
for cell in notebook.cells:
    print(*(output.get("text", "") for output in cell.get("outputs", [])))
"""


@pytest.mark.slow
def test_the_site_builds_with_every_public_name_on_its_room_s_page_and_loads_nothing_from_elsewhere(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]  # warnings are errors
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rooms = {path.parent.name for path in (ROOT / "lightning_gradood").glob("*/__init__.py")} - {"cli"}
    hidden = []
    for room in sorted(rooms):
        anchors = re.findall(r"""\sid=["']([^"']+)""", (tmp_path / "api" / room / "index.html").read_text())
        module = __import__(f"lightning_gradood.{room}", fromlist=["__all__"])
        files = {path.stem for path in (ROOT / "lightning_gradood" / room).glob("*.py")}  # one may hide its function
        public = {name: getattr(module, name) for name in set(module.__all__) - files}
        ours = [name for name, one in public.items() if getattr(one, "__module__", "").startswith("lightning_gradood")]
        named = [name for name in ours if callable(public[name]) and public[name].__doc__]
        hidden += [f"{room}.{one}" for one in named if f"lightning_gradood.{room}.{one}" not in anchors]
    assert hidden == []
    pages = list(tmp_path.rglob("*.html"))
    assert pages
    assert [(page, found) for page in pages if (found := re.findall(LOADED, page.read_text()))] == []


def test_every_page_is_in_the_navigation():
    text = re.sub(r"!!python\S+", "", (ROOT / "mkdocs.yml").read_text())
    named = set(re.findall(r"[\w/]+\.md", str(yaml.safe_load(text)["nav"])))
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert pages - named == {"torch_batch_norm.md"}  # a report to torch's developers


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    shutil.copy(ROOT / "examples/gradients.ipynb", tmp_path)
    done = subprocess.run([sys.executable, "-c", RUN_NOTEBOOK], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Guard:" in done.stdout
    assert "mean log10 of the squared norm" in done.stdout
    verdict = r"^ ?taken for class \d, p-value [01]\.\d{3}, (?:not )?flagged$"
    assert len(re.findall(verdict, done.stdout, flags=re.MULTILINE)) == 4
