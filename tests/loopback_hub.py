"""A hub on loopback: gives the models of a folder by name, and refuses some owners' on purpose."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REFUSALS = {"gated": (403, "GatedRepo"), "private": (401, "RepoNotFound"), "broken": (500, "")}


class Hub(http.server.BaseHTTPRequestHandler):
    """models: OWNER/NAME folders, each at one commit."""

    models: Path | None = None

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        owner = next((part for part in path.split("/") if part in REFUSALS), None)
        if owner is not None or self.models is None:
            status, code = REFUSALS[owner or "broken"]
            self.answer(status, b"", {"X-Error-Code": code} if code else {})
        elif path.startswith("/api/models/"):
            self.describe(*path.removeprefix("/api/models/").split("/"))
        else:
            name, _, file = path[1:].partition(f"/resolve/{COMMIT}/")
            content = (self.models / name / file).read_bytes()
            tag = f'"{hashlib.sha256(content).hexdigest()}"'
            self.answer(200, content, {"ETag": tag, "X-Repo-Commit": COMMIT})

    do_HEAD = do_GET

    def describe(self, owner: str, name: str, kind: str, revision: str) -> None:
        """What revision a name stands for, or which files it has."""
        assert self.models is not None
        folder = self.models / owner / name
        if revision not in ("main", COMMIT):
            self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
            return
        made: object = {"id": f"{owner}/{name}", "sha": COMMIT, "siblings": []}
        if kind == "tree":
            made = [
                {"type": "file", "path": p.name, "size": p.stat().st_size, "oid": p.name}
                for p in sorted(folder.iterdir())
            ]
        self.answer(200, json.dumps(made).encode(), {"Content-Type": "application/json"})

    def answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        """Send it, without the content where only the head is wanted."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serve(models: Path | None = None) -> Iterator[str]:
    """The address of a hub with these models; without any it only refuses."""
    handler = type("Handler", (Hub,), {"models": models})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
