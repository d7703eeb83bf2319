"""Journals that survive torn ends and full disks, and records that survive odd texts."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_task import Echoes, Scripted

from codejax.evaluation.generator import Answer, Request
from codejax.evaluation.loop import Settings, evaluate
from codejax.evaluation.records import Records, answer_line, answer_of, read_records
from codejax.rollout import journal
from codejax.rollout.journal import Journal, read_lines
from codejax.rollout.verdicts import cut
from codejax.tasks.task import Prompt

ODD = '</script>\0\ud800\u2028\u202e"\\\r\n\x1b[31m'


def written(path: Path, count: int) -> bytes:
    """A journal of so many lines, and its bytes."""
    with Journal(path) as made:
        for number in range(count):
            made.append({"number": number, "text": "line\nline"})
    return path.read_bytes()


def test_torn_ends_are_cut_wherever_they_are_torn(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    whole = written(path, 3)
    first = whole.index(b"\n") + 1
    for size in range(first, len(whole) + 1):
        path.write_bytes(whole[:size])
        count = whole[:size].count(b"\n")
        assert [line["number"] for line in read_lines(path)] == list(range(count))
        with Journal(path) as again:
            again.append({"number": 99})
        assert [line["number"] for line in read_lines(path)] == [*range(count), 99]


def test_an_end_that_was_never_filled_is_cut(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    whole = written(path, 2)
    path.write_bytes(whole + b"\0" * 40 + b"\n")
    assert len(read_lines(path)) == 2
    Journal(path).close()
    assert path.read_bytes() == whole


def test_damage_within_is_an_error(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    whole = written(path, 3)
    path.write_bytes(b"?" + whole)
    with pytest.raises(ValueError, match=r"a\.jsonl, line 1: no JSON object"):
        read_lines(path)


def test_a_full_disk_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.jsonl"
    whole = written(path, 2)
    write, calls = os.write, []

    def fill(file: int, text: bytes) -> int:
        if calls:
            raise OSError(28, "No space left on device")
        calls.append(1)
        return write(file, text[:5])

    with Journal(path) as made:
        monkeypatch.setattr(journal.os, "write", fill)
        with pytest.raises(OSError, match="No space"):
            made.append({"number": 2})
        monkeypatch.undo()
        assert path.read_bytes() == whole
        made.append({"number": 2})
    assert len(read_lines(path)) == 3


def test_batches_reach_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    synced = []
    monkeypatch.setattr(journal.os, "fsync", lambda file: synced.append(file))
    monkeypatch.setattr(journal, "BATCH_SECONDS", 1e9)
    with Journal(tmp_path / "a.jsonl") as made:
        for number in range(journal.BATCH_LINES + 1):
            made.append({"number": number})
        assert len(synced) == 1
    assert len(synced) == 2
    made.close()


@settings(max_examples=50)
@given(
    st.text(st.characters(exclude_categories=())),
    st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)),
)
def test_answers_survive_paper(text: str, log_probability: float | None):
    request = Request("p", 1, Prompt("x"), 5)
    answer = Answer(request, text, 3, "length", log_probability, "why")
    with_paper = json.loads(json.dumps(answer_line(answer)))
    assert answer_of(with_paper, request.prompt) == answer


def test_odd_texts_are_kept_as_they_are(tmp_path: Path):
    evaluate(Echoes(1), Scripted(lambda request: ODD), None, Settings(), tmp_path)
    [line] = read_records(tmp_path).samples.values()
    assert line["text"] == ODD


def test_one_process_at_a_time(tmp_path: Path):
    code = (
        "import pathlib, sys\n"
        "from codejax.evaluation.records import Records\n"
        "Records(pathlib.Path(sys.argv[1]), {})\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with Records(tmp_path, {}):
        done = subprocess.run(command, capture_output=True, text=True)
        assert "in use by another evaluation" in done.stderr
    assert subprocess.run(command, capture_output=True).returncode == 0


def test_newer_formats_are_refused(tmp_path: Path):
    (tmp_path / "samples.jsonl").write_text('{"header": {"format": 2}}\n')
    with pytest.raises(ValueError, match="format 2"):
        read_records(tmp_path)


def test_long_texts_lose_their_middle():
    assert cut("short") == "short"
    text = cut("a" * 10_000 + "b" * 10_000)
    assert len(text) < 4100
    assert text.startswith("aaa")
    assert text.endswith("bbb")
    assert "16000 characters" in text
