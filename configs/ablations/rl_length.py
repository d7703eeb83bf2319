"""How long an answer may be, in training as in measuring; after the survey's second table.

codejax sweep --config=configs/ablations/rl_length.py:cpu --workdir=runs/rl_length
codejax report runs/rl_length
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

LENGTHS = {"1K": 1024, "2K": 2048, "4K": 4096, "8K": 8192, "16K": 16384, "30K": 30720}
PUBLISHED = Published(
    about=ABOUT,
    columns=COLUMNS,
    drawn="pass@1",
    rows=(
        PublishedRow(name="1K tokens", values=(240, 0.307, 0.360)),
        PublishedRow(name="2K tokens", values=(380, 0.330, 0.398)),
        PublishedRow(name="4K tokens", values=(280, 0.318, 0.356)),
        PublishedRow(name="8K tokens", values=(300, 0.311, 0.334)),
        PublishedRow(name="16K tokens", values=(340, 0.336, 0.362)),
        PublishedRow(name="30K tokens", values=(240, 0.322, 0.362)),
    ),
)


def survey() -> Sweep:
    """1K to 30K tokens. Weights and problems are yours; for a pod slice, set mesh and executor too.

    codejax sweep --config=configs/ablations/rl_length.py:survey --workdir=DIR \\
        '--config.rows[*].recipe.start=MODEL' \\
        '--config.rows[*].recipe.tasks[0].path=contests.jsonl' \\
        '--config.rows[*].recipe.held_out.tasks[0].path=livecodebench.jsonl'
    """
    return Sweep(
        name="rl_length",
        about="Answers of 1K to 30K tokens at the survey's scale.",
        rows=tuple(
            Row(name=f"{name} tokens", recipe=survey_policy(answer=answer))
            for name, answer in LENGTHS.items()
        ),
        measures=SURVEY_MEASURES,
        published=PUBLISHED,
    )


def cpu() -> Sweep:
    """16, 24, 32 and 64 tokens; 3M parameters, small programs, 20 steps a run, on two cores.

    codejax sweep --config=configs/ablations/rl_length.py:cpu --workdir=runs/rl_length
    """
    return Sweep(
        name="rl_length_cpu",
        about="Answers of 16 to 64 tokens; 3M parameters, small programs, 20 steps.",
        rows=tuple(
            Row(name=f"{answer} tokens", recipe=cpu_policy(answer=answer))
            for answer in (16, 24, 32, 64)
        ),
        measures=CPU_MEASURES,
        published=PUBLISHED,
    )
