"""The engine: many requests, each continued a few tokens at a time, in one batch of slots.

In: a bound model, its parameters and requests that come and go at any time. Out: tokens as they are
drawn, and completions. Each step takes waiting requests in, a chunk of prompts, and then draws some
tokens for all that are ready. What a request draws depends on its own prompt, settings and seed
only. One thread; it knows no text (`text.py`) and no tasks.
"""
# SPDX-License-Identifier: Apache-2.0

# S slots  B rows of a call  P tokens of a prompt  N steps  V vocabulary
from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from codejax.generate.choice import Choosing
from codejax.generate.programs import Drawn, Memory, Programs, Rows, ring_slack
from codejax.generate.requests import Completion, Progress, Request
from codejax.generate.slots import Shards, Slot, Work, reusable, shared
from codejax.model.transformer import Params, Transformer
from codejax.parallel import rules
from codejax.recipe import spec

MIN_SHARED = 16  # tokens from which on taking keys over is worth a copy
MAX_STOPS = 16


@spec
class EngineSettings:
    """slots: requests decoded together. length: tokens of a request, prompt and answer. chunk:
    tokens of a prompt taken in by one call, and by one step while others wait for theirs. steps:
    tokens drawn for each between two looks at what waits and at what strings end an answer.
    """

    slots: int = 8
    length: int = 2048
    chunk: int = 256
    steps: int = 8

    def check(self) -> None:
        for name in ("slots", "chunk", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; wanted at least 1")
        if self.length < 2:
            raise ValueError(f"length={self.length}; wanted at least 2, a prompt and an answer")


class Engine:
    """Submit requests, step until they are complete. mesh: what weights and slots are split over;
    None for one device. version: of the parameters, as completions name it. programs: of another
    engine of this model, settings and mesh, to compile nothing again.
    """

    def __init__(
        self,
        model: Transformer,
        params: Params,
        settings: EngineSettings = EngineSettings(),
        *,
        mesh: jax.sharding.Mesh | None = None,
        version: int = 0,
        programs: Programs | None = None,
    ) -> None:
        settings.check()
        shards = rules.batch_shards(mesh) if mesh is not None else 1
        if settings.slots % shards:
            raise ValueError(
                f"slots={settings.slots} do not divide by replica*fsdp={shards} of the mesh"
            )
        if not all(mixer.causal for mixer in model.spec.mixers):
            raise ValueError("an engine continues texts; this model's attention is not causal")
        positions = model.spec.learned_positions
        if positions is not None and settings.length > positions:
            raise ValueError(f"length={settings.length}; this model has {positions} positions")
        self.model, self.settings, self.version = model, settings, version
        self.programs = programs or Programs(
            model,
            slots=settings.slots,
            length=settings.length,
            chunk=settings.chunk,
            steps=settings.steps,
            mesh=mesh,
        )
        self._shards = Shards(shards, settings.slots)
        self._widths = [w for w in _powers(settings.slots) if w % shards == 0]
        self._chunks = [c for c in _powers(settings.chunk) if c >= min(16, settings.chunk)]
        self._weights: Any = self.programs.prepare(params)
        self._memory: Memory = self.programs.begin()
        self._slots = [Slot(number) for number in range(settings.slots)]
        self._waiting: list[Work] = []
        self._numbers = itertools.count()
        self._clock = itertools.count(1)
        self._cancelled: list[Work] = []
        self._slack = ring_slack(model.spec, settings.slots, settings.length, settings.chunk)
        self.num_filled = self.num_reused = 0  # prompt tokens computed, and taken over

    # Requests.

    def submit(self, request: Request) -> int:
        """Take a request in; its number. ValueError for one that cannot be."""
        request.sampling.check()
        prompt = np.asarray(request.prompt)
        length, vocabulary = self.settings.length, self.model.spec.vocab_size
        if prompt.ndim != 1 or not 1 <= len(prompt) < length:
            raise ValueError(
                f"a prompt of {prompt.size} tokens; wanted 1 to {length - 1}, as settings.length="
                f"{length}"
            )
        if prompt.dtype.kind not in "iu" or not 0 <= prompt.min() <= prompt.max() < vocabulary:
            raise ValueError(f"ids of a prompt must be integers in [0, {vocabulary})")
        if len(request.stop) > MAX_STOPS:
            raise ValueError(f"{len(request.stop)} stop tokens; at most {MAX_STOPS} can be given")
        budget = min(request.sampling.max_new_tokens, length - len(prompt))
        work = Work(next(self._numbers), request, budget, prompt.tolist())
        self._waiting.append(work)
        return work.number

    def cancel(self, number: int) -> None:
        """Give a request up; the next step completes it with what there is. KeyError for one that
        is not under way.
        """
        work = self._find(number)
        self._leave(work)
        self._cancelled.append(work)

    def preempt(self, number: int) -> None:
        """Take a request's slot away; it waits, and goes on later as if nothing had been. KeyError
        for one that is not under way.
        """
        work = self._find(number)
        if work not in self._waiting:
            self._leave(work)
            self._waiting.append(work)

    @property
    def num_unfinished(self) -> int:
        """Requests under way: waiting or in a slot."""
        in_slots = sum(slot.work is not None for slot in self._slots)
        return len(self._waiting) + in_slots + len(self._cancelled)

    def update(self, params: Params, version: int) -> None:
        """Go on with other weights, of the same shapes, without compiling anything.

        What is under way is taken in again with the new ones; its tokens so far stay.
        """
        for slot in self._slots:
            if slot.work is not None:
                self.preempt(slot.work.number)
            slot.held = []
        self._weights = None  # one copy at a time
        self._weights = self.programs.prepare(params)
        self.version = version

    def run(self, requests: Iterable[Request]) -> list[Completion]:
        """Complete these requests, in their order."""
        numbers = [self.submit(request) for request in requests]
        done = dict(self.finish())
        return [done[number] for number in numbers]

    def finish(self) -> Iterator[tuple[int, Completion]]:
        """Step until nothing is under way: number and completion of each request, as they end."""
        while self.num_unfinished:
            for progress in self.step():
                if progress.completion is not None:
                    yield progress.number, progress.completion

    def warm_up(self) -> None:
        """Compile all that any request could need."""
        num_shards = self._shards.num_shards
        for size in self._chunks:
            for rows in sorted({1, self._most_rows(size)}):
                self._fill([0] * num_shards, size, [(0, [0] * size)] * rows * num_shards)
        self._memory = self.programs.copy(self._memory, np.int32(0), np.int32(0))
        self._mark(0, [])
        for width in self._widths:
            self._decode(width)
        for slot in self._slots:
            slot.held = []

    # A step.

    def step(self) -> list[Progress]:
        """One round: take in, fill, draw. What came of it, a `Progress` a request."""
        given = [
            Progress(w.number, w.answer[:0], w.completion("cancelled")) for w in self._cancelled
        ]
        self._cancelled = []
        self._admit()
        self._fill_prompts()
        live = [slot for slot in self._slots if slot.is_decoding]
        if live:
            width = next(w for w in self._widths if w > live[-1].number)
            drawn = self._decode(width)
            given += [
                self._take(slot, drawn, self._shards.place(slot.number, width)) for slot in live
            ]
        return given

    def _admit(self) -> None:
        """Give slots to those who wait: by priority, then by age."""
        self._waiting.sort(key=lambda work: (-work.request.priority, work.number))
        held_back: list[Work] = []
        while self._waiting:
            work = self._waiting[0]
            free = [slot for slot in self._slots if slot.work is None]
            if not free and not self._make_room(work):
                break
            self._waiting.remove(work)
            if self._is_being_filled(work):
                held_back.append(work)
            else:
                self._settle(work, [slot for slot in self._slots if slot.work is None])
        self._waiting += held_back

    def _make_room(self, work: Work) -> bool:
        """Preempt who has the lowest priority, if that is lower; the youngest of them."""
        lowest = min(
            (slot.work for slot in self._slots if slot.work is not None),
            key=lambda other: (other.request.priority, -other.number),
        )
        if lowest.request.priority >= work.request.priority:
            return False
        self.preempt(lowest.number)
        return True

    def _is_being_filled(self, work: Work) -> bool:
        """Whether a slot takes in just now what this one could take over when that is done."""
        wanted = work.tokens[:-1]
        best = max(reusable(slot, wanted, self._slack) for slot in self._slots)
        for slot in self._slots:
            if slot.fills and slot.work is not None:
                coming = shared(slot.work.tokens[:-1], wanted)
                if coming >= max(best + MIN_SHARED, len(wanted) // 2):
                    return True
        return False

    def _settle(self, work: Work, free: Sequence[Slot]) -> None:
        """Put a request into a free slot, with what other slots can give it of its beginning."""
        wanted = work.tokens[:-1]
        counts = [reusable(slot, wanted, self._slack) for slot in self._slots]
        count = max(counts)
        holders = [slot for slot in self._slots if counts[slot.number] == count > 0]
        in_place = [slot for slot in holders if slot in free]
        if not in_place and count < MIN_SHARED:
            count = 0
        taken = min(in_place or free, key=lambda slot: slot.number)  # low: the batch stays narrow
        if count and not in_place:
            places = (np.int32(self._shards.place(s.number)) for s in (holders[0], taken))
            self._memory = self.programs.copy(self._memory, *places)
        taken.work, taken.held = work, wanted[:count]
        taken.fills, taken.used = len(wanted) - count, next(self._clock)
        self.num_reused += count
        if work.request.sampling.repetition_penalty != 1:
            self._mark(taken.number, work.tokens)

    def _fill_prompts(self) -> None:
        """Take in some of the prompts: one call of them while others decode, else all."""
        is_decoding = any(slot.is_decoding for slot in self._slots)
        while filling := [slot for slot in self._slots if slot.fills]:
            self._fill_some(filling)
            if is_decoding:
                break

    def _fill_some(self, filling: Sequence[Slot]) -> None:
        """A piece of the prompt that has waited longest, and as much of those beside it; each shard
        the same of its own.
        """
        oldest = min(filling, key=lambda slot: slot.used)
        size = next(c for c in self._chunks if c >= min(oldest.fills, self.settings.chunk))
        firsts, rows = self._shards.to_fill(filling, self._most_rows(size), size)
        pieces = [
            self._piece(self._slots[number], size)
            for shard, first in enumerate(firsts)
            for number in self._shards.of(shard)[first : first + rows]
        ]
        self._fill(firsts, size, pieces)

    def _piece(self, slot: Slot, size: int) -> tuple[int, Sequence[int]]:
        """The next tokens of a slot's prompt, `size` at most, and their position; they are held."""
        if slot.work is None or not slot.fills:
            return 0, []
        begin, count = len(slot.held), min(slot.fills, size)
        tokens = slot.work.tokens[begin : begin + count]
        slot.held += tokens
        slot.fills -= count
        self.num_filled += count
        return begin, tokens

    def _most_rows(self, size: int) -> int:
        """Prompts that one call takes `size` tokens of: together no more than one call's."""
        return min(self.settings.chunk // size, self._shards.per_shard)

    def _take(self, slot: Slot, drawn: Drawn, row: int) -> Progress:
        """What decoding gave one slot's request, in this row."""
        work = slot.work
        assert work is not None
        steps = np.nonzero(drawn.is_token[:, row])[0]
        ids = drawn.token[steps, row]
        hit = bool(drawn.hit[row])
        work.tokens += ids.tolist()
        slot.held = work.tokens[: len(work.tokens) - (not hit)]  # the last drawn is yet to be read
        work.log_probs += drawn.log_prob[steps, row].tolist()
        work.raw_log_probs += drawn.raw_log_prob[steps, row].tolist()
        work.versions += [self.version] * len(ids)
        ends = work.request.ends
        keep = ends(work.answer) if ends is not None and len(ids) else None
        if keep is not None:
            completion = work.completion("stop", keep)
        elif hit:
            completion = work.completion("stop", ending=drawn.ending(row, self.version))
        elif work.drawn >= work.budget:
            completion = work.completion("length")
        else:
            return Progress(work.number, ids)
        slot.work = None
        return Progress(
            work.number, ids[: len(ids) - (work.drawn - len(completion.ids))], completion
        )

    def _find(self, number: int) -> Work:
        for work in (*self._waiting, *(slot.work for slot in self._slots)):
            if work is not None and work.number == number:
                return work
        raise KeyError(f"no request {number} is under way")

    def _leave(self, work: Work) -> None:
        if work in self._waiting:
            self._waiting.remove(work)
        for slot in self._slots:
            if slot.work is work:
                slot.work, slot.fills = None, 0

    # Calls of programs.

    def _fill(
        self, firsts: Sequence[int], size: int, pieces: Sequence[tuple[int, Sequence[int]]]
    ) -> None:
        """Take in a piece (position, tokens) for each of the slots from each shard's first on."""
        tokens_BC = np.zeros((len(pieces), size), np.int32)
        for row_C, (_, tokens) in zip(tokens_BC, pieces, strict=True):
            row_C[: len(tokens)] = tokens
        start_B = np.array([begin for begin, _ in pieces], np.int32)
        count_B = np.array([len(tokens) for _, tokens in pieces], np.int32)
        first = np.array(firsts, np.int32)
        self._memory = self.programs.fill(
            self._weights, self._memory, first, start_B, count_B, tokens_BC
        )

    def _mark(self, slot: int, tokens: Sequence[int]) -> None:
        seen_V = np.zeros(self.model.spec.vocab_size, bool)
        seen_V[np.asarray(tokens, np.int64)] = True
        place = np.int32(self._shards.place(slot))
        self._memory = self.programs.mark(self._memory, place, seen_V)

    def _decode(self, width: int) -> Drawn:
        """Draw for the first `width` slots; as numpy arrays."""
        rows = self._rows([self._slots[number] for number in self._shards.order(width)])
        steps = np.int32(self.settings.steps)
        self._memory, drawn = self.programs.decode(self._weights, self._memory, rows, steps)
        return jax.device_get(drawn)

    def _rows(self, slots: Sequence[Slot]) -> Rows:
        live = [slot.work if slot.is_decoding else None for slot in slots]

        def array(read: Any, dtype: Any, otherwise: Any = 0) -> np.ndarray:
            return np.array([otherwise if w is None else read(w) for w in live], dtype)

        def setting(name: str, dtype: Any, otherwise: Any) -> np.ndarray:
            return array(lambda w: getattr(w.request.sampling, name), dtype, otherwise)

        stop = np.full((len(slots), MAX_STOPS), -1, np.int32)
        for row, work in zip(stop, live, strict=True):
            if work is not None:
                row[: len(work.request.stop)] = work.request.stop
        return Rows(
            live=array(lambda w: True, bool, False),
            token=array(lambda w: w.tokens[-1], np.int32),
            end=array(lambda w: len(w.tokens) - 1, np.int32),
            left=array(lambda w: w.budget - w.drawn, np.int32),
            stop=stop,
            choosing=Choosing(
                seed=array(lambda w: w.request.seed & 0xFFFFFFFF, np.uint32),
                drawn=array(lambda w: w.drawn, np.int32),
                temperature=setting("temperature", np.float32, 0.0),
                top_k=setting("top_k", np.int32, 0),
                top_p=setting("top_p", np.float32, 1.0),
                min_p=setting("min_p", np.float32, 0.0),
                penalty=setting("repetition_penalty", np.float32, 1.0),
            ),
        )


def _powers(most: int) -> list[int]:
    """1, 2, 4, ... and `most`."""
    return [*itertools.takewhile(lambda n: n < most, (1 << i for i in range(32))), most]
