"""A page as Python's parser sees it."""

import base64
import re
from html.parser import HTMLParser

_EMPTY = {"meta", "link", "img", "br"}


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


def whole(path):
    """A page that needs nothing from elsewhere, and the bytes of its pictures."""
    text = path.read_text()
    page = Page(text)
    assert "script" not in page.tags
    assert all(reference.startswith(("data:", "#")) for reference in page.references)
    assert "url(" not in text
    assert "@import" not in text
    pictures = re.findall(r'src="data:image/(?:png|webp);base64,([^"]+)"', text)
    assert len(pictures) == page.tags.count("img")
    return page, [base64.b64decode(picture, validate=True) for picture in pictures]
