"""A small Hub on this machine: what huggingface_hub's client asks for to make, fill and read a model's repository."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_test"


class Hub:
    """Repositories by name, each a list of commits (id, files by path); `with Hub() as hub` serves them.

    damaged: paths of files that are sent with their last byte changed.
    """

    def __init__(self):
        self.repositories: dict[str, dict] = {}
        self.objects: dict[str, bytes] = {}
        self.damaged: set[str] = set()
        self.asked: list[str] = []

    def __enter__(self) -> "Hub":
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()

    def commit(self, name: str, revision: str) -> tuple[str, dict[str, bytes]]:
        """A commit by its id, or the last one."""
        commits = self.repositories[name]["commits"]
        return next((each for each in commits if each[0] == revision), commits[-1])


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        for pattern, method in ROUTES.items():
            if match := re.fullmatch(pattern, f"{self.command} {path}"):
                return getattr(self, method)(body, *match.groups())
        self.send(404, {"error": f"no route {self.command} {path}"})

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def log_message(self, *_) -> None:
        pass

    def send(self, code: int, content, **headers) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for key, value in {"Content-Type": "application/json", "Content-Length": len(data), **headers}.items():
            self.send_header(key.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def may_write(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self.send(401, {"error": "Invalid username or password."})
        return False

    def create(self, body: bytes) -> None:
        if self.may_write():
            about = json.loads(body)
            name = f"{about['organization']}/{about['name']}"
            if name in self.hub.repositories:
                return self.send(409, {"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"})
            self.hub.repositories[name] = {"visibility": about.get("visibility"), "commits": [("0" * 40, {})]}
            self.send(200, {"url": f"{self.hub.url}/{name}", "name": name, "id": name})

    def preupload(self, body: bytes, name: str) -> None:
        if self.may_write():
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = {path: "lfs" if path.endswith(".safetensors") else "regular" for path in files}
            self.send(200, {"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes.items()]})

    def batch(self, body: bytes, name: str) -> None:
        if self.may_write():
            objects = [
                each | {"actions": {"upload": {"href": f"{self.hub.url}/upload/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            self.send(200, {"transfer": "basic", "objects": objects})

    def upload(self, body: bytes, oid: str) -> None:
        right = hashlib.sha256(body).hexdigest() == oid
        self.hub.objects |= {oid: body} if right else {}
        self.send(200 if right else 400, {})

    def commit(self, body: bytes, name: str) -> None:
        if self.may_write():
            files = dict(self.hub.commit(name, "")[1])
            for line in map(json.loads, body.decode().splitlines()):
                if line["key"] == "file":
                    files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "lfsFile":
                    files[line["value"]["path"]] = self.hub.objects[line["value"]["oid"]]
            identity = hashlib.sha1(body).hexdigest()
            self.hub.repositories[name]["commits"].append((identity, files))
            url = f"{self.hub.url}/{name}/commit/{identity}"
            self.send(200, {"success": True, "commitOid": identity, "commitUrl": url})

    def valid(self, _: bytes) -> None:
        self.send(200, {"errors": [], "warnings": []})

    def revision(self, _: bytes, name: str, revision: str) -> None:
        if name not in self.hub.repositories:
            return self.send(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        identity, files = self.hub.commit(name, revision)
        siblings = [{"rfilename": path} for path in files]
        self.send(
            200, {"id": name, "modelId": name, "sha": identity, "siblings": siblings, "private": True, "tags": []}
        )

    def tree(self, _: bytes, name: str, revision: str) -> None:
        _, files = self.hub.commit(name, revision)
        entries = [
            {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for path, data in files.items()
        ]
        self.send(200, entries)

    def resolve(self, _: bytes, name: str, revision: str, path: str) -> None:
        identity, files = self.hub.commit(name, revision)
        if path not in files:
            return self.send(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
        data, etag = files[path], hashlib.sha256(files[path]).hexdigest()
        if path in self.hub.damaged:
            data = data[:-1] + bytes([data[-1] ^ 1])
        self.send(200, data, X_Repo_Commit=identity, ETag=f'"{etag}"', Content_Type="application/octet-stream")


MODEL = r"([\w.-]+/[\w.-]+)"
ROUTES = {
    "POST /api/repos/create": "create",
    f"POST /api/models/{MODEL}/preupload/main": "preupload",
    rf"POST /{MODEL}\.git/info/lfs/objects/batch": "batch",
    r"PUT /upload/(\w+)": "upload",
    f"POST /api/models/{MODEL}/commit/main": "commit",
    "POST /api/validate-yaml": "valid",
    f"GET /api/models/{MODEL}/revision/(.+)": "revision",
    f"GET /api/models/{MODEL}/tree/(.+)": "tree",
    f"(?:GET|HEAD) /{MODEL}/resolve/([^/]+)/(.+)": "resolve",
}
