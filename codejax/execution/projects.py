"""Project tests: a folder of files, a test command, and evidence that its checks were passed.

An exit code is never a pass by itself, as the program runs inside the command: it could end it with
0. A pass wants a report as well. `{report}` in the command is the path of a JUnit file that must
name every expected test as passed (`pytest --junitxml={report}`); `{token}` is an unpredictable
word that must be printed on a line of its own, for a script that prints it after its last check.
What stays exposed is said in docs/security.md: code inside the command could forge either.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import secrets
import xml.etree.ElementTree as ElementTree
from typing import Any

from codejax.execution.protocol import Test, Verdict

REPORT = "{report}"
TOKEN = "{token}"
MAX_REPORT = 8 << 20


def prepare(test: Test) -> tuple[list[str], str]:
    """The command with its placeholders filled in, and the token. ValueError without either."""
    if not any(REPORT in part or TOKEN in part for part in test.command):
        raise ValueError(
            "the command shows no evidence but its exit code; give it {report} or {token}"
        )
    token = secrets.token_hex(16)
    report = f"report-{token}.xml"
    return [part.replace(REPORT, report).replace(TOKEN, token) for part in test.command], token


def judge(
    test: Test, token: str, facts: dict[str, Any], stdout: bytes, report: bytes
) -> tuple[Verdict, str]:
    """The verdict on a command that ended by itself."""
    wanted = test.expected.decode().split()
    if any(REPORT in part for part in test.command):
        try:
            outcomes = read_report(report)
        except ValueError as error:
            return Verdict.NO_RESULT, f"the command left no report: {error}"
        missing = [name for name in wanted if name not in outcomes]
        failed = [name for name, passed in outcomes.items() if not passed]
        failed = [name for name in failed if not wanted or name in wanted]
        if failed:
            return Verdict.WA, f"failed: {', '.join(failed)[:1000]}"
        if missing or not outcomes:
            return Verdict.NO_RESULT, f"not reported: {', '.join(missing)[:1000] or 'any test'}"
    elif token.encode() not in [line.strip() for line in stdout.splitlines()]:
        verdict = Verdict.RE if facts["code"] else Verdict.NO_RESULT
        return verdict, f"the token was not printed; exit code {facts['code']}"
    if facts["code"]:
        return Verdict.RE, f"exit code {facts['code']}"
    return Verdict.AC, ""


def read_report(data: bytes) -> dict[str, bool]:
    """`class::test` -> whether it passed, of a JUnit file. ValueError where it is none."""
    if not data or len(data) > MAX_REPORT or b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise ValueError("no JUnit file")
    try:
        root = ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise ValueError(str(error)) from error
    outcomes = {}
    for case in root.iter("testcase"):
        name = "::".join(filter(None, (case.get("classname"), case.get("name"))))
        outcomes[name] = not any(
            case.find(tag) is not None for tag in ("failure", "error", "skipped")
        )
    return outcomes
