"""Pages as headless Chromium sees them, at several widths of the window."""

import html
import json
import os
import re
import shutil
import subprocess

import pytest

WIDTHS = (420, 1400, 2000)
_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = """--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-extensions --no-first-run
--allow-file-access-from-files --enable-logging=stderr"""  # CI runs as root; the page that measures looks into its frames
# Each page is shown in frames of the widths, as a headless window has a least width of its own.
_HARNESS = """<!DOCTYPE html><html><body><pre id="seen"></pre>%s<script>
const measure = (frame) => {
  const view = frame.contentWindow, root = frame.contentDocument.documentElement;
  const all = (what) => [...root.querySelectorAll(what)];
  return {
    width: view.innerWidth, client_width: root.clientWidth, scroll_width: root.scrollWidth,
    headings: all("h1, h2, h3").filter((one) => one.getBoundingClientRect().height > 0).map((one) => one.innerText),
    images: all("img").map((one) => [one.naturalWidth, one.getBoundingClientRect().width]),
    rows: all("table").map((one) => [...one.tBodies[0].rows].filter((row) => row.innerText.trim()).length),
  };
};
addEventListener("load", () => {
  const found = [...document.querySelectorAll("iframe")].map(measure);
  document.getElementById("seen").textContent = JSON.stringify(found);
});
</script></body></html>"""


def look_at(page, folder):
    """What `measure` above finds at each of `WIDTHS`, and the lines that the page wrote to the console, errors among them.

    Without a browser the test is skipped on a developer's machine, and fails in CI.
    """
    browser = next(filter(None, map(shutil.which, _NAMES)), None)
    if not browser:
        leave = pytest.fail if os.environ.get("CI") else pytest.skip
        leave(f"none of {', '.join(_NAMES)} is installed; e.g. `apt-get install chromium`")
    source = html.escape(page.resolve().as_uri())
    style = "height: 900px; border: 0"
    frames = [f'<iframe src="{source}" style="width: {width}px; {style}"></iframe>' for width in WIDTHS]
    harness = folder / "harness.html"
    harness.write_text(_HARNESS % "".join(frames))
    words = [browser, *_FLAGS.split(), f"--user-data-dir={folder / 'profile'}", "--dump-dom", harness.as_uri()]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return json.loads(html.unescape(found[1])), [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def check(page, folder, headings, pictures=True):
    """Fail where a page looks broken at any width, or lacks headings or pictures; an empty folder is for the browser."""
    seen, console = look_at(page, folder)
    assert console == []
    assert [one["width"] for one in seen] == list(WIDTHS)
    for one in seen:
        assert one["scroll_width"] <= one["client_width"], f"{page} is scrolled sideways: {one}"
        assert headings <= set(one["headings"])
        assert bool(one["images"]) == pictures
        assert all(natural > 0 and shown > 0 for natural, shown in one["images"])
        assert one["rows"]
        assert all(one["rows"]), "a table is empty"
