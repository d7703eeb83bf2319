"""What every benchmark does with its figures: writes them with what they were measured on."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import pathlib
import platform
from collections.abc import Mapping
from typing import Any


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser that has `--output`."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--output", type=pathlib.Path, help="where to write the figures as JSON")
    return made


def add_start(parser: argparse.ArgumentParser) -> None:
    """Options that say which weights a benchmark begins with, and what it changes in a recipe."""
    parser.add_argument("--start", default="runs/programs", help="see configs/sft.py:programs")
    parser.add_argument("--tokenizer", default="", help="where it is, if not where START has it")
    parser.add_argument(
        "--override", action="append", default=[], metavar="PATH=VALUE", help="of codejax's recipe"
    )


def has_start(arguments: argparse.Namespace) -> bool:
    """Whether these weights are there; else says how to get some."""
    if arguments.start.startswith("hf://") or pathlib.Path(arguments.start).exists():
        return True
    print(f"there is no folder {arguments.start}; configs/sft.py:programs makes one")
    return False


def write(figures: Mapping[str, Any], output: pathlib.Path | None, *packages: str) -> None:
    """Writes the figures, with machine and versions, where `--output` says; else nowhere."""
    if output is None:
        return
    measured_on = {
        "python": platform.python_version(),
        "machine": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
    }
    versions = {name: importlib.metadata.version(name) for name in packages}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps({**figures, **versions, **measured_on}, indent=1) + "\n")


def resident(process: int | str = "self") -> int:
    """Bytes of memory that a process holds; 0 once it is gone. Linux only."""
    try:
        fields = pathlib.Path(f"/proc/{process}/statm").read_text().split()
    except OSError:
        return 0
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")
