"""Completions made elsewhere, as a generator: a JSONL file of {"task_id", "completion"}.

That is the format of the official harnesses; the file may be gzipped. The n-th line of a problem is
its sample n. A problem that the file leaves out counts as failed, as does one that lacks samples
which others have: nothing becomes better by being left away.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import gzip
import hashlib
import json
import os
import pathlib
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

from codejax.evaluation.generator import Answer, Request


class SamplesFile:
    """The completions of a file, by problem. Raises ValueError where it is not in the format."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = pathlib.Path(path)
        content = self.path.read_bytes()
        self.fingerprint = hashlib.sha256(content).hexdigest()
        self.completions: dict[str, list[str]] = {}
        for number, line in enumerate(_lines(self.path, content), 1):
            if line.strip():
                problem, completion = _entry(line, f"{self.path}, line {number}")
                self.completions.setdefault(problem, []).append(completion)
        if not self.completions:
            raise ValueError(f"{self.path} holds no samples")

    @property
    def num_samples(self) -> int:
        """The most that any problem has."""
        return max(map(len, self.completions.values()))

    def check(self, problems: Sequence[str]) -> None:
        """ValueError where the file has samples of other problems than these."""
        strangers = sorted(self.completions.keys() - set(problems))
        if strangers:
            raise ValueError(
                f"{self.path} has samples of {len(strangers)} problems that are not in the task, "
                f"{strangers[0]!r} among them; the task's are {problems[0]!r} and so on"
            )

    def generate(self, requests: Sequence[Request]) -> Iterator[Answer]:
        """As a `Generator`; finish is "failed" where the file has no such sample."""
        for request in requests:
            known = self.completions.get(request.problem, [])
            if request.sample < len(known):
                yield Answer(request, known[request.sample], 0, "stop")
            else:
                missing = f"no sample {request.sample} of it in {self.path.name}"
                yield Answer(request, "", 0, "failed", message=missing)


def _lines(path: pathlib.Path, content: bytes) -> list[str]:
    try:
        text = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        return text.decode().split("\n")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _entry(line: str, where: str) -> tuple[str, str]:
    try:
        row: Any = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where}: no JSON: {error}") from error
    if not isinstance(row, dict) or "task_id" not in row:
        raise ValueError(f'{where}: wanted {{"task_id": ..., "completion": ...}}')
    completion = row.get("completion")
    if not isinstance(completion, str):
        raise ValueError(f"{where}: field 'completion' is {completion!r:.40}; wanted text")
    return str(row["task_id"]), completion
