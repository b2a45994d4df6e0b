"""The verb `serve`: a guard behind HTTP. Lightning is not imported, and for `--help` neither torch nor a web server."""

import socket
import sys
import time
from collections import defaultdict
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from jsonargparse.typing import NonNegativeInt, OpenUnitInterval, PositiveFloat, PositiveInt

from lightning_gradood.cli.plain import plain
from lightning_gradood.cli.verbs import Stopped

if TYPE_CHECKING:
    from lightning_gradood.guard import Guard

_KINDS = {
    **dict.fromkeys(("gradood_guard_info", "gradood_requests_waiting"), "gauge"),
    **dict.fromkeys(("gradood_requests_total", "gradood_images_total"), "counter"),
    **{"gradood_request_seconds": "summary", "gradood_p_value": "histogram"},
}
_INFO, _REQUESTS = 'gradood_guard_info{{guard="{}"}}', 'gradood_requests_total{{code="{}"}}'
_WAITING, _OUTCOME = "gradood_requests_waiting", 'gradood_images_total{{outcome="{}"}}'
_SECONDS, _P_VALUE = "gradood_request_seconds_{}", "gradood_p_value_{}"
_BUSY = "{} requests wait already. Try again."
_AT_MOST = 'gradood_p_value_bucket{{le="{}"}}'
_BOUNDS = ("0.001", "0.01", "0.05", "0.1", "0.25", "0.5", "0.75", "1", "+Inf")  # near these shares where nothing drifts


@plain(
    "POST /score takes multipart files named `images` and gives the columns of `score` as JSON; GET /ready says that the guard "
    "is loaded, GET /metrics counts for Prometheus. Needs the extra `serve`.",
    trust={"action": "append", "type": str},
)
def serve(
    *,
    guard: str,
    host: str = "127.0.0.1",
    port: NonNegativeInt = 8000,
    false_positive_rate: OpenUnitInterval | None = None,
    device: str = "cpu",
    max_megabytes: PositiveFloat = 32.0,
    max_megapixels: PositiveFloat = 40.0,
    max_waiting: PositiveInt = 64,
    trust: list[str] | None = None,
) -> None:
    """Answer requests until a signal ends it.

    Args:
        guard: folder that `detect` has saved, runs/<experiment>/<time>/guard, or that of its run.
        host: address to listen at; 0.0.0.0 for all of this machine.
        port: to listen at; 0 for a free one.
        false_positive_rate: share of normal images that may be flagged.
        device: where the network runs, e.g. cuda.
        max_megabytes: of a request.
        max_megapixels: larger images are not decoded.
        max_waiting: requests that are answered or wait at a time; more get status 503.
        trust: a package of yours whose classes the guard may name; may be given several times.
    """
    from lightning_gradood.core import Refusal
    from lightning_gradood.guard import Guard

    loaded = Guard.load(guard, trust or (), device)
    if false_positive_rate is not None:
        loaded = loaded.with_false_positive_rate(false_positive_rate)
    try:
        import uvicorn

        app = application(loaded, max_megabytes, max_megapixels, max_waiting)
        listening = socket.create_server((host, port))
    except ImportError as error:
        raise Refusal(
            f'`serve` should find a web server. Got: {error}. pip install "lightning_gradood[serve]".'
        ) from error
    except (OSError, OverflowError) as error:
        raise Refusal(f"`--host` and `--port` should be free to listen at. Got {host}:{port}: {error}") from error
    sys.stderr.write(f"{loaded.about.identity} serves http://{host}:{listening.getsockname()[1]}/score\n")
    sys.stderr.flush()
    try:
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run([listening])
    except Stopped as stopped:
        stopped.sentence = f"stopped by {stopped.signal}. Requests that had begun were answered."
        raise


def application(guard: "Guard", max_megabytes: float, max_megapixels: float, max_waiting: int) -> Any:
    """Make an ASGI server; one thread scores, so that many requests take no more memory than one."""
    from anyio import CapacityLimiter, to_thread
    from fastapi import FastAPI, HTTPException, Request
    from fastapi.responses import JSONResponse, PlainTextResponse
    from starlette.datastructures import UploadFile

    from lightning_gradood.guard import ImageBytes

    app, alone, largest = FastAPI(title="lightning_gradood"), CapacityLimiter(1), max_megabytes * 1e6
    counts = defaultdict[str, float](float, {_INFO.format(guard.about.identity): 1, _WAITING: 0})
    outcomes, sums = map(_OUTCOME.format, ("passed", "flagged", "unreadable")), ("sum", "count")
    shares = [*map(_AT_MOST.format, _BOUNDS), *map(_P_VALUE.format, sums), *map(_SECONDS.format, sums)]
    counts |= dict.fromkeys([*outcomes, *shares], 0)

    @app.middleware("http")
    async def admit(request: Request, answer: Any) -> Any:
        full = counts[_WAITING] >= max_waiting and request.method == "POST"
        counts[_WAITING] += 1
        started, code = time.perf_counter(), 500  # where answering raises an error
        try:
            response = JSONResponse({"detail": _BUSY.format(max_waiting)}, 503) if full else await answer(request)
            code = response.status_code
            return response
        finally:
            counts[_WAITING] -= 1
            counts[_REQUESTS.format(code)] += 1
            counts[_SECONDS.format("count")] += 1
            counts[_SECONDS.format("sum")] += time.perf_counter() - started

    @app.get("/ready")
    async def ready() -> dict[str, str | float]:
        rates = {"threshold": guard.threshold, "false_positive_rate": guard.about.false_positive_rate}
        return {"status": "ready", "guard": guard.about.identity} | rates

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> str:
        return _exposed(counts)

    @app.post("/score")
    async def score(request: Request) -> list[dict[str, Any]]:
        if int(request.headers.get("content-length", largest + 1)) > largest:
            sentence = (
                f"A request should name its length, of at most {max_megabytes:g} MB. Send fewer or smaller images."
            )
            raise HTTPException(413, sentence, {"connection": "close"})
        async with request.form() as form:
            files = [one for one in form.getlist("images") if isinstance(one, UploadFile)]
            images = [ImageBytes(one.filename or f"image {row}", await one.read()) for row, one in enumerate(files)]
        if not images:
            raise HTTPException(400, "A request should be multipart with one or more files named `images`. Got none.")
        verdicts = await to_thread.run_sync(list, guard.score_files(images, megapixels=max_megapixels), limiter=alone)
        for one in verdicts:
            counts[_OUTCOME.format("unreadable" if one.error else "flagged" if one.flagged else "passed")] += 1
            if one.p_value is not None:
                counts[_P_VALUE.format("count")] += 1
                counts[_P_VALUE.format("sum")] += one.p_value
                for bound in _BOUNDS:
                    counts[_AT_MOST.format(bound)] += one.p_value <= float(bound)
        return [asdict(one) for one in verdicts]

    return app


def _exposed(counts: dict[str, float]) -> str:
    """Counts as Prometheus reads them, those of a metric below its type."""
    lines = {family: [f"# TYPE {family} {kind}\n"] for family, kind in _KINDS.items()}
    for name, value in counts.items():
        next(own for family, own in lines.items() if name.startswith(family)).append(f"{name} {value:.10g}\n")
    return "".join(line for own in lines.values() for line in own)
