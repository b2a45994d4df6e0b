"""A stand-in for W&B's server: it answers the real client over HTTP on this machine, and remembers what was sent.

It answers what `wandb sweep`, `wandb agent`, runs, artifacts and saved views ask for, and nothing more: what it does not know is
answered by nothing, and kept in `unknown`.
"""

import base64
import gzip
import itertools
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

ENTITY = "team"
_SENT_TO = re.compile(r"/files/[^/]+/[^/]+/(?P<run>[^/]+)/file_stream")


@dataclass
class Run:
    """What a run has sent.

    `about` is what it was created with (project, group, job type, tags, sweep), `history` its rows, `summary` its last summary.
    """

    about: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> dict[str, Any]:
        """Configuration values by name."""
        return {name: one["value"] for name, one in json.loads(self.about["config"]).items()}


@dataclass
class WandbServer:
    """Runs by id, artifacts, saved views, alerts, and the points that an agent is to try.

    `best` is the mean AUROC of the guard that has the alias `best`, None where none has.
    `environment` makes the real client talk to it, and to nothing else.
    """

    points: list[dict[str, Any]] = field(default_factory=list)
    runs: dict[str, Run] = field(default_factory=dict)
    sweeps: list[dict[str, Any]] = field(default_factory=list)
    artifacts: list[dict[str, Any]] = field(default_factory=list)
    views: list[dict[str, Any]] = field(default_factory=list)
    alerts: list[dict[str, Any]] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    best: float | None = None
    refuses_views: bool = False
    address: str = ""
    handed_out: Iterator[int] = field(default_factory=itertools.count)

    def environment(self, home: Path) -> dict[str, str]:
        """Variables of a process that talks to this server."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
        return kept | {
            "WANDB_BASE_URL": self.address,
            "WANDB_API_KEY": "0" * 40,
            "HOME": str(home),
            "WANDB_MODE": "online",
        }

    def answer(self, name: str, variables: dict[str, Any]) -> dict[str, Any]:
        """Answer a question of W&B's GraphQL by its operation's name."""
        method = getattr(self, f"_{re.sub(r'(?<!^)(?=[A-Z])', '_', name).lower()}", None)
        if method is None:
            self.unknown.append(name)
            return {}
        return method(variables)

    def _viewer(self, _: dict[str, Any]) -> dict[str, Any]:
        me = {"id": "1", "entity": ENTITY, "username": "me", "email": "me@example.org", "flags": "{}", "admin": False}
        return {"viewer": {**me, "teams": {"edges": [{"node": {"name": ENTITY, "id": "2"}}]}}}

    def _upsert_bucket(self, sent: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.setdefault(sent["name"] or f"run{len(self.runs)}", Run())
        run.about.update({name: value for name, value in sent.items() if value is not None})
        if sent.get("summaryMetrics"):
            run.summary.update(json.loads(sent["summaryMetrics"]))
        project = {"id": "p", "name": sent["project"], "entity": {"id": "e", "name": ENTITY}}
        bucket = {"id": sent["name"], "name": sent["name"], "displayName": sent.get("displayName") or sent["name"]}
        rest = {
            "description": "",
            "config": "{}",
            "sweepName": sent.get("sweep"),
            "historyLineCount": 0,
            "project": project,
        }
        return {"upsertBucket": {"bucket": bucket | rest, "inserted": True}}

    def _create_run_files(self, sent: dict[str, Any]) -> dict[str, Any]:
        files = [{"name": name, "uploadUrl": f"{self.address}/upload/{name}"} for name in sent["files"]]
        return {"createRunFiles": {"runID": sent["run"], "uploadHeaders": [], "files": files}}

    def _artifact_type(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"artifact": None}}

    def _get_default_entity(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"viewer": {"id": "1", "entity": ENTITY}}

    def _artifact_membership_by_name(self, sent: dict[str, Any]) -> dict[str, Any]:
        if self.best is None:
            return {"project": {"artifactCollectionMembership": None}}
        name = sent["name"].partition(":")[0]
        project = {"id": "p", "internalId": "p", "name": sent["project"], "entity": {"name": ENTITY}}
        collection = {"__typename": "ArtifactSequence", "id": "c", "name": name, "project": project}
        artifact = {"__typename": "Artifact", "id": "a", "artifactSequence": collection, "versionIndex": 0, "tags": []}
        artifact |= {
            "artifactType": {"name": "guard"},
            "metadata": json.dumps({"mean_val_auroc": self.best}),
            "state": "COMMITTED",
        }
        artifact |= dict.fromkeys(("description", "historyStep", "commitHash", "updatedAt"))
        artifact |= {
            "ttlIsInherited": True,
            "ttlDurationSeconds": -1,
            "size": 1,
            "digest": "d",
            "digestAlgorithm": "MANIFEST_MD5",
            "fileCount": 1,
        }
        artifact |= {"createdAt": "2026-01-01T00:00:00", "aliases": []}
        found = {
            "__typename": "ArtifactCollectionMembership",
            "id": "m",
            "artifact": artifact,
            "artifactCollection": collection,
        }
        return {
            "project": {
                "artifactCollectionMembership": found
                | {
                    "versionIndex": 0,
                    "createdAt": "2026-01-01T00:00:00",
                    "aliases": [{"__typename": "ArtifactAlias", "id": "1", "alias": "best"}],
                }
            }
        }

    def _create_artifact(self, sent: dict[str, Any]) -> dict[str, Any]:
        self.artifacts.append(sent["input"])
        # "committed": the server has these files already, so that none is sent
        made = {
            "id": f"artifact{len(self.artifacts)}",
            "state": "COMMITTED",
            "artifactSequence": {"id": "s", "latestArtifact": None},
        }
        return {"createArtifact": {"artifact": made}}

    def _notify_scriptable_run_alert(self, sent: dict[str, Any]) -> dict[str, Any]:
        self.alerts.append(sent)
        return {"notifyScriptableRunAlert": {"success": True}}

    def _upsert_view(self, sent: dict[str, Any]) -> dict[str, Any]:
        if self.refuses_views:
            return {"upsertView": None}
        known = [one["id"] for one in self.views if one["id"] == sent.get("id") or one["name"] == sent["name"]]
        self.views.append(sent | {"id": known[0] if known else f"view{len(self.views)}", "inserted": not known})
        view = {name: self.views[-1].get(name) for name in ("id", "type", "name", "spec", "displayName")}
        project = {"id": "p", "name": sent["projectName"], "entityName": ENTITY}
        rest = {"description": "", "project": project, "user": None}
        return {
            "upsertView": {
                "view": view | rest | {"updatedAt": "2026-01-01T00:00:00", "createdAt": "2026-01-01T00:00:00"}
            }
        }

    _upsert_view2 = _upsert_view

    def _project_views(self, sent: dict[str, Any]) -> dict[str, Any]:
        reports = {one["displayName"]: one for one in self.views if one.get("type") == "runs"}
        nodes = [{name: one[name] for name in ("id", "name", "displayName")} for one in reports.values()]
        views = {
            "edges": [{"node": node, "cursor": "c"} for node in nodes],
            "pageInfo": {"endCursor": None, "hasNextPage": False},
        }
        return {"project": {"allViews": views}}

    def _project_internal_id(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"internalId": base64.b64encode(b"ProjectInternalId:1").decode()}}

    def _get_projects(self, _: dict[str, Any]) -> dict[str, Any]:
        node = {
            "__typename": "Project",
            "id": "p",
            "internalId": "p",
            "name": "lightning_gradood",
            "entityName": ENTITY,
        }
        node |= {"createdAt": "2026-01-01T00:00:00", "isBenchmark": False, "user": None, "owner": None}
        page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        return {"models": {"edges": [{"node": node, "cursor": "c"}], "pageInfo": page}}

    def _upsert_sweep(self, sent: dict[str, Any]) -> dict[str, Any]:
        self.sweeps.append(yaml.safe_load(sent["config"]) if isinstance(sent["config"], str) else sent["config"])
        project = {"id": "p", "name": sent["projectName"], "entity": {"id": "e", "name": ENTITY}}
        return {"upsertSweep": {"sweep": {"name": "sweep1", "project": project}, "configValidationWarnings": []}}

    def _sweep(self, sent: dict[str, Any]) -> dict[str, Any]:
        held = {
            "id": "sweep1",
            "name": "sweep1",
            "displayName": "sweep1",
            "state": "RUNNING",
            "description": "",
            "priorRuns": [],
        }
        held |= {
            "bestLoss": None,
            "controller": None,
            "scheduler": None,
            "heartbeatAt": None,
            "createdAt": "2026-01-01",
        }
        runs = {"edges": []}
        return {"project": {"sweep": {**held, "config": yaml.safe_dump(self.sweeps[-1]), "runs": runs}}}

    _sweep_with_runs = _sweep

    def _create_agent(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"createAgent": {"agent": {"id": "agent1"}}}

    def _heartbeat(self, sent: dict[str, Any]) -> dict[str, Any]:
        state = sent.get("runState") or "{}"
        if any(json.loads(state).values()):  # a point is being tried
            commands: list[dict[str, Any]] = []
        elif (number := next(self.handed_out)) < len(self.points):
            values = {name: {"value": value} for name, value in self.points[number].items()}
            about = {"run_id": f"point{number}", "program": self.sweeps[-1]["program"]}
            commands = [{"type": "run", **about, "args": values, "logs": []}]
        else:
            commands = [{"type": "exit", "logs": []}]
        return {"agentHeartbeat": {"agent": {"id": "agent1"}, "commands": json.dumps(commands)}}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """A client that has gone away is no fault."""


@contextmanager
def wandb_server() -> Iterator[WandbServer]:
    """Serve until the block ends."""
    held = WandbServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Be quiet."""

        def do_GET(self) -> None:
            self._reply({})

        def do_PUT(self) -> None:
            self._content()
            self._reply({})

        def do_POST(self) -> None:
            content = self._content()
            if self.path == "/graphql":
                asked = json.loads(content)
                operation = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
                self._reply({"data": held.answer(operation[1] if operation else "", asked.get("variables") or {})})
                return
            if match := _SENT_TO.fullmatch(self.path):
                _take(held.runs[match["run"]], json.loads(content).get("files") or {})
            self._reply({})

        def _content(self) -> bytes:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            return gzip.decompress(content) if self.headers.get("Content-Encoding") == "gzip" else content

        def _reply(self, content: dict[str, Any]) -> None:
            text = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    server = _Server(("127.0.0.1", 0), Handler)
    held.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield held
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _take(run: Run, files: dict[str, Any]) -> None:
    for name, sent in files.items():
        if name == "wandb-history.jsonl":
            run.history += [json.loads(line) for line in sent["content"]]
        elif name == "wandb-summary.json":
            run.summary.update(json.loads(sent["content"][-1]))
