"""Names on the hub: what a server on loopback refuses, and what it gives."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from loopback_hub import serve

from codejax.interop.hub import find_folder

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def endpoint():
    with serve() as address:
        yield address


def find(source: str, endpoint: str, home: Path) -> str:
    """The one line in which a process of its own refuses a name."""
    program = f"from codejax.interop.hub import find_folder\nfind_folder({source!r})"
    environment = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
        env=environment,
    )
    assert done.returncode == 1
    return done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("owner", "message"),
    [
        ("gated", "is gated: accept its terms on its page, then log in"),
        ("private", "is not on the hub, or private and you not logged in"),
        ("broken", "could not be downloaded: "),
    ],
)
def test_a_refusal_is_one_line(owner, message, endpoint, tmp_path):
    line = find(f"hf://{owner}/model", endpoint, tmp_path)
    assert line.startswith(f"ValueError: hf://{owner}/model")
    assert message in line


def test_no_server_is_one_line(tmp_path):
    line = find("hf://some/model", "http://127.0.0.1:9", tmp_path)
    assert "hf://some/model could not be downloaded: " in line
    assert "refused" in line


def test_without_the_package_it_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match="to download hf://a/b install huggingface_hub"):
        find_folder("hf://a/b")


@pytest.mark.parametrize("name", ["hf://", "hf://model", "hf://a/b/c", "hf://a/b@", "hf://../x y"])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(ValueError, match="is no name on the hub; wanted hf://OWNER/NAME"):
        find_folder(name)
