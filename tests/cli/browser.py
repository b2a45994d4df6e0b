"""Pages as headless Chromium sees them, at several widths of the window."""

import html
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

WIDTHS = (420, 1400, 2000)
_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--headless",
    "--no-sandbox",  # CI runs as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--no-first-run",
    "--allow-file-access-from-files",  # the page that measures looks into its frames
    "--enable-logging=stderr",
)
# Each page is shown in frames of the widths, as a headless window has a least width of its own; a frame's media queries follow
# the frame. Pictures are inside the pages, so all is laid out once the load event comes, after which the DOM is dumped.
_HARNESS = """<!DOCTYPE html><html><body><pre id="seen"></pre>{frames}<script>
const measure = (frame) => {{
  const view = frame.contentWindow, root = frame.contentDocument.documentElement;
  const all = (what) => [...root.querySelectorAll(what)];
  return {{
    page: Number(frame.dataset.page), width: view.innerWidth, client_width: root.clientWidth, scroll_width: root.scrollWidth,
    headings: all("h1, h2, h3").filter((one) => one.getBoundingClientRect().height > 0).map((one) => one.innerText),
    images: all("img").map((one) => [one.naturalWidth, one.getBoundingClientRect().width]),
    rows: all("table").map((one) => [...one.tBodies[0].rows].filter((row) => row.innerText.trim()).length),
  }};
}};
addEventListener("load", () => {{
  const found = [...document.querySelectorAll("iframe")].map(measure);
  document.getElementById("seen").textContent = JSON.stringify(found);
}});
</script></body></html>"""


@dataclass(frozen=True)
class Seen:
    """A page at one width.

    Args:
        width: of the window, in pixels.
        client_width: of the window without its scroll bar.
        scroll_width: of the page; larger than `client_width` if it has to be scrolled sideways.
        headings: texts of h1 to h3 that are shown.
        images: natural and shown width of each; 0 where it was not loaded.
        rows: rows with text of each table's body.
    """

    width: int
    client_width: int
    scroll_width: int
    headings: list[str]
    images: list[list[float]]
    rows: list[int]


def browser() -> str:
    """The browser's program; without one the test is skipped on a developer's machine, and fails in CI."""
    for name in _NAMES:
        if path := shutil.which(name):
            return path
    reason = f"none of {', '.join(_NAMES)} is installed; e.g. `apt-get install chromium`"
    if os.environ.get("CI"):
        pytest.fail(f"A page was not looked at: {reason}.")
    pytest.skip(reason)


def look_at(pages: list[Path], folder: Path) -> tuple[list[list[Seen]], list[str]]:
    """Open pages at all widths in one browser.

    Args:
        pages: files.
        folder: an empty one, for what the browser writes.

    Returns:
        For each page what is seen at each of `WIDTHS`, and the lines that pages wrote to the console, errors of scripts and of
        what could not be loaded among them.
    """
    frames = "".join(
        f'<iframe data-page="{number}" src="{html.escape(page.resolve().as_uri())}" '
        f'style="width: {width}px; height: 900px; border: 0"></iframe>'
        for number, page in enumerate(pages)
        for width in WIDTHS
    )
    harness = folder / "harness.html"
    harness.write_text(_HARNESS.format(frames=frames))
    done = subprocess.run(
        [browser(), *_FLAGS, f"--user-data-dir={folder / 'profile'}", "--dump-dom", harness.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    seen: list[list[Seen]] = [[] for _ in pages]
    for one in json.loads(html.unescape(found[1])):
        seen[one["page"]].append(Seen(**{name: one[name] for name in Seen.__dataclass_fields__}))
    return seen, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def check(page: Path, folder: Path, headings: set[str], pictures: bool = True) -> None:
    """Fail where a page looks broken at any width.

    Args:
        page: a file.
        folder: an empty one.
        headings: that must be there, among others.
        pictures: whether it has any.
    """
    (seen,), console = look_at([page], folder)
    assert console == []
    assert [one.width for one in seen] == list(WIDTHS)
    for one in seen:
        assert one.scroll_width <= one.client_width, (
            f"{page} is scrolled sideways at {one.width} px: {one.scroll_width} px"
        )
        assert headings <= set(one.headings)
        assert bool(one.images) == pictures
        assert all(natural > 0 and shown > 0 for natural, shown in one.images)
        assert one.rows
        assert all(one.rows), "a table is empty"
