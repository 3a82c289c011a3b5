"""A Hub on this machine: as much of the Hugging Face Hub's endpoints as reading and writing a model takes."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".bin", ".png")  # what the Hub would keep in large file storage


def git_hash(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Repository:
    """Commits from the first to the last, each all its files; ``refs`` name some of them."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False

    def commit(self, files):
        sha = hashlib.sha1(repr((sorted(files.items()), len(self.commits))).encode()).hexdigest()
        self.commits[sha] = files
        self.refs["main"] = sha
        return sha


@dataclass
class Hub:
    """What the server holds and what it was asked; it damages the paths in ``cut`` and ``forged``."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    cut: set[str] = field(default_factory=set)
    forged: set[str] = field(default_factory=set)
    down: bool = False
    url: str = ""

    def add(self, name, files):
        return self.repositories.setdefault(name, Repository()).commit(files)

    def downloads(self):
        """The paths of the files that were sent."""
        return [
            line.split("/resolve/")[1].partition("/")[2]
            for line in self.asked
            if line.startswith("GET /") and "/resolve/" in line
        ]


class Refused(Exception):
    """An answer that is an error: its status, and the code by which the Hub says which."""


def _facts(path, data):
    large = path.endswith(LARGE)
    lfs = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 100} if large else None
    return lfs, git_hash(b"pointer" + data if large else data)


class Handler(BaseHTTPRequestHandler):
    """One request at a time of the endpoints, by their paths."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_):
        pass

    def _body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _say(self, content, status=200, headers=None):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Length": len(data), **(headers or {})}.items():
            self.send_header(key, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _answer(self):
        body = self._body()
        self.hub.asked.append(f"{self.command} {self.path}")
        path = unquote(urlsplit(self.path).path)
        try:
            if self.hub.down:
                raise Refused(503, "")
            for pattern, answer in ROUTES:
                found = re.fullmatch(pattern, f"{self.command} {path}")
                if found:
                    return answer(self, body, *found.groups())
            raise Refused(404, "")
        except Refused as error:
            status, code = error.args
            self._say({"error": code}, status, {"X-Error-Code": code} if code else {})

    do_GET = do_HEAD = do_POST = do_PUT = _answer

    def _at(self, name, revision):
        """The repository, the commit that a revision names, and its files."""
        repository = self.hub.repositories.get(name)
        if repository is None:
            raise Refused(404, "RepoNotFound")
        sha = repository.refs.get(revision, revision)
        if repository.commits and sha not in repository.commits:
            raise Refused(404, "RevisionNotFound")
        return repository, sha, repository.commits.get(sha, {})

    def info(self, _, name, revision):
        repository, sha, files = self._at(name, revision or "main")
        siblings = []
        for path, data in files.items():
            lfs, blob = _facts(path, data)
            siblings.append({"rfilename": path, "size": len(data), "blobId": blob, **({"lfs": lfs} if lfs else {})})
        self._say(
            {"id": name, "modelId": name, "sha": sha, "siblings": siblings, "tags": [], "private": repository.private}
        )

    def tree(self, _, name, revision):
        listing = []
        for path, data in self._at(name, revision)[2].items():
            lfs, blob = _facts(path, data)
            entry = {"type": "file", "path": path, "size": len(data), "oid": blob}
            listing.append(entry | ({"lfs": {**lfs, "oid": lfs["sha256"]}} if lfs else {}))
        self._say(listing)

    def resolve(self, _, name, revision, path):
        repository, sha, files = self._at(name, revision)
        if repository.gated:  # the Hub lists what is in it, and closes the files alone
            raise Refused(403, "GatedRepo")
        if path not in files:
            raise Refused(404, "EntryNotFound")
        data = files[path]
        lfs, blob = _facts(path, data)
        headers = {"X-Repo-Commit": sha, "ETag": f'"{lfs["sha256"] if lfs else blob}"'}
        if self.command == "GET":
            data = data[: len(data) // 2] if path in self.hub.cut else data
            data = data[:-1] + bytes([data[-1] ^ 1]) if path in self.hub.forged else data
        self._say(data, headers=headers)

    def create(self, body):
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] == "stranger":
            raise Refused(403, "")
        known = name in self.hub.repositories
        if not known:
            self.hub.repositories[name] = Repository(
                private=asked.get("private", False) or asked.get("visibility") == "private"
            )
        self._say({"url": f"{self.hub.url}/{name}"}, 409 if known else 200)

    def validate(self, _):
        self._say({"errors": [], "warnings": []})

    def preupload(self, body, name, revision):
        self._at(name, revision)
        files = [
            {
                "path": one["path"],
                "uploadMode": "lfs" if one["path"].endswith(LARGE) else "regular",
                "shouldIgnore": False,
            }
            for one in json.loads(body)["files"]
        ]
        self._say({"files": files})

    def batch(self, body, name):
        objects = [
            {
                "oid": one["oid"],
                "size": one["size"],
                "actions": {"upload": {"href": f"{self.hub.url}/storage/{one['oid']}"}},
            }
            for one in json.loads(body)["objects"]
        ]
        self._say({"transfer": "basic", "objects": objects})

    def store(self, body, digest):
        assert hashlib.sha256(body).hexdigest() == digest
        self.hub.stored[digest] = body
        self._say({})

    def commit(self, body, name, revision):
        repository, _, files = self._at(name, revision)
        files = dict(files)
        for line in body.decode().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.stored[value["oid"]]
        sha = repository.commit(files)
        self._say({"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{name}/commit/{sha}"})


REPOSITORY, REVISION = r"([\w.-]+/[\w.-]+)", r"([\w.-]+)"
ROUTES = [
    (f"GET /api/models/{REPOSITORY}(?:/revision/{REVISION})?", Handler.info),
    (f"GET /api/models/{REPOSITORY}/tree/{REVISION}", Handler.tree),
    (f"(?:GET|HEAD) /{REPOSITORY}/resolve/{REVISION}/(.+)", Handler.resolve),
    ("POST /api/repos/create", Handler.create),
    ("POST /api/validate-yaml", Handler.validate),
    (f"POST /api/models/{REPOSITORY}/preupload/{REVISION}", Handler.preupload),
    (rf"POST /{REPOSITORY}\.git/info/lfs/objects/batch", Handler.batch),
    (r"PUT /storage/(\w+)", Handler.store),
    (f"POST /api/models/{REPOSITORY}/commit/{REVISION}", Handler.commit),
]


def serve():
    """A running hub, and the function that ends it."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def end():
        server.shutdown()
        server.server_close()

    return hub, end
