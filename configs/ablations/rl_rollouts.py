"""How many answers to a prompt: as many prompts a step in every row, so that a step of more answers
costs more; after the survey's third table.

codejax sweep --config=configs/ablations/rl_rollouts.py:cpu --workdir=runs/rl_rollouts
codejax report runs/rl_rollouts
"""
# SPDX-License-Identifier: Apache-2.0

from codejax.experiments.sweep import Published, PublishedRow, Row, Sweep

from ._policies import (
    ABOUT,
    COLUMNS,
    CPU_MEASURES,
    SURVEY_MEASURES,
    cpu_policy,
    survey_policy,
)

PUBLISHED = Published(
    about=f"{ABOUT} It collapses from 128 rollouts up.",
    columns=COLUMNS,
    drawn="pass@1",
    rows=(
        PublishedRow(name="4 rollouts", values=(380, 0.319, 0.351)),
        PublishedRow(name="8 rollouts", values=(240, 0.317, 0.368)),
        PublishedRow(name="16 rollouts", values=(280, 0.318, 0.356)),
        PublishedRow(name="32 rollouts", values=(460, 0.315, 0.357)),
        PublishedRow(name="64 rollouts", values=(140, 0.315, 0.367)),
        PublishedRow(name="512 rollouts", values=(40, 0.264, 0.388)),
    ),
)


def survey() -> Sweep:
    """4 to 512 rollouts. Weights and problems are yours; for a pod slice, set mesh and executor
    too.

    codejax sweep --config=configs/ablations/rl_rollouts.py:survey --workdir=DIR \\
        '--config.rows[*].recipe.start=MODEL' \\
        '--config.rows[*].recipe.tasks[0].path=contests.jsonl' \\
        '--config.rows[*].recipe.held_out.tasks[0].path=livecodebench.jsonl'
    """
    return Sweep(
        name="rl_rollouts",
        about="4 to 512 rollouts of a prompt at the survey's scale.",
        rows=tuple(
            Row(name=f"{count} rollouts", recipe=survey_policy(rollouts=count))
            for count in (4, 8, 16, 32, 64, 512)
        ),
        measures=SURVEY_MEASURES,
        published=PUBLISHED,
    )


def cpu() -> Sweep:
    """2, 4, 8 and 16 rollouts; 3M parameters, small programs, 20 steps a run, on two cores.

    codejax sweep --config=configs/ablations/rl_rollouts.py:cpu --workdir=runs/rl_rollouts
    """
    return Sweep(
        name="rl_rollouts_cpu",
        about="2 to 16 rollouts of a prompt; 3M parameters, small programs, 20 steps.",
        rows=tuple(
            Row(name=f"{count} rollouts", recipe=cpu_policy(rollouts=count))
            for count in (2, 4, 8, 16)
        ),
        measures=CPU_MEASURES,
        published=PUBLISHED,
    )
