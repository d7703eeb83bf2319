"""The episodes of a step: asked for once, kept as they end, and never asked for again.

In: steps and the problems that are their turn, and asks that belong to none. Out: episodes in the
order of the asks. Those of a step are lines of WORKDIR/episodes/STEP.jsonl as soon as they are
judged, so a run that was killed asks for what is missing only, and a step that is trained again
learns from what it learnt from before. Several steps may be asked for at a time. With several
processes each asks for its share, in a file of its own, and all of them get all episodes.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax

from codejax.rl.problems import Posed
from codejax.rollout.asks import Ask, asks_of
from codejax.rollout.collect import TICK, Collector
from codejax.rollout.episode import Episode, from_json, read_episodes
from codejax.rollout.journal import Journal
from codejax.rollout.recording import FOLDER
from codejax.rollout.talk import Environment
from codejax.train.agreement import lines_of_all

Key = tuple[str, str, int]


class Gatherer:
    """Asks through a collector and keeps what comes. workdir: a local folder. samples: of each
    problem of a step; greedy: whether its likeliest answer is wanted too. measured_in: the
    environment of asks that are for no step, where it is another than the collector's. reward: what
    is noted beside each episode of a step.
    """

    def __init__(
        self,
        collector: Collector,
        workdir: pathlib.Path,
        *,
        samples: int,
        seed: int,
        greedy: bool = False,
        measured_in: Environment | None = None,
        reward: Callable[[Episode], float | None] | None = None,
    ) -> None:
        self.reward = reward
        self.measured_in = measured_in
        self.collector, self.samples, self.seed, self.greedy = collector, samples, seed, greedy
        self.workdir, self.folder = workdir, workdir / FOLDER
        self.folder.mkdir(parents=True, exist_ok=True)
        self._steps: dict[int, _Step] = {}
        self._wanted: dict[Key, int | None] = {}  # asks under way, by the step that they are for
        self._others: dict[Key, Episode] = {}  # ended, for no step
        self._ran: set[int] = set()  # hashes of programs that were run: an equal one is not
        self.seconds_of_workers = 0.0  # that this process's asks kept lanes busy

    def begin(self, step: int, posed: Sequence[Posed]) -> None:
        """Ask for what a step wants of these problems and does not have. What is absent of a step
        that did not end is asked for again, once workers are mended; of one that did, it stays so,
        as later steps have learnt from what came of it.

        Raises:
            ValueError: a file of the step is damaged in its middle.
        """
        if step not in self._steps:
            self._steps[step] = _Step(self.folder, step)
        kept = self._steps[step].kept
        for ask in _share(self._asks(posed)):
            if _key(ask) not in kept:
                self._submit(ask, step)

    def gather(self, step: int, posed: Sequence[Posed]) -> list[Episode]:
        """An episode of each ask for these problems, which were begun."""
        asks = self._asks(posed)
        kept = self._steps[step].kept
        own = [_key(ask) for ask in _share(asks)]
        while not all(key in kept for key in own):
            self.work()
        return _in_order(asks, (kept[key] for key in own))

    def end(self, step: int) -> None:
        """Forget a step, of which nothing more is wanted; its files stay."""
        ended = self._steps.pop(step)
        ended.journal.close()
        ended.mark.touch()

    def ask(self, asks: Sequence[Ask]) -> list[Episode]:
        """An episode of each of these asks, which are for no step, and are kept nowhere."""
        own = [_key(ask) for ask in _share(asks)]
        for ask in _share(asks):
            self._submit(ask, None)
        while not all(key in self._others for key in own):
            self.work()
        return _in_order(asks, [self._others.pop(key) for key in own])

    def work(self, wait: float = TICK) -> None:
        """One step of the collector."""
        for episode in self.collector.step(wait):
            key = key_of(episode)
            self._count(episode)
            step = self._wanted.pop(key)
            if step is None:
                self._others[key] = episode
            else:
                self._steps[step].keep(episode, self.reward and self.reward(episode))

    def close(self) -> None:
        """Close all files."""
        for step in self._steps.values():
            step.journal.close()
        self._steps.clear()

    def _count(self, episode: Episode) -> None:
        program = hash((episode.task, episode.problem, episode.candidate))
        if program not in self._ran:
            self._ran.add(program)
            self.seconds_of_workers += sum(job["seconds"] for job in episode.details.values())

    def _asks(self, posed: Iterable[Posed]) -> list[Ask]:
        """Those of some problems, a group named by the problem's number."""
        return [
            ask
            for one in posed
            for ask in asks_of(
                one.task,
                [one.problem],
                num_samples=self.samples,
                seed=self.seed,
                occasion=str(one.number),
                greedy=self.greedy,
            )
        ]

    def _submit(self, ask: Ask, step: int | None) -> None:
        self._wanted[_key(ask)] = step
        self.collector.submit(ask, self.measured_in if step is None else None)


class _Step:
    """What is there of a step, and the file that the rest goes into."""

    def __init__(self, folder: pathlib.Path, step: int) -> None:
        number = jax.process_index()
        path = folder / (f"{step:08d}.{number}.jsonl" if number else f"{step:08d}.jsonl")
        self.mark = path.with_suffix(".ended")
        self.kept: dict[Key, Episode] = {}
        for file in sorted(folder.glob(f"{step:08d}.*jsonl")):
            has_ended = file.with_suffix(".ended").exists()
            for episode in read_episodes(file).episodes:
                key = key_of(episode)
                if not episode.is_absent or (has_ended and key not in self.kept):
                    self.kept[key] = episode
        self.journal = Journal(path)

    def keep(self, episode: Episode, reward: float | None) -> None:
        self.journal.append(episode.to_line() | {"reward": reward})
        self.kept[key_of(episode)] = episode


def key_of(episode: Episode) -> Key:
    """What no other episode that is under way has."""
    return episode.task, episode.group, episode.sample


def _key(ask: Ask) -> Key:
    return ask.task.name, ask.group, ask.sample


def _share(asks: Sequence[Ask]) -> Iterator[Ask]:
    """What this process asks for: groups in turn, as answers to one problem share their prompt."""
    groups = {name: number for number, name in enumerate(dict.fromkeys(a.group for a in asks))}
    return (a for a in asks if groups[a.group] % jax.process_count() == jax.process_index())


def _in_order(asks: Sequence[Ask], own: Iterable[Episode]) -> list[Episode]:
    """The episodes of all processes, in the order of the asks."""
    found = {key_of(episode): episode for episode in own}
    if jax.process_count() > 1:
        lines = lines_of_all([episode.to_json() for episode in found.values()])
        found = {key_of(episode): episode for episode in map(from_json, lines)}
    return [found[_key(ask)] for ask in asks]
