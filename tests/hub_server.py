"""A hub that speaks the calls of an upload, in a process of its own; with faults to order. What it holds is asked at ``/state``.

    python hub_server.py TOKEN [PART [XET]]

Calls: whoami-v2, repos/create, validate-yaml, repository info and tree, preupload, LFS batch, PUT (whole or in parts) and verify,
commit. Files of more than PART bytes are taken in parts (0: none are), each batch a new upload, as the storage behind the hub has
it. With XET, a folder, the hub gives tokens for a xet storage that lies there; without, it knows no xet. Faults (``POST /faults
{"commit": ["500"]}``) strike a call once each, in order: ``ok`` (none), ``500``, ``401``, ``drop`` (the connection, in the middle
of the body), ``lost`` (done, but answered 500), ``page`` (HTML instead of JSON), ``stall`` (never answered), ``echo`` (repeats
the token in a 400).
"""

import base64
import hashlib
import json
import re
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LARGE = 2_000
"""Bytes from which a file goes to LFS."""


@dataclass
class Hub:
    token: str
    part: int = 0
    xet: str = ""
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)
    repos: dict[str, dict[str, Any]] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    puts: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    commits: list[list[str]] = field(default_factory=list)
    faults: dict[str, list[str]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def state(self) -> dict[str, Any]:
        repos = {name: {"private": repo["private"], "files": {path: base64.b64encode(data).decode()
                                                               for path, data in repo["files"].items()}}
                 for name, repo in self.repos.items()}
        return {"repos": repos, "objects": sorted(self.objects), "puts": self.puts, "calls": self.calls, "commits": self.commits,
                "parts": {upload: [len(parts[number]) for number in sorted(parts)] for upload, parts in self.parts.items()}}


def blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        return None

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def do_PUT(self) -> None:
        self.answer()

    def reply(self, status: int, data: Any, kind: str = "application/json", etag: str = "") -> None:
        body = data.encode() if isinstance(data, str) else json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if etag:
            self.send_header("ETag", etag)
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()
        self.wfile.write(body)

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        path = self.path.partition("?")[0]
        name, arguments = self.route(path)
        strike = None
        with self.hub.lock:
            if name not in ("state", "faults"):
                self.hub.calls.append(name)
                strike = (self.hub.faults.get(name) or [None]).pop(0)  # type: ignore[list-item]
        if strike == "drop":
            self.rfile.read(length // 2)
            self.close_connection = True
            self.connection.close()
            return
        body = self.rfile.read(length)
        if name == "state":
            self.reply(200, self.hub.state())
        elif name == "faults":
            self.hub.faults |= json.loads(body)
            self.reply(200, {})
        elif strike == "stall":
            threading.Event().wait()
        elif strike == "500":
            self.reply(500, {"error": "in trouble"})
        elif strike == "page":
            self.reply(502, "<html>bad gateway</html>", "text/html")
        elif strike == "echo":
            self.reply(400, {"error": f"you sent {self.headers.get('Authorization')}"})
        elif name not in STORAGE and (strike == "401" or self.headers.get("Authorization") != f"Bearer {self.hub.token}"):
            self.reply(401, {"error": "Invalid username or password."})
        else:
            with self.hub.lock:
                status, data = getattr(self, name)(body, *arguments)
            if strike == "lost":
                status, data = 500, {"error": "lost"}
            self.reply(status, data, etag=hashlib.md5(body).hexdigest() if name == "part" else "")

    def route(self, path: str) -> tuple[str, tuple[str, ...]]:
        for name, pattern in ROUTES:
            if match := re.fullmatch(pattern, path):
                return name, match.groups()
        return "nothing", ()

    def nothing(self, body: bytes) -> tuple[int, Any]:
        return 404, {"error": f"no such call: {self.command} {self.path}"}

    def whoami(self, body: bytes) -> tuple[int, Any]:
        return 200, {"type": "user", "name": "someone", "orgs": []}

    def create(self, body: bytes) -> tuple[int, Any]:
        wanted = json.loads(body)
        name = f"{wanted.get('type', 'model')}s/{wanted['organization'] or 'someone'}/{wanted['name']}"
        if wanted["organization"] not in ("someone", "org"):
            return 403, {"error": "no right to write there"}
        url = f"http://{self.headers['Host']}/{name.removeprefix('models/')}"
        if name in self.hub.repos:
            return 409, {"error": "You already created this repo", "url": url}
        private = wanted.get("visibility") == "private" or wanted.get("private") is True
        self.hub.repos[name] = {"private": private, "files": {".gitattributes": b"*.safetensors filter=lfs\n"}, "lfs": {}}
        return 200, {"url": url, "name": name, "id": "1"}

    def validate(self, body: bytes) -> tuple[int, Any]:
        return 200, {"errors": [], "warnings": []}

    def info(self, body: bytes, repo: str) -> tuple[int, Any]:
        found = self.hub.repos.get(repo)
        if found is None:
            return 404, {"error": "Repository not found"}
        return 200, {"id": repo.partition("/")[2], "_id": "1", "private": found["private"], "sha": "0" * 40, "siblings": [],
                     "tags": [], "downloads": 0, "likes": 0}

    def tree(self, body: bytes, repo: str) -> tuple[int, Any]:
        found = self.hub.repos[repo]
        rows = [{"type": "directory", "path": "attribution", "oid": "0" * 40, "size": 0}] if any(
            name.startswith("attribution/") for name in found["files"]) else []
        for name, data in found["files"].items():
            row: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": blob(data)}
            if oid := found["lfs"].get(name):
                row["lfs"] = {"oid": oid, "size": len(data), "pointerSize": 130}
            rows.append(row)
        return 200, rows

    def preupload(self, body: bytes, repo: str) -> tuple[int, Any]:
        found = self.hub.repos[repo]["files"]
        return 200, {"files": [{
            "path": one["path"], "uploadMode": "lfs" if one["size"] > LARGE else "regular", "shouldIgnore": False,
            "oid": None if one["path"] not in found else blob(found[one["path"]])} for one in json.loads(body)["files"]]}

    def batch(self, body: bytes, repo: str) -> tuple[int, Any]:
        here = f"http://{self.headers['Host']}"
        objects = []
        for one in json.loads(body)["objects"]:
            upload: dict[str, Any] = {"href": f"{here}/lfs/{one['oid']}"}
            if 0 < self.hub.part < one["size"]:
                upload_id = f"{one['oid']}-{len(self.hub.parts)}"
                self.hub.parts[upload_id] = {}
                count = -(-one["size"] // self.hub.part)
                urls = {f"{number:05}": f"{here}/part/{upload_id}/{number}" for number in range(1, count + 1)}
                upload = {"href": f"{here}/complete/{upload_id}", "header": {"chunk_size": str(self.hub.part), **urls}}
            actions = {"upload": upload, "verify": {"href": f"{here}/verify"}}
            objects.append(one if one["oid"] in self.hub.objects else {**one, "actions": actions})
        return 200, {"transfer": "basic", "objects": objects}

    def put(self, body: bytes, oid: str) -> tuple[int, Any]:
        if hashlib.sha256(body).hexdigest() != oid:
            return 400, {"error": "these bytes have another hash"}
        self.hub.objects[oid] = body
        self.hub.puts.append(oid)
        return 200, {}

    def part(self, body: bytes, upload_id: str, number: str) -> tuple[int, Any]:
        self.hub.parts[upload_id][int(number)] = body
        return 200, {}

    def complete(self, body: bytes, upload_id: str) -> tuple[int, Any]:
        """The parts of this very upload, each by its number and the hash that it was answered."""
        wanted, arrived = json.loads(body), self.hub.parts[upload_id]
        sound = [{"partNumber": number, "etag": hashlib.md5(arrived[number]).hexdigest()} for number in sorted(arrived)]
        if wanted != {"oid": upload_id.partition("-")[0], "parts": sound}:
            return 400, {"error": "these are not the parts that arrived"}
        return self.put(b"".join(arrived[number] for number in sorted(arrived)), wanted["oid"])

    def xet(self, body: bytes, repo: str) -> tuple[int, Any]:
        if not self.hub.xet:
            return self.nothing(body)
        return 200, {"casUrl": f"local://{self.hub.xet}", "accessToken": "short-lived", "exp": 4_000_000_000}

    def verify(self, body: bytes) -> tuple[int, Any]:
        wanted = json.loads(body)
        return (200, {}) if len(self.hub.objects.get(wanted["oid"], b"")) == wanted["size"] else (404, {"error": "not there"})

    def commit(self, body: bytes, repo: str) -> tuple[int, Any]:
        found, done = self.hub.repos[repo], []
        for line in map(json.loads, body.decode().splitlines()):
            key, value = line["key"], line["value"]
            if key == "file":
                found["files"][value["path"]] = base64.b64decode(value["content"])
                found["lfs"].pop(value["path"], None)
            elif key == "lfsFile":
                if value["oid"] not in self.hub.objects and not self.hub.xet:
                    return 400, {"error": "an LFS object is missing"}
                # what lies in xet storage is not seen from here: its length is
                found["files"][value["path"]] = self.hub.objects.get(value["oid"], bytes(value["size"]))
                found["lfs"][value["path"]] = value["oid"]
            elif key == "deletedFile":
                del found["files"][value["path"]]
            done.append(f"{key} {value.get('path', '')}".strip())
        self.hub.commits.append(done)
        return 200, {"commitUrl": f"http://{self.headers['Host']}/{repo}/commit/1", "commitOid": "1" * 40}


_REPO = r"((?:models|datasets)/[^/]+/[^/]+)"
ROUTES = [
    ("state", "/state"), ("faults", "/faults"), ("whoami", "/api/whoami-v2"), ("create", "/api/repos/create"),
    ("validate", "/api/validate-yaml"), ("tree", rf"/api/{_REPO}/tree/main"), ("preupload", rf"/api/{_REPO}/preupload/main"),
    ("commit", rf"/api/{_REPO}/commit/main"), ("info", rf"/api/{_REPO}"), ("put", "/lfs/([0-9a-f]{64})"), ("verify", "/verify"),
    ("part", r"/part/([0-9a-f]{64}-\d+)/(\d+)"), ("complete", r"/complete/([0-9a-f]{64}-\d+)"),
    ("xet", rf"/api/{_REPO}/xet-write-token/main"),
    ("batch", r"/(.+)\.git/info/lfs/objects/batch")]

STORAGE = ("put", "part", "complete")
"""Calls that carry no token: their addresses were given to whoever had one."""


if __name__ == "__main__":
    Handler.hub = Hub(sys.argv[1], int((sys.argv[2:] or ["0"])[0]), "".join(sys.argv[3:]))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()
