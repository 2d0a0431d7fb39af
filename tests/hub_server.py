"""A server that speaks the few calls of the Hugging Face Hub that pushing and opening a run take."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    """Files by commit; `main` is the last one."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def files(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        sha = [*self.commits][-1] if revision == "main" else revision
        return (sha, self.commits[sha]) if sha in self.commits else None

    def commit(self, files: dict[str, bytes], message: str) -> str:
        sha = hashlib.sha1(f"{len(self.commits)}".encode()).hexdigest()
        self.commits[sha] = files
        self.messages.append(message)
        return sha


@dataclass
class Hub:
    """What the server holds, and what was asked of it: METHOD and path of each request."""

    token: str
    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)


@contextmanager
def serving(token: str) -> Generator[Hub]:
    """Serve on a free port of this machine; what writes needs the token."""
    hub = Hub(token)

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _send(self, content: Any, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, status: int, code: str = "") -> None:
        self._send({"error": code or "no"}, status, **({"X_Error_Code": code} if code else {}))

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts: list[bytes] = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    @property
    def _path(self) -> str:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        return path

    @property
    def _may(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def do_PUT(self) -> None:
        content = self._body()
        name = self._path.removeprefix("/large/")
        assert hashlib.sha256(content).hexdigest() == name
        self.hub.large[name] = content
        self._send({})

    def do_POST(self) -> None:
        path, body = self._path, self._body()
        if path == "/api/validate-yaml":
            self._send({"warnings": [], "errors": []})
        elif not self._may:
            self._refuse(401)
        elif path == "/api/repos/create":
            given = json.loads(body)
            name = f"{given['organization']}/{given['name']}"
            if name in self.hub.repositories:
                self._send({"error": "it is there", "url": f"{self.hub.url}/{name}"}, 409)
                return
            made = self.hub.repositories[name] = Repository(
                given.get("visibility") == "private" or given.get("private", False)
            )
            made.commit({".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")
            self._send({"url": f"{self.hub.url}/{name}", "id": name})
        elif re.fullmatch(r"/api/models/(.+/.+)/preupload/main", path):
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            self._send({"files": files})
        elif path.endswith(".git/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            told = [one | {"actions": {"upload": {"href": f"{self.hub.url}/large/{one['oid']}"}}} for one in objects]
            self._send({"transfer": "basic", "objects": told})
        elif found := re.fullmatch(r"/api/models/(.+/.+)/commit/main", path):
            self._commit(found[1], [json.loads(line) for line in body.splitlines()])
        else:
            self._refuse(404)

    def _commit(self, name: str, operations: list[dict[str, Any]]) -> None:
        repository = self.hub.repositories[name]
        files, message = {**[*repository.commits.values()][-1]}, ""
        for operation in operations:
            value = operation["value"]
            match operation["key"]:
                case "header":
                    message = value["summary"]
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.hub.large[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
        sha = repository.commit(files, message)
        self._send({"commitUrl": f"{self.hub.url}/{name}/commit/{sha}", "commitOid": sha, "commitMessage": message})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self._path
        of_models = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+).*)?", path)
        resolve = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        name = (of_models or resolve or {1: ""})[1]
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and not self._may):
            self._refuse(401 if not self._may else 404, "RepoNotFound")
            return
        revision = of_models[3] or "main" if of_models else resolve[2] if resolve else ""
        found = repository.files(revision)
        if found is None:
            self._refuse(404, "RevisionNotFound")
            return
        sha, files = found
        if resolve is not None:
            content = files[resolve[3]]
            self._send(content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=sha)
        elif of_models is not None and of_models[2] == "tree":
            rows = [
                {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for path, content in files.items()
            ]
            self._send(rows)
        else:
            siblings = [{"rfilename": path} for path in files]
            self._send({"id": name, "sha": sha, "siblings": siblings, "private": repository.private})
