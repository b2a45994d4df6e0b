"""Serve a guard over HTTP: POST images, get verdicts.

    pip install "lightning_gradood[serve]"
    GUARD=runs/folders/2026-11-26_14-05-09/guard uvicorn examples.serve:app
    curl -F images=@a.png -F images=@b.jpg http://127.0.0.1:8000/score

`GET /ready` answers 200 once the guard is loaded. A request is refused with one sentence: 400 for an image that cannot be
scored, 413 beyond a limit, 503 when too many requests wait. There is one copy of the network, and one thread scores; nothing
listens beyond this machine unless uvicorn is told so. Limits are environment variables, see `Limits`.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, fields

import anyio
from fastapi import FastAPI, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lightning_gradood.guard import FileVerdict, Guard, ImageBytes


@dataclass(frozen=True)
class Limits:
    """Limits of a server; each is read from the environment variable of its name in capitals, e.g. MAX_IMAGES.

    Args:
        max_bytes: of a request's body.
        max_images: in a request.
        max_megapixels: of an image.
        max_waiting: requests that are answered or wait at the same time; more get 503.
    """

    max_bytes: int = 32 * 2**20
    max_images: int = 64
    max_megapixels: int = 40
    max_waiting: int = 64

    @classmethod
    def from_environment(cls) -> "Limits":
        """Read them."""
        return cls(**{one.name: int(os.environ.get(one.name.upper(), one.default)) for one in fields(cls)})


LIMITS = Limits.from_environment()


class Refused(Exception):
    """A request is refused.

    Args:
        status: of the answer.
        sentence: what is wrong.
    """

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


class Admission:
    """Refuse requests beyond the queue or with too large a body, before more of it is read than the limit.

    Args:
        app: what answers the others.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app, self.waiting = app, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        if self.waiting >= LIMITS.max_waiting:
            await _answer(503, f"{LIMITS.max_waiting} requests wait already. Try again.", scope, receive, send)
            return
        self.waiting += 1
        body = _Body(receive, send)
        try:
            await self.app(scope, body.receive, body.send)
        except _TooLarge:
            pass
        finally:
            self.waiting -= 1
        if body.too_large:
            sentence = f"A request should have at most {LIMITS.max_bytes} bytes. Send fewer or smaller images."
            await _answer(413, sentence, scope, receive, send)


class _TooLarge(Exception):
    """The body of a request is beyond the limit; what reads it may turn this into an answer of its own, which is not sent."""


class _Body:
    """Counts the bytes of a request's body while they are read."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._read, self.too_large = 0, False

    async def receive(self) -> Message:
        message = await self._receive()
        self._read += len(message.get("body", b""))
        if self._read > LIMITS.max_bytes:
            self.too_large = True
            raise _TooLarge
        return message

    async def send(self, message: Message) -> None:
        if not self.too_large:
            await self._send(message)


async def _answer(status: int, sentence: str, scope: Scope, receive: Receive, send: Send) -> None:
    await JSONResponse({"error": sentence}, status, {"connection": "close"})(scope, receive, send)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    folder = os.environ.get("GUARD")
    if not folder:
        raise SystemExit("GUARD should be the folder of a guard, e.g. GUARD=runs/folders/2026-11-26_14-05-09/guard.")
    trust = os.environ.get("TRUST", "").split()
    app.state.guard = Guard.load(folder, trust, os.environ.get("DEVICE", "cpu"))
    app.state.scoring = anyio.CapacityLimiter(1)
    yield


app = FastAPI(title="lightning_gradood", lifespan=_lifespan)
app.add_middleware(Admission)


@app.exception_handler(RequestValidationError)
async def _malformed(request: Request, error: RequestValidationError) -> JSONResponse:
    return JSONResponse({"error": "A request should be multipart with one or more files named `images`."}, 400)


@app.exception_handler(Refused)
async def _refused(request: Request, refused: Refused) -> JSONResponse:
    return JSONResponse({"error": refused.sentence}, refused.status)


@app.get("/ready")
async def ready(request: Request) -> dict[str, str | float]:
    """Say that the guard is loaded, and what it is."""
    about = request.app.state.guard.about
    return {"status": "ready", "detector": about.detector_name, "false_positive_rate": about.false_positive_rate}


@app.post("/score")
async def score(request: Request, images: list[UploadFile]) -> list[dict[str, object]]:
    """Score the images of a multipart request, in their order."""
    if len(images) > LIMITS.max_images:
        raise Refused(413, f"A request should have at most {LIMITS.max_images} images. Got {len(images)}.")
    given = [ImageBytes(one.filename or f"image {number}", await one.read()) for number, one in enumerate(images)]
    guard: Guard = request.app.state.guard
    verdicts = await anyio.to_thread.run_sync(_scored, guard, given, limiter=request.app.state.scoring)
    for verdict in verdicts:
        if verdict.error:
            raise Refused(400, verdict.error)
    return [{name: value for name, value in asdict(verdict).items() if name != "error"} for verdict in verdicts]


def _scored(guard: Guard, images: list[ImageBytes]) -> list[FileVerdict]:
    return list(guard.score_files(images, megapixels=LIMITS.max_megapixels))
