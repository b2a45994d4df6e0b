"""Looking at a page: by Python's parser always, by a browser where there is one."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

_EMPTY = {"meta", "link", "img", "br"}
BROWSERS = [path for path in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if path]


class Page(HTMLParser):
    """Headings, images and everything a page refers to; fails where elements do not close in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.references, self.headings = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.references += [value for name, value in attributes if name in ("src", "href", "srcset", "data", "action")]
        if tag not in _EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("h1", "h2", "h3"):
            self.headings.append(data)


def width_in_browser(browser: str, page: Path, folder: Path, width: int) -> tuple[int, int]:
    """How wide a page is that is shown `width` pixels wide, and how many of its images a browser could decode."""
    frame = folder / "frame.html"
    frame.write_text(
        f'<iframe id="f" src="{page.resolve().as_uri()}" style="width:{width}px;height:800px;border:0"></iframe><script>'
        "onload = () => { const d = document.getElementById('f').contentDocument; document.title = 'seen ' +"
        " d.documentElement.scrollWidth + ' ' + [...d.images].filter(i => i.naturalWidth > 0).length }</script>"
    )
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--dump-dom"]
    profile = f"--user-data-dir={folder / 'profile'}"
    done = subprocess.run(
        [browser, *flags, profile, frame.resolve().as_uri()], capture_output=True, text=True, timeout=120
    )
    seen = re.search(r"seen (\d+) (\d+)", done.stdout)
    assert seen, done.stdout + done.stderr
    return int(seen[1]), int(seen[2])
