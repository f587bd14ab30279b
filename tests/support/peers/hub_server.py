"""A stand-in for the Hugging Face Hub on this machine: repositories of models, and uploads.

It speaks what the Hub's client says to push a folder: who is it, a new repository, which files go
where, uploads of large files by LFS, and a commit. It trusts one token.
"""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from local_server import local_server

TOKEN, USER = "hf_writes", "someone"


@dataclass
class Hub:
    """State of the stand-in, and how it behaves.

    Attributes:
        repositories: the payload that made each repository, by USER/NAME.
        files: content by path of each repository.
        large: content of each large file by its SHA-256.
        refuses: the status with which a path that ends so is answered.
        asked: method and path of each request.
    """

    url: str = ""
    repositories: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    refuses: dict[str, int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Return the status and the JSON that answer a request."""
        parts = path.strip("/").split("/")
        if method == "PUT":
            assert hashlib.sha256(body).hexdigest() == parts[-1]
            self.large[parts[-1]] = body
            return 200, {}
        match parts:
            case ["api", "whoami-v2"]:
                return 200, {"name": USER, "type": "user", "auth": {}}
            case ["api", "validate-yaml"]:
                return 200, {"errors": [], "warnings": []}
            case ["api", "repos", "create"]:
                return self._create(json.loads(body))
            case ["api", "models", user, name, "preupload", "main"]:
                files = [mode_of(file) for file in json.loads(body)["files"]]
                return 200, {"files": files}
            case [_, _, "info", "lfs", "objects", "batch"]:
                objects = [self._place(wanted) for wanted in json.loads(body)["objects"]]
                return 200, {"transfer": "basic", "objects": objects}
            case ["api", "models", user, name, "commit", "main"]:
                self._commit(self.files[f"{user}/{name}"], body)
                url = f"{self.url}/{user}/{name}"
                return 200, {"commitUrl": f"{url}/commit/1", "commitOid": "1" * 40}
        return 404, {"error": f"{method} {path} is not known here"}

    def _create(self, wanted: dict[str, Any]) -> tuple[int, Any]:
        name = f"{wanted.get('organization') or USER}/{wanted['name']}"
        told = {"url": f"{self.url}/{name}", "name": name, "id": name}
        if name in self.repositories:
            return 409, {"error": "You already created this model repo", **told}
        self.repositories[name], self.files[name] = wanted, {}
        return 200, told

    def _place(self, wanted: dict[str, Any]) -> dict[str, Any]:
        href = f"{self.url}/large/{wanted['oid']}"
        actions = {} if wanted["oid"] in self.large else {"actions": {"upload": {"href": href}}}
        return {"oid": wanted["oid"], "size": wanted["size"], **actions}

    def _commit(self, files: dict[str, bytes], body: bytes) -> None:
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                assert value["encoding"] == "base64"
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.large[value["oid"]]
            else:
                assert line["key"] == "header", line


def mode_of(file: dict[str, Any]) -> dict[str, Any]:
    """Return how a file is to be sent."""
    is_large = file["path"].endswith(".safetensors")
    return {
        "path": file["path"],
        "uploadMode": "lfs" if is_large else "regular",
        "shouldIgnore": False,
    }


@contextmanager
def hub() -> Iterator[Hub]:
    """Serve until the block ends."""
    served = Hub()

    def answer(request: BaseHTTPRequestHandler) -> None:
        path = request.path.partition("?")[0]
        served.asked.append(f"{request.command} {path}")
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        trusted = (
            path.startswith("/large/") or request.headers["Authorization"] == f"Bearer {TOKEN}"
        )
        refused = (code for end, code in served.refuses.items() if path.endswith(end))
        status: int = next(refused, 0)
        if status or not trusted:
            status, told = status or 401, {"error": "Invalid credentials in Authorization header"}
        else:
            status, told = served.answer(request.command, path, body)
        content = json.dumps(told).encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    with local_server(answer) as served.url:
        yield served
