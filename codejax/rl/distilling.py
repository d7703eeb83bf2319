"""The recipe of on-policy distillation: a student writes, a teacher says what it thinks of that.

In: weights of both, and tasks. A step has the student answer some problems, and moves it, on each
token that it drew itself, towards the teacher's distribution there (Agarwal et al. 2023, arXiv
2306.13649; Lu et al. 2025, thinkingmachines.ai/blog/on-policy-distillation). Answers are judged on
the way, for figures alone: what they are worth is not learnt from.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from etils import epath

from codejax.data.batch import Batch
from codejax.objectives.distill import Distill
from codejax.parallel import hosts
from codejax.recipe import RecipeError, spec
from codejax.rl.aggregation import TokenMean
from codejax.rl.assemble import Trainable, assemble
from codejax.rl.learner import Learner
from codejax.rl.loop import Loop
from codejax.rl.on_policy import OnPolicy
from codejax.rl.run import FREE, OnPolicyRun
from codejax.rl.teaching import Streams, Teaching, group_of, parts_of
from codejax.rollout.episode import Episode
from codejax.train.guides import Teacher, check_guide, teacher_of
from codejax.train.optimizer import Adafactor, AdamW, Lion, Muon


@spec
class OnPolicyDistillation(OnPolicy):
    """A run of on-policy distillation. teacher: of the student's tokenizer."""

    teacher: Teacher
    prompts_per_step: int = 32
    samples_per_prompt: int = 1
    optimizer: AdamW | Muon | Adafactor | Lion = AdamW(learning_rate=1e-5, weight_decay=0.0)
    objective: Distill = Distill(divergence="reverse")

    def check(self) -> None:
        super().check()
        if self.objective.correction_cap is not None:
            if self.staleness == 0 and self.updates == 1:
                raise ValueError(
                    "objective.correction_cap is for old answers; with staleness=0 and updates=1 "
                    "all are fresh"
                )
            self.check_plain_sampling(1.0)
        self.check_chunk(self.objective.chunk)

    def run(self, workdir: epath.Path) -> int:
        """Train in a local work folder, from its newest good checkpoint on; the exit code."""
        self.check_start()
        if not self.teacher.path:
            raise RecipeError(
                "teacher.path is empty: name a folder of weights, --config.teacher.path=..."
            )
        hosts.join()
        return DistillationRun(self, workdir).train()


class DistillationRun(OnPolicyRun):
    """On-policy distillation."""

    free: ClassVar[tuple[str, ...]] = (*FREE, "teacher.path")

    def __init__(self, recipe: OnPolicyDistillation, workdir: epath.Path) -> None:
        self.distillation = recipe
        super().__init__(recipe, workdir, recipe.objective, updates=recipe.updates)
        self.teacher = teacher_of(
            recipe.teacher,
            recipe.objective,
            self.opened.model,
            self.mesh,
            self.opened.prompts.tokenizer,
            rows=recipe.rows,
        )

    def teaching(self) -> Teaching:
        recipe = self.distillation
        return OwnWords(
            length=recipe.length,
            rows=recipe.rows,
            updates=recipe.updates,
            is_corrected=recipe.objective.correction_cap is not None,
        )

    def set_up(self, loop: Loop) -> None:
        loop.guide = lambda batch: self.teacher(batch, None)

    def keep(self, params: Any) -> bool:
        self.teacher.load()
        return False

    def meta(self) -> dict[str, Any]:
        return {**super().meta(), "guide": self.teacher.digest}

    def check_meta(self, meta: Mapping[str, Any], step: int) -> None:
        super().check_meta(meta, step)
        check_guide(meta, self.teacher)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnWords:
    """A `Teaching` by a teacher alone: every token that the student drew weighs 1. is_corrected:
    whether the objective weighs old ones.
    """

    length: int
    rows: int
    updates: int = 1
    is_corrected: bool = False

    @property
    def reward(self) -> Callable[[Episode], float | None]:
        """What an answer is worth, for the figures."""
        return lambda episode: episode.score.value

    def score(
        self, episodes: Sequence[Episode], learner: Learner, params: Any, reference: Any
    ) -> Sequence[Streams]:
        """No streams; the loop's guide adds the teacher's."""
        return [{} for _ in episodes]

    def batches(
        self,
        episodes: Sequence[Episode],
        rewards: Sequence[float | None],
        scored: Sequence[Streams] | None = None,
        *,
        kl_coefficient: float | None = None,
    ) -> list[Batch]:
        """A batch of each part that has a token of the student's."""
        part_of = parts_of(map(group_of, episodes), self.updates)
        parts: list[list[Trainable]] = [[] for _ in range(self.updates)]
        for episode in episodes:
            streams = {"behavior_log_probs": episode.log_probs} if self.is_corrected else {}
            if episode.num_own:
                parts[part_of[group_of(episode)]].append(
                    Trainable(tokens=episode.tokens, is_own=episode.is_own, streams=streams)
                )
        return [
            assemble(part, TokenMean(), length=self.length, multiple=self.rows)
            for part in parts
            if part
        ]
