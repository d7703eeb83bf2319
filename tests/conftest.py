"""How every test runs: on eight CPU devices, with rank promotion an error and every skip accounted.

Warnings are errors by `filterwarnings` in pyproject.toml, which holds the reasoned exceptions. With
`CI=true` a skip whose reason matches none of `EXPECTED_SKIPS` fails the run.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import pathlib
import re

# Eight devices; and code that is compiled in half the time, which small tests never win back.
FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"

# Before anything imports jax; child processes inherit all of it.
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
# Many tests compile the same small programs, in many processes: each is compiled once and kept.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parents[1] / ".compiled")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")

import pytest  # noqa: E402

# CI allows a skip when the reason given to `pytest.skip` matches one of these.
EXPECTED_SKIPS = (
    r"^needs a GPU",
    r"^needs a TPU",
    r"^needs root",  # mounts a small file system
    r"^needs another user than root",  # root may write to read-only folders
    r"^needs a checkout that an ordinary user may read",
    r"^needs torch",  # the default suite compares with committed goldens
    r"^needs transformers",
    r"^needs jinja2",  # renders chat templates of others
    r"^needs libtpu",  # no wheel for this platform
    r"^needs the benchmark files",  # CODEJAX_BENCHMARKS is not set
    r"^needs a compiler for",  # of a language that this machine may lack
    r"^needs Chromium",
)


def skip_reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """The text given to `pytest.skip`, without pytest's prefix."""
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return reason.removeprefix("Skipped: ")


def is_expected(reason: str) -> bool:
    """Whether CI accepts a skip for this reason."""
    return any(re.search(pattern, reason) for pattern in EXPECTED_SKIPS)


class SkipListing:
    """Lists the skips of a session at its end, and fails it in CI when one is unexpected."""

    def __init__(self) -> None:
        self.skips: list[tuple[str, str]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            self.skips.append((report.nodeid, skip_reason(report)))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self.skips.append((report.nodeid, skip_reason(report)))

    def unexpected(self) -> list[tuple[str, str]]:
        return [(test, reason) for test, reason in self.skips if not is_expected(reason)]

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if os.environ.get("CI") in ("true", "1") and exitstatus == 0 and self.unexpected():
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.skips:
            return
        terminalreporter.section("skipped")
        for test, reason in self.skips:
            mark = "" if is_expected(reason) else "UNEXPECTED (fails in CI): "
            terminalreporter.line(f"{mark}{test}: {reason}")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(SkipListing(), "skip-listing")
