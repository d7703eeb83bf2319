"""Which estimator of advantages: four of them, all else equal; after the survey's first table.

codejax sweep --config=configs/ablations/rl_estimators.py:cpu --workdir=runs/rl_estimators
codejax report runs/rl_estimators
"""
# SPDX-License-Identifier: Apache-2.0

from codejax.experiments.sweep import Published, PublishedRow, Row, Sweep
from codejax.recipe import thaw
from codejax.rl.advantage import Grpo, GrpoPassK, ReinforcePlusPlusBaseline, Rloo
from codejax.rl.training import PolicyTraining

from ._policies import (
    ABOUT,
    COLUMNS,
    CPU_MEASURES,
    SURVEY_MEASURES,
    cpu_policy,
    survey_policy,
)

ESTIMATORS = {
    "rloo": Rloo(),
    "reinforce++ baseline": ReinforcePlusPlusBaseline(),
    "grpo": Grpo(),
    "grpo_passk": GrpoPassK(),
}
PUBLISHED = Published(
    about=ABOUT,
    columns=COLUMNS,
    drawn="pass@1",
    rows=(
        PublishedRow(name="rloo", values=(400, 0.322, 0.389)),
        PublishedRow(name="reinforce++ baseline", values=(280, 0.318, 0.356)),
        PublishedRow(name="grpo", values=(480, 0.301, 0.371)),
        PublishedRow(name="grpo_passk", values=(420, 0.274, 0.328)),
    ),
)


def survey() -> Sweep:
    """Answers of 4K tokens, 16 to a prompt. Weights and problems are yours; for a pod slice, set
    mesh and executor too.

    codejax sweep --config=configs/ablations/rl_estimators.py:survey --workdir=DIR \\
        '--config.rows[*].recipe.start=MODEL' \\
        '--config.rows[*].recipe.tasks[0].path=contests.jsonl' \\
        '--config.rows[*].recipe.held_out.tasks[0].path=livecodebench.jsonl'
    """
    return Sweep(
        name="rl_estimators",
        about="Four estimators of advantages at the survey's scale.",
        rows=_rows(survey_policy()),
        measures=SURVEY_MEASURES,
        published=PUBLISHED,
    )


def cpu() -> Sweep:
    """A model of 3M parameters on small programs, 20 steps a run; twelve runs on two cores.

    codejax sweep --config=configs/ablations/rl_estimators.py:cpu --workdir=runs/rl_estimators
    """
    return Sweep(
        name="rl_estimators_cpu",
        about="Four estimators of advantages; 3M parameters, small programs, 20 steps.",
        rows=_rows(cpu_policy()),
        measures=CPU_MEASURES,
        published=PUBLISHED,
    )


def _rows(base: PolicyTraining) -> tuple[Row, ...]:
    """The same recipe under each estimator."""
    rows = []
    for name, estimator in ESTIMATORS.items():
        recipe = thaw(base)
        recipe.estimator = estimator
        rows.append(Row(name=name, recipe=recipe))
    return tuple(rows)
