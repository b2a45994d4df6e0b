"""A stand-in for W&B's server: it answers the real client over HTTP on this machine, and remembers what was sent.

It answers what `wandb sweep`, `wandb agent`, runs, artifacts and saved views ask for; anything else gets an empty answer.
"""

import copy
import gzip
import itertools
import json
import os
import re
import threading
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

ENTITY = "team"
_SENT_TO = re.compile(r"/files/[^/]+/[^/]+/(?P<run>[^/]+)/file_stream")
# Answers by the name of the operation, in the words of W&B's schema. A method of that name fills them in with what was asked.
_ANSWERS = """
Viewer:
  viewer: {id: "1", entity: team, username: me, email: me@example.org, flags: "{}", admin: false,
           teams: {edges: [{node: {name: team, id: "2"}}]}}
GetDefaultEntity: {viewer: {id: "1", entity: team}}
GetProjects:
  models:
    edges:
    - {cursor: c, node: {__typename: Project, id: p, internalId: p, name: lightning_gradood, entityName: team,
                         createdAt: &then "2026-01-01T00:00:00", isBenchmark: false, user: null, owner: null}}
    pageInfo: {__typename: PageInfo, endCursor: null, hasNextPage: false}
ProjectInternalId: {project: {internalId: UHJvamVjdEludGVybmFsSWQ6MQ==}}  # ProjectInternalId:1 in base64
ProjectViews: {project: {allViews: {edges: [], pageInfo: {endCursor: null, hasNextPage: false}}}}
UpsertView: {upsertView: {view: {description: "", user: null, updatedAt: *then, createdAt: *then}}}
UpsertBucket:
  upsertBucket:
    inserted: true
    bucket: {description: "", config: "{}", historyLineCount: 0, project: {id: p, entity: {id: e, name: team}}}
CreateRunFiles: {createRunFiles: {uploadHeaders: []}}
ArtifactType: {project: {artifact: null}}
CreateArtifact:  # committed: the server has these files already, so that none is sent
  createArtifact: {artifact: {state: COMMITTED, artifactSequence: {id: s, latestArtifact: null}}}
ArtifactMembershipByName:
  project:
    artifactCollectionMembership:
      {__typename: ArtifactCollectionMembership, id: m, versionIndex: 0, createdAt: *then,
       aliases: [{__typename: ArtifactAlias, id: "1", alias: best}],
       artifactCollection: &guard
         {__typename: ArtifactSequence, id: c, name: guard-tiny,
          project: {id: p, internalId: p, name: lightning_gradood, entity: {name: team}}},
       artifact:
         {__typename: Artifact, id: a, artifactSequence: *guard, versionIndex: 0, tags: [], aliases: [], state: COMMITTED,
          artifactType: {name: guard}, description: null, historyStep: null, commitHash: null, updatedAt: null, size: 1,
          ttlIsInherited: true, ttlDurationSeconds: -1, digest: d, digestAlgorithm: MANIFEST_MD5, fileCount: 1,
          createdAt: *then}}
NotifyScriptableRunAlert: {notifyScriptableRunAlert: {success: true}}
UpsertSweep:
  upsertSweep:
    sweep: {name: sweep1, project: {id: p, name: lightning_gradood, entity: {id: e, name: team}}}
    configValidationWarnings: []
Sweep:
  project:
    sweep: {id: sweep1, name: sweep1, displayName: sweep1, state: RUNNING, description: "", priorRuns: [], bestLoss: null,
            controller: null, scheduler: null, heartbeatAt: null, createdAt: "2026-01-01", runs: {edges: []}}
CreateAgent: {createAgent: {agent: {id: agent1}}}
Heartbeat: {agentHeartbeat: {agent: {id: agent1}}}
"""
_SAME = {"UpsertView2": "UpsertView", "SweepWithRuns": "Sweep"}


@dataclass
class Run:
    """What a run has sent: what it was created with (project, group, job type, tags, sweep), its rows, its last summary."""

    about: dict = field(default_factory=dict)
    history: list = field(default_factory=list)
    summary: dict = field(default_factory=dict)

    @property
    def config(self):
        """Configuration values by name."""
        return {name: one["value"] for name, one in json.loads(self.about["config"]).items()}


class WandbServer:
    """Runs by id, artifacts, saved views, alerts, and the points that an agent is to try.

    `best` is the mean AUROC of the guard that has the alias `best`, None where none has.
    """

    def __init__(self, address):
        self.address, self.best, self.refuses_views, self.points = address, None, False, []
        self.runs = defaultdict(Run)
        self.sweeps, self.artifacts, self.views, self.alerts = [], [], [], []
        self._handed_out, self._answers = itertools.count(), yaml.safe_load(_ANSWERS)

    def environment(self, home):
        """Variables of a process whose real client talks to this server, and to nothing else."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
        own = {"WANDB_BASE_URL": self.address, "WANDB_API_KEY": "0" * 40, "WANDB_MODE": "online"}
        return kept | own | {"HOME": str(home)}

    def answer(self, name, sent):
        """Answer a question of W&B's GraphQL by its operation's name."""
        name = name[:1].upper() + name[1:]
        name = _SAME.get(name, name)
        answer = copy.deepcopy(self._answers.get(name, {}))
        fill = getattr(self, f"_{re.sub(r'(?<!^)(?=[A-Z])', '_', name).lower()}", None)
        return answer if fill is None else fill(answer, sent) or answer

    def _upsert_bucket(self, answer, sent):
        run = self.runs[sent["name"] or f"run{len(self.runs)}"]
        run.about.update({name: value for name, value in sent.items() if value is not None})
        run.summary.update(json.loads(sent.get("summaryMetrics") or "{}"))
        bucket = answer["upsertBucket"]["bucket"]
        bucket["project"]["name"] = sent["project"]
        bucket |= {"id": sent["name"], "name": sent["name"], "displayName": sent.get("displayName") or sent["name"]}
        bucket["sweepName"] = sent.get("sweep")

    def _create_run_files(self, answer, sent):
        files = [{"name": name, "uploadUrl": f"{self.address}/upload/{name}"} for name in sent["files"]]
        answer["createRunFiles"] |= {"runID": sent["run"], "files": files}

    def _artifact_membership_by_name(self, answer, sent):
        if self.best is None:
            return {"project": {"artifactCollectionMembership": None}}
        artifact = answer["project"]["artifactCollectionMembership"]["artifact"]
        artifact["metadata"] = json.dumps({"mean_val_auroc": self.best})

    def _create_artifact(self, answer, sent):
        self.artifacts.append(sent["input"])
        answer["createArtifact"]["artifact"]["id"] = f"artifact{len(self.artifacts)}"

    def _notify_scriptable_run_alert(self, answer, sent):
        self.alerts.append(sent)

    def _upsert_view(self, answer, sent):
        if self.refuses_views:
            return {"upsertView": None}
        known = [one["id"] for one in self.views if one["id"] == sent.get("id") or one["name"] == sent["name"]]
        self.views.append(sent | {"id": known[0] if known else f"view{len(self.views)}", "inserted": not known})
        view = {name: self.views[-1].get(name) for name in ("id", "type", "name", "spec", "displayName")}
        project = {"id": "p", "name": sent["projectName"], "entityName": ENTITY}
        answer["upsertView"]["view"] |= view | {"project": project}

    def _project_views(self, answer, sent):
        reports = {one["displayName"]: one for one in self.views if one.get("type") == "runs"}
        nodes = [{name: one[name] for name in ("id", "name", "displayName")} for one in reports.values()]
        answer["project"]["allViews"]["edges"] = [{"node": node, "cursor": "c"} for node in nodes]

    def _upsert_sweep(self, answer, sent):
        self.sweeps.append(yaml.safe_load(sent["config"]) if isinstance(sent["config"], str) else sent["config"])

    def _sweep(self, answer, sent):
        answer["project"]["sweep"]["config"] = yaml.safe_dump(self.sweeps[-1])

    def _heartbeat(self, answer, sent):
        commands = []
        if not any(json.loads(sent.get("runState") or "{}").values()):  # no point is being tried
            if (number := next(self._handed_out)) < len(self.points):
                values = {name: {"value": value} for name, value in self.points[number].items()}
                about = {"run_id": f"point{number}", "program": self.sweeps[-1]["program"]}
                commands = [{"type": "run", **about, "args": values, "logs": []}]
            else:
                commands = [{"type": "exit", "logs": []}]
        answer["agentHeartbeat"]["commands"] = json.dumps(commands)

    def take(self, run, files):
        """Remember what a run has streamed."""
        for line in files.get("wandb-history.jsonl", {}).get("content", []):
            self.runs[run].history.append(json.loads(line))
        for line in files.get("wandb-summary.json", {}).get("content", [])[-1:]:
            self.runs[run].summary.update(json.loads(line))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Be quiet."""

    def do_POST(self):
        content, answer = self.rfile.read(int(self.headers.get("Content-Length") or 0)), {}
        if self.headers.get("Content-Encoding") == "gzip":
            content = gzip.decompress(content)
        if self.path == "/graphql":
            asked = json.loads(content)
            operation = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
            answer = {"data": self.server.held.answer(operation[1] if operation else "", asked.get("variables") or {})}
        elif match := _SENT_TO.fullmatch(self.path):
            self.server.held.take(match["run"], json.loads(content).get("files") or {})
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_PUT = do_POST  # noqa: N815 - what is put is a file, at an address of neither kind


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        """A client that has gone away is no fault."""


@contextmanager
def wandb_server():
    """Serve until the block ends."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.held = WandbServer(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.held
        finally:
            server.shutdown()
            thread.join()
