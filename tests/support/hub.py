"""A Hugging Face hub on loopback: the few requests that an upload and a download of a model make, over HTTP."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlparse

SHA = "5" * 40
"""The one commit there is."""


@dataclass
class Hub:
    """``files``: {repository: {path: content}}; ``requests``: (method, path, token) of all there were."""

    address: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    requests: list[tuple[str, str, str]] = field(default_factory=list)


@contextmanager
def serve() -> Iterator[Hub]:
    """The hub, until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _sum(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_POST(self) -> None:
        path = self._noted()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = path.strip("/").split("/")
        if path == "/api/repos/create":
            asked = json.loads(body)
            if asked["organization"] == "nobody":
                return self.send_error(403)
            self.hub.files.setdefault(f"{asked['organization']}/{asked['name']}", {})
            return self._json({"url": f"{self.hub.address}/{asked['organization']}/{asked['name']}"})
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if parts[:2] == ["api", "models"] and parts[4] == "preupload":
            found = json.loads(body)["files"]
            return self._json(
                {
                    "files": [
                        {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in found
                    ]
                }
            )
        if parts[:2] == ["api", "models"] and parts[4] == "commit":
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    content = base64.b64decode(entry["value"]["content"])
                    self.hub.files["/".join(parts[2:4])][entry["value"]["path"]] = content
            url = f"{self.hub.address}/{parts[2]}/{parts[3]}/commit/{SHA}"
            return self._json({"commitUrl": url, "commitOid": SHA, "success": True})
        self.send_error(404)

    def do_HEAD(self) -> None:
        self._file(self._noted(), body=False)

    def do_GET(self) -> None:
        path = self._noted()
        parts = path.strip("/").split("/")
        repository = "/".join(parts[2:4])
        if parts[:2] == ["api", "models"] and repository in self.hub.files:
            names = sorted(self.hub.files[repository])
            if parts[4] == "tree":
                held = self.hub.files[repository]
                return self._json(
                    [
                        {"type": "file", "path": name, "size": len(held[name]), "oid": _sum(held[name])}
                        for name in names
                    ]
                )
            return self._json(
                {"id": repository, "sha": SHA, "siblings": [{"rfilename": name} for name in names]}
            )
        self._file(path, body=True)

    def _file(self, path: str, *, body: bool) -> None:
        """/OWNER/NAME/resolve/REVISION/FILE."""
        owner, name, _, _, *rest = [*path.strip("/").split("/"), "", "", ""]
        found = self.hub.files.get(f"{owner}/{name}", {}).get("/".join(part for part in rest if part))
        if found is None:
            return self.send_error(404)
        self.send_response(200)
        self.send_header("ETag", f'"{_sum(found)}"')
        self.send_header("X-Repo-Commit", SHA)
        self.send_header("Content-Length", str(len(found)))
        self.end_headers()
        if body:
            self.wfile.write(found)

    def _noted(self) -> str:
        path = urlparse(self.path).path
        self.hub.requests.append((self.command, path, self.headers.get("Authorization", "")))
        return path

    def _json(self, content: Any) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the console."""
