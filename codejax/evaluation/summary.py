"""From records to results: the figures of an evaluation as plain data, for results.json.

In: what a work folder holds. Out: one object; the same whatever the order in which samples came,
and however often the evaluation was interrupted.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Sequence
from typing import Any

from codejax.evaluation import metrics
from codejax.evaluation.generator import Key
from codejax.evaluation.metrics import Estimate, Tally
from codejax.evaluation.records import Kept
from codejax.pages.spelling import BLANK

Plain = dict[str, Any]
BITS = "bits_per_byte"
SHOWN = 20  # names in a sentence


def summarize(
    kept: Kept,
    problems: Sequence[str],
    *,
    num_samples: int,
    ks: Sequence[int] = (1,),
    seed: int = 0,
) -> Plain:
    """All figures over these problems, `num_samples` of each. A sample that is not among the
    records is absent, as one is whose worth is not known.
    """
    keys = [(problem, sample) for problem in problems for sample in range(num_samples)]
    tallies = tallies_of(kept, problems, num_samples)
    lines = [kept.samples[key] for key in keys if key in kept.samples]
    finishes = collections.Counter(line["finish"] for line in lines)
    figures = figures_of(tallies, ks, seed)
    first = min(ks)
    return {
        "problems": len(problems),
        "samples_per_problem": num_samples,
        "samples": len(lines),
        "absent": len(keys) - len(lines),
        "failed_generations": finishes["failed"],
        "cut_off": finishes["length"],
        "tokens": sum(line["num_tokens"] for line in lines),
        "figures": figures,
        "languages": _table(tallies, lambda tally: tally.language, first, seed),
        "categories": _table(tallies, lambda tally: tally.category, first, seed),
        "verdicts": _verdicts(kept, keys),
        "judged_by": _judges(lines),
        "by_problem": {
            tally.problem: metrics.pass_at_k(len(tally.values), tally.num_correct, 1)
            for tally in tallies
            if tally.values
        },
    }


def tallies_of(kept: Kept, problems: Sequence[str], num_samples: int) -> list[Tally]:
    """The worth of each problem's samples. A generation that failed is worth 0 in every metric."""
    names = {
        name
        for (problem, _), line in kept.samples.items()
        if problem in kept.problems
        for name in line["metrics"]
    }
    tallies = []
    for problem in problems:
        about = kept.problems[problem]
        tally = Tally(problem, about["language"], about["category"])
        for sample in range(num_samples):
            line = kept.samples.get((problem, sample))
            if line is None:
                tally.absent += 1
                continue
            tally.values.append(line["value"])
            failed = {name: 0.0 for name in names} if line["finish"] == "failed" else {}
            for name, value in {**failed, **line["metrics"]}.items():
                tally.metrics.setdefault(name, []).append(value)
        tallies.append(tally)
    return tallies


def figures_of(tallies: Sequence[Tally], ks: Sequence[int], seed: int) -> dict[str, Plain]:
    """pass@k for each k; the mean worth, where some samples are partly right; further means."""
    found = {f"pass@{k}": metrics.pass_at_k_of(tallies, k, seed=seed) for k in sorted(ks)}
    if any(0.0 < value < 1.0 for tally in tallies for value in tally.values):
        found["value"] = metrics.mean_value(tallies, seed=seed)
    for name in sorted({name for tally in tallies for name in tally.metrics}):
        found[name] = metrics.mean_metric(tallies, name, seed=seed)
    return {name: plain(estimate) for name, estimate in found.items()}


def plain(estimate: Estimate) -> Plain:
    """An estimate as JSON has it: null where it is undefined."""
    made: Plain = {"value": None, "low": None, "high": None}
    if estimate.is_defined:
        made["value"] = estimate.value
    if not math.isnan(estimate.low):
        made |= {"low": estimate.low, "high": estimate.high}
    made |= {"problems": estimate.problems, "left_out": estimate.left_out}
    return made | ({"reason": estimate.reason} if estimate.reason else {})


def spell_value(name: str, figure: Plain) -> str:
    """A figure as it is shown: shares in percent, bits per byte as they are; a dash for none."""
    if figure["value"] is None:
        return BLANK
    return f"{figure['value']:.4f}" if name == BITS else f"{100 * figure['value']:.1f}%"


def spell_interval(name: str, figure: Plain) -> str:
    """Its interval, in the same units."""
    low, high = figure["low"], figure["high"]
    if low is None:
        return BLANK
    if name == BITS:
        return f"{low:.4f} to {high:.4f}"
    return f"{100 * low:.1f} to {100 * high:.1f}"


def spell_unmeasured(problems: Sequence[str]) -> str:
    """Whose canonical answers bits per byte leaves out, and why."""
    more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return (
        f"the canonical answers of {', '.join(problems[:SHOWN])}{more}, which with their prompts "
        "are longer than engine.length, or whose prompts the model cannot be asked"
    )


def _table(
    tallies: Sequence[Tally], by: Callable[[Tally], str], k: int, seed: int
) -> dict[str, Plain]:
    """pass@k of each group; empty where all problems are alike."""
    made = metrics.tabulate(tallies, by, lambda group: metrics.pass_at_k_of(group, k, seed=seed))
    return {name: plain(one) for name, one in made.items()} if len(made) > 1 else {}


def _verdicts(kept: Kept, keys: Sequence[Key]) -> dict[str, int]:
    """How many samples came to which verdict, the most frequent first; absent ones too."""
    lines = [kept.samples.get(key) or kept.absent.get(key) for key in keys]
    counts = collections.Counter(line["verdict"] if line else "none yet" for line in lines)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _judges(lines: Sequence[Plain]) -> Plain:
    """Levels of isolation and toolchains that the verdicts rest on, with numbers of jobs."""
    jobs = [job for line in lines for job in line["jobs"].values()]
    levels = collections.Counter(f"L{job['isolation']}" for job in jobs)
    toolchains = collections.Counter(job["toolchain"] for job in jobs)
    return {
        "isolation": dict(sorted(levels.items())),
        "toolchains": dict(sorted(toolchains.items())),
    }
