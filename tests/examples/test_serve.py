"""The server through real HTTP: concurrent requests, garbage and oversize bodies; every one is answered."""

import http.client
import io
import json
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import pytest
from guards import images, save
from torchvision.transforms.functional import to_pil_image

from lightning_gradood.guard import Guard

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
BOUNDARY = "----boundary"


def png(pixels):
    buffer = io.BytesIO()
    to_pil_image(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def multipart(files):
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="images"; filename="%s"\r\n\r\n'
    parts = [(head % name).encode() + content + b"\r\n" for name, content in files]
    body = b"".join([*parts, f"--{BOUNDARY}--\r\n".encode()])
    return body, {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    save(folder, "gradient_knn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    limits = {"MAX_BYTES": str(2**20), "MAX_IMAGES": "8", "MAX_MEGAPIXELS": "1"}
    environment = {**os.environ, **limits, "GUARD": str(folder / "guard")}
    words = [sys.executable, "-m", "uvicorn", "examples.serve:app", "--port", str(port), "--log-level", "warning"]
    with subprocess.Popen(words, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_until_ready(port, process)
            yield port, Guard.load(folder / "guard")
        finally:
            process.terminate()
            assert "Traceback" not in process.communicate(timeout=30)[1]


def wait_until_ready(port, process):
    for _ in range(600):
        assert process.poll() is None, process.stderr.read()
        with suppress(OSError):
            status, about = asked(port, "GET", "/ready")
            assert (status, about["status"], about["detector"]) == (200, "ready", "gradient_knn")
            return
        time.sleep(0.1)
    raise AssertionError("the server did not get ready")


def asked(port, method, path, body=None, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    with closing(connection):
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
        except (BrokenPipeError, ConnectionResetError):  # answered before all of an oversize body was sent
            answer = connection.response_class(connection.sock)
            answer.begin()
        return answer.status, json.loads(answer.read())


def test_images_get_the_guard_s_verdicts_and_bad_requests_a_sentence_forty_at_once(server):
    port, guard = server
    pixels, bomb = (images(6, seed=3) * 255).round().byte(), io.BytesIO()
    image = png(images(1)[0])
    to_pil_image(images(1)[0] * 0).resize((4000, 4000)).save(bomb, "PNG")
    bad = [  # body, headers, and the status and words of the answer
        (*multipart([("a.png", b"garbage" * 50)]), 400, "`a.png` should be a readable image"),
        (*multipart([("a.png", image), ("b.png", b"x")]), 400, "`b.png` should be a readable image"),
        (*multipart([("a.png", png(images(1)[0][:, :8]))]), 400, "16 × 16 pixels"),
        (*multipart([("a.png", bomb.getvalue())]), 400, "should have at most 1 megapixels"),
        (b"", {}, 400, "should be multipart with one or more files named `images`"),
        (b"garbage", {"Content-Type": "application/json"}, 400, "should be multipart"),
        (b"garbage", multipart([])[1], 400, ""),
        (*multipart([("a.png", image)] * 9), 413, "at most 8 images. Got 9."),
        (*multipart([("a.png", bytes(3 * 2**20))]), 413, "at most 1048576 bytes"),
    ]
    for body, headers, status, words in bad:
        found, answer = asked(port, "POST", "/score", body, headers)
        assert found == status
        assert words in str(answer.get("error", answer))
    names, given = [f"{number}.png" for number in range(6)], guard(pixels)
    expected = list(zip(names, given.scores.tolist(), given.flagged.tolist(), strict=True))
    good = multipart(list(zip(names, map(png, pixels), strict=True)))
    _, (verdict, *_) = asked(port, "POST", "/score", *good)
    assert set(verdict) == {"path", "prediction", "probability", "score", "p_value", "flagged"}

    def ask(number):
        if number % 4:
            status, verdicts = asked(port, "POST", "/score", *good)
            return status == 200 and [(one["path"], one["score"], one["flagged"]) for one in verdicts] == expected
        body, headers, status, _ = bad[number // 4 % len(bad)]
        return asked(port, "POST", "/score", body, headers)[0] == status

    with ThreadPoolExecutor(40) as pool:
        assert list(pool.map(ask, range(80))) == [True] * 80
    assert asked(port, "GET", "/ready")[0] == 200
