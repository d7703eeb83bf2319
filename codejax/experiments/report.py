"""Reports: the work folders of runs in, a folder with figures and one self-contained page out.

A sweep's folder has a report of its own kind. It reads what runs wrote and computes nothing new but
means; it starts no run.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import shlex
from collections.abc import Sequence

from etils import epath

from codejax.experiments.figures import draw_figures
from codejax.experiments.improved import stage_figures
from codejax.experiments.page import page
from codejax.experiments.record import read_runs
from codejax.experiments.sweep_report import is_sweep, report_sweep
from codejax.rollout.page import has_episodes, write_page


def report(workdirs: Sequence[epath.PathLike], output: epath.PathLike) -> epath.Path:
    """Write `output`/index.html and a PNG for each figure; returns the page's path.

    One work folder gives the report of a run or of a sweep, several the comparison of runs.

    Raises:
        ValueError: a folder is missing or holds nothing of a run, or its JSON files are damaged.
            Damaged lines of metrics are counted on the page instead.
    """
    sweeps = [str(workdir) for workdir in workdirs if is_sweep(workdir)]
    if sweeps and len(workdirs) > 1:
        raise ValueError(f"{sweeps[0]} is a sweep, whose report is its own; name it alone")
    if sweeps:
        return report_sweep(workdirs[0], output)
    runs = read_runs(workdirs)
    figures = draw_figures(runs)
    stages = stage_figures(runs[0]) if len(runs) == 1 else []
    output = epath.Path(output)
    output.mkdir(parents=True, exist_ok=True)
    for figure in [*figures, *stages]:
        (output / f"{figure.name}.png").write_bytes(figure.png)
    folders = " ".join(shlex.quote(str(run.path)) for run in runs)
    command = f"codejax report {folders} --output={shlex.quote(str(output))}"
    index = output / "index.html"
    if len(runs) == 1 and has_episodes(runs[0].path):
        write_page(runs[0].path, name=runs[0].name, output=output)
    text = page(runs, figures, stages=stages, command=command, folder=output)
    index.write_text(text, encoding="utf-8")
    return index
