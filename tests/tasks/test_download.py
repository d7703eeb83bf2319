"""Downloads from a real server on loopback: right, wrong, cut, missing, and again."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator

import pytest

from codejax.tasks.download import ATTEMPTS, download
from codejax.tasks.jsonl_task import JsonlTask

DATA = b'{"id": 1}\n' * 1000
SHA256 = hashlib.sha256(DATA).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves DATA; paths say what goes wrong."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        count = self.asked.count(self.path)
        if self.path == "/missing.jsonl":
            self.send_error(404)
            return
        if self.path == "/busy.jsonl" and count < 3:
            self.send_error(503)
            return
        cut = self.path == "/cut.jsonl" or (self.path == "/flaky.jsonl" and count < 2)
        self.send_response(200)
        self.send_header("Content-Length", str(len(DATA)))
        self.end_headers()
        self.wfile.write(DATA[:100] if cut else DATA)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    handler = type("Bound", (Handler,), {"asked": asked})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{made.server_address[1]}", asked
        made.shutdown()
        thread.join()


def test_a_download_is_kept_and_whole(server, tmp_path):
    url, asked = server
    path = download(f"{url}/rows.jsonl", SHA256, folder=tmp_path)
    assert path.read_bytes() == DATA
    assert download(f"{url}/rows.jsonl", SHA256, folder=tmp_path) == path
    assert len(asked) == 1
    path.write_bytes(b"damaged since")
    assert download(f"{url}/rows.jsonl", SHA256, folder=tmp_path).read_bytes() == DATA


@pytest.mark.parametrize("name", ["busy.jsonl", "flaky.jsonl"])
def test_what_passes_is_tried_again(server, tmp_path, name):
    url, _ = server
    path = download(f"{url}/{name}", SHA256, folder=tmp_path, pause=0.01)
    assert path.read_bytes() == DATA


@pytest.mark.parametrize(
    ("name", "sha256", "said", "times"),
    [
        ("rows.jsonl", "0" * 64, f"has sha256 {SHA256}, wanted 000", 1),
        ("cut.jsonl", SHA256, "could not be downloaded", ATTEMPTS),
        ("missing.jsonl", SHA256, "HTTP 404", 1),
        ("rows.jsonl", "abc", "wants its sha256", 0),
    ],
)
def test_what_is_wrong_leaves_nothing(server, tmp_path, name, sha256, said, times):
    url, asked = server
    with pytest.raises(ValueError, match=said) as caught:
        download(f"{url}/{name}", sha256, folder=tmp_path, pause=0.01)
    assert "\n" not in str(caught.value)
    assert len(asked) == times
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_no_server_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="could not be downloaded"):
        download("http://127.0.0.1:9/x", SHA256, folder=tmp_path, pause=0.01)


def test_a_task_takes_an_address(server, tmp_path, monkeypatch):
    url, asked = server
    monkeypatch.setenv("CODEJAX_CACHE", str(tmp_path))
    task = JsonlTask(path=f"{url}/rows.jsonl", sha256=SHA256)
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 1: field 'prompt'"):
        _ = task.problems
    assert len(asked) == 1
    assert len(list(tmp_path.rglob("rows.jsonl"))) == 1
