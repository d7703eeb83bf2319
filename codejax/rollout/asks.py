"""What is asked of a model in a rollout: a sample of a problem, with a seed that it alone has."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator

from codejax.tasks.task import Problem, Task

GREEDY = -1  # the sample that is the likeliest answer, always the likeliest next token


@dataclasses.dataclass(frozen=True, eq=False)
class Ask:
    """One episode that is wanted. sample: counts from 0 within the group, or GREEDY. seed: 0 to
    2**31 - 1, of all that is drawn for it. group: key of the samples that are compared with each
    other.
    """

    task: Task
    problem: Problem
    sample: int
    seed: int
    group: str

    @property
    def name(self) -> str:
        """What tells it from others, in a line."""
        return f"{self.group}, sample {self.sample}"


def asks_of(
    task: Task,
    problems: Iterable[Problem],
    *,
    num_samples: int,
    seed: int,
    occasion: str = "",
    greedy: bool = False,
) -> Iterator[Ask]:
    """`num_samples` asks of each problem, those of one next to each other, in a group of their own.
    greedy: one more of each, for its likeliest answer.

    occasion: tells times apart at which one problem is asked, such as the number of an iteration;
    seeds differ between them. A seed depends on no other ask, nor on their order.
    """
    for problem in problems:
        group = f"{occasion}/{problem.id}" if occasion else problem.id
        for sample in [*range(num_samples), *[GREEDY] * greedy]:
            yield Ask(task, problem, sample, seed_of(seed, group, sample), group)


def seed_of(seed: int, name: str, sample: int) -> int:
    """The seed of one sample, by hash: it does not depend on how many others there are."""
    text = f"{seed}\0{sample}\0{name}".encode(errors="surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest()[:4], "big") >> 1
