"""The episodes of a step: asked for once, kept as they end, and never asked for again.

In: a step and the problems that are its turn. Out: its episodes in the order of the asks. Each is a
line of WORKDIR/episodes/STEP.jsonl as soon as it is judged, so a run that was killed asks for what
is missing only, and a step that is trained again learns from the episodes it learnt from before.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterable, Sequence

from codejax.rl.problems import Posed
from codejax.rollout.asks import Ask, asks_of
from codejax.rollout.collect import Collector
from codejax.rollout.episode import Episode, read_episodes
from codejax.rollout.journal import Journal

FOLDER = "episodes"
Key = tuple[str, str, int]


class Gatherer:
    """Asks through a collector and keeps what comes. workdir: a local folder."""

    def __init__(self, collector: Collector, workdir: pathlib.Path, *, samples: int, seed: int):
        self.collector, self.samples, self.seed = collector, samples, seed
        self.folder = workdir / FOLDER
        self.folder.mkdir(parents=True, exist_ok=True)

    def asks(self, posed: Iterable[Posed]) -> list[Ask]:
        """Those of some problems: `samples` of each, a group named by the problem's number."""
        return [
            ask
            for one in posed
            for ask in asks_of(
                one.task,
                [one.problem],
                num_samples=self.samples,
                seed=self.seed,
                occasion=str(one.number),
            )
        ]

    def gather(self, step: int, posed: Sequence[Posed]) -> list[Episode]:
        """An episode of each ask, those kept from before and the others as they end. What is absent
        is asked for again, once workers are mended.

        Raises:
            ValueError: the file of the step is damaged in its middle.
        """
        asks = self.asks(posed)
        before = read_episodes(self.path(step)).episodes
        kept = {key_of(one): one for one in before if not one.is_absent}
        with Journal(self.path(step)) as journal:
            for ask in asks:
                if _key(ask) not in kept:
                    self.collector.submit(ask)
            while self.collector.num_unfinished:
                for episode in self.collector.step():
                    journal.append(json.loads(episode.to_json()))
                    kept[key_of(episode)] = episode
        return [kept[_key(ask)] for ask in asks]

    def path(self, step: int) -> pathlib.Path:
        """The file of a step's episodes."""
        return self.folder / f"{step:08d}.jsonl"


def key_of(episode: Episode) -> Key:
    """What no other episode of a step has."""
    return episode.task, episode.group, episode.sample


def _key(ask: Ask) -> Key:
    return ask.task.name, ask.group, ask.sample
