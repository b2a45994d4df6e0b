"""The verb `serve` through real HTTP: concurrent requests, garbage and oversize bodies; every one is answered, and counted."""

import asyncio
import http.client
import io
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import pytest
from PIL import Image
from tiny import write_digits

from lightning_gradood.cli.serve import application
from lightning_gradood.guard import Guard

BOUNDARY = "----boundary"


def multipart(files):
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="images"; filename="%s"\r\n\r\n'
    parts = [(head % name).encode() + content + b"\r\n" for name, content in files]
    body = b"".join([*parts, f"--{BOUNDARY}--\r\n".encode()])
    return body, {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


@pytest.fixture
def server(run):
    words = [sys.executable, "-m", "lightning_gradood", "serve", "--guard", str(run)]
    words += ["--port", "0", "--max_megabytes", "1", "--max_megapixels", "1"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        try:
            said = process.stderr.readline()
            yield int(re.fullmatch(r"\w+@\w+ serves http://127\.0\.0\.1:(\d+)/score\n", said)[1])
        finally:
            process.terminate()
            said = process.communicate(timeout=30)[1]
    *_, last = said.splitlines()  # behind what the parser of multipart bodies says of bad ones
    assert (process.returncode, last) == (143, "error: stopped by SIGTERM. Requests that had begun were answered.")
    assert "Traceback" not in said


def asked(port, method, path, body=None, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    with closing(connection):
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
        except (BrokenPipeError, ConnectionResetError):  # answered before all of an oversize body was sent
            answer = connection.response_class(connection.sock)
            answer.begin()
        return answer.status, answer.read()


def test_each_image_has_its_verdict_or_its_error_and_bad_requests_a_sentence_forty_at_once(server, run):
    files, bomb = list(write_digits(Path("photos"), [0, 9]).values())[:6], io.BytesIO()
    Image.new("L", (4000, 4000)).save(bomb, "PNG")
    given = [*((path.name, path.read_bytes()) for path in files), ("a.png", b"garbage"), ("b.png", bomb.getvalue())]
    status, told = asked(server, "POST", "/score", *multipart(given))
    rows, expected = json.loads(told), Guard.load(run)([*files])
    assert (status, [row["path"] for row in rows]) == (200, [name for name, _ in given])
    assert [row["flagged"] for row in rows] == [*expected.flagged.tolist(), None, None]
    assert [row["score"] for row in rows[:6]] == pytest.approx(expected.scores.tolist())
    errors = ("`a.png` should be a readable image", "`b.png` should have at most 1 megapixels")
    assert [row["error"].startswith(error) for row, error in zip(rows[6:], errors, strict=True)] == [True, True]
    bad = [  # body, headers, and the status and words of the answer
        (b"", {}, 400, b"should be multipart with one or more files named `images`"),
        (b"garbage", {"Content-Type": "application/json"}, 400, b"should be multipart"),
        (b"garbage", multipart([])[1], 400, b""),
        (*multipart([("a.png", bytes(3 * 2**20))]), 413, b"should name its length, of at most 1 MB"),
    ]
    for body, headers, status, words in bad:
        found, told = asked(server, "POST", "/score", body, headers)
        assert (found, words in told) == (status, True), told

    def ask(number):
        if number % 4:
            status, told = asked(server, "POST", "/score", *multipart(given))
            return status == 200 and json.loads(told) == rows
        body, headers, status, _ = bad[number // 4 % len(bad)]
        return asked(server, "POST", "/score", body, headers)[0] == status

    with ThreadPoolExecutor(40) as pool:
        assert list(pool.map(ask, range(40))) == [True] * 40
    assert json.loads(asked(server, "GET", "/ready")[1])["guard"] == Guard.load(run).about.identity
    counts = asked(server, "GET", "/metrics")[1].decode()
    families = [part.splitlines() for part in counts.split("# TYPE ")[1:]]  # each metric in one block, below its type
    assert {head: {line.startswith(head.split()[0]) for line in lines} for head, *lines in families} == {
        f"gradood_{one}": {True}
        for one in ("guard_info gauge", "requests_waiting gauge", "requests_total counter", "images_total counter",
                    "request_seconds summary", "p_value histogram")
    }  # fmt: skip
    lines = dict(line.rsplit(" ", 1) for _, *own in families for line in own)
    flagged, good = sum(row["flagged"] or False for row in rows), 1 + 30  # requests that were answered with verdicts
    counted = {
        'gradood_images_total{outcome="unreadable"}': 2 * good, 'gradood_images_total{outcome="flagged"}': flagged * good,
        'gradood_p_value_bucket{le="0.5"}': sum(row["p_value"] <= 0.5 for row in rows[:6]) * good,
        'gradood_p_value_bucket{le="+Inf"}': 6 * good, "gradood_p_value_count": 6 * good,
        'gradood_requests_total{code="413"}': 3, "gradood_requests_waiting": 1,
    }  # fmt: skip
    assert {name: lines[name] for name in counted} == {name: str(value) for name, value in counted.items()}


def test_a_request_whose_answer_fails_is_counted(run, monkeypatch):
    guard, sent = Guard.load(run), []
    app = application(guard, 1, 1, 9)
    monkeypatch.setattr(guard, "score_files", lambda *_, **__: 1 / 0)
    body, headers = multipart([("a.png", b"some")])
    raw = [
        (name.lower().encode(), str(text).encode()) for name, text in {**headers, "Content-Length": len(body)}.items()
    ]

    async def receive():
        return {"type": "http.request", "body": body}

    async def send(message):
        sent.append(message)

    for method, path in (("POST", "/score"), ("GET", "/metrics")):
        scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": raw}
        with suppress(ZeroDivisionError):  # which uvicorn logs
            asyncio.run(app(scope, receive, send))
    assert [one["status"] for one in sent if "status" in one] == [500, 200]
    assert b'gradood_requests_total{code="500"} 1\n' in sent[-2]["body"] + sent[-1]["body"]
