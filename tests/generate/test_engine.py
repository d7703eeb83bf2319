"""The engine: cached equals full, together equals alone, interrupted equals uninterrupted."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
import pytest
from models import LENGTH, MODELS, VOCABULARY, greedy, logits, made, prompts
from tolerances import tolerance

from codejax.generate import engine as engine_module
from codejax.generate.engine import Engine, EngineSettings
from codejax.generate.programs import Programs
from codejax.generate.requests import Completion, Request, Sampling
from codejax.model import cached
from codejax.parallel.mesh import Mesh, make_mesh
from codejax.parallel.rules import shardings

SETTINGS = EngineSettings(slots=4, length=LENGTH, chunk=32, steps=4)
DRAWN = Sampling(max_new_tokens=24, temperature=1.0, top_p=0.9, top_k=40, repetition_penalty=1.1)


@functools.cache
def compiled(name: str, settings: EngineSettings) -> Programs:
    """Programs of a model on one device, which all its engines here share."""
    fields = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    return Programs(made(name)[0], **fields)


def engine(name: str = "llama", settings: EngineSettings = SETTINGS, **options) -> Engine:
    model, params = made(name)
    return Engine(model, params, settings, programs=compiled(name, settings), **options)  # type: ignore[arg-type]


def same(a: Completion, b: Completion) -> bool:
    return a.ids.tolist() == b.ids.tolist() and a.finished == b.finished


@pytest.mark.parametrize("name", sorted(MODELS))
def test_cached_equals_full(name):
    """Log-probabilities too, which say more than the likeliest token does."""
    made_of = prompts(1, 5, 33, 90, 150)
    two = engine(name, dataclasses.replace(SETTINGS, slots=2))
    done = two.run([Request(p, Sampling(max_new_tokens=20)) for p in made_of])
    for prompt, completion in zip(made_of, done, strict=True):
        all_ids = np.concatenate([prompt, completion.ids])
        wanted = np.asarray(jax.nn.log_softmax(logits(name, all_ids), axis=-1))
        rows = np.arange(len(prompt) - 1, len(all_ids) - 1)
        assert wanted[rows].argmax(axis=-1).tolist() == completion.ids.tolist()
        np.testing.assert_allclose(
            completion.raw_log_probs, wanted[rows, completion.ids], atol=tolerance("cached"), rtol=0
        )
        assert completion.finished == "length"
        assert not completion.log_probs.any()  # greedy: certain


def test_a_mutant_that_forgets_the_window_is_found(monkeypatch):
    seen = cached._seen

    def forgetful(entry, entries, place, scoring):
        return seen(entry, entries, place, scoring._replace(window=None))

    monkeypatch.setattr(cached, "_seen", forgetful)
    (prompt,) = prompts(90)
    mutant = Engine(*made("mistral"), SETTINGS)
    (done,) = mutant.run([Request(prompt, Sampling(max_new_tokens=20))])
    assert done.ids.tolist() != greedy("mistral", prompt, 20)


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_together_equals_alone(name):
    made_of = prompts(3, 40, 40, 7, 100, 64, 20)
    requests = [Request(p, DRAWN, seed=i) for i, p in enumerate(made_of)]
    together = engine(name).run(requests)
    one = engine(name, dataclasses.replace(SETTINGS, slots=1))
    alone = [one.run([request])[0] for request in requests]
    assert all(same(a, b) for a, b in zip(together, alone, strict=True))
    assert len({tuple(done.ids) for done in together}) == len(together)


def test_preempted_equals_uninterrupted():
    requests = [Request(p, DRAWN, seed=i) for i, p in enumerate(prompts(3, 40, 70, 7))]
    wanted = engine().run(requests)
    interrupted, done = engine(), {}
    for request in requests:
        interrupted.submit(request)
    for number in range(200):
        under_way = sorted(set(range(4)) - done.keys())
        if not under_way:
            break
        interrupted.preempt(under_way[number % len(under_way)])
        for progress in interrupted.step():
            if progress.completion is not None:
                done[progress.number] = progress.completion
    assert all(same(done[i], wanted[i]) for i in range(4))


def test_priority_takes_a_slot_and_gives_it_back():
    settings = dataclasses.replace(SETTINGS, slots=1)
    low, high = prompts(20, 30)
    (wanted,) = engine(settings=settings).run([Request(low, DRAWN)])
    one = engine(settings=settings)
    first = one.submit(Request(low, DRAWN))
    one.step()
    second = one.submit(Request(high, DRAWN, priority=1))
    done = dict(one.finish())
    assert list(done) == [second, first]
    assert same(done[first], wanted)


def test_prompts_side_by_side_are_taken_in_together(monkeypatch):
    """Short ones in one call; each gets its own text."""
    one, calls = engine(), []
    fill = one._fill
    monkeypatch.setattr(one, "_fill", lambda *given: calls.append(given) or fill(*given))
    requests = [Request(p, DRAWN, seed=i) for i, p in enumerate(prompts(9, 14, 17, 8))]
    done = one.run(requests)
    assert [(first, size, [len(t) for _, t in pieces]) for first, size, pieces in calls] == [
        ([0], 16, [8, 13]),
        ([2], 16, [16, 7]),
    ]
    alone = [engine().run([request])[0] for request in requests]
    assert all(same(a, b) for a, b in zip(done, alone, strict=True))


def test_samples_of_one_prompt_take_it_in_once():
    (prompt,) = prompts(100)
    requests = [Request(prompt, DRAWN, seed=i) for i in range(8)]
    shared = engine()
    done = shared.run(requests)
    assert shared.num_filled == 99
    assert shared.num_reused == 7 * 99
    fresh = [engine().run([request])[0] for request in requests[:3]]
    assert all(same(a, b) for a, b in zip(done, fresh, strict=False))


def test_the_next_turn_takes_over_what_is_held():
    (prompt,) = prompts(50)
    talk = engine()
    (first,) = talk.run([Request(prompt, DRAWN)])
    filled = talk.num_filled
    longer = np.concatenate([prompt, first.ids, *prompts(10, seed=1)])
    (second,) = talk.run([Request(longer, DRAWN)])
    assert talk.num_filled - filled <= 11
    (wanted,) = engine().run([Request(longer, DRAWN)])
    assert same(second, wanted)


def test_a_ring_that_has_forgotten_is_not_taken_over():
    """After a long answer a window's ring no longer holds what another continuation needs."""
    settings = dataclasses.replace(SETTINGS, slots=2)
    (prompt,) = prompts(60)
    long = Sampling(max_new_tokens=190)
    ring = engine("mistral", settings)
    ring.run([Request(prompt, long)])
    (again,) = ring.run([Request(prompt, DRAWN, seed=3)])
    (wanted,) = engine("mistral", settings).run([Request(prompt, DRAWN, seed=3)])
    assert same(again, wanted)


def test_other_weights_without_compiling():
    model, _ = made("llama")
    _, other = made("llama", seed=1)
    one = engine()
    one.warm_up()
    one.run([Request(p, DRAWN) for p in prompts(30, 40)])
    compiled = one.programs.num_compiled()
    number = one.submit(Request(prompts(30)[0], Sampling(max_new_tokens=16)))
    one.step()
    one.update(other, version=1)
    done = dict(one.finish())
    half = done[number]
    assert half.versions.tolist() == [0] * 4 + [1] * 12
    begun = np.concatenate([prompts(30)[0], half.ids[:4]])
    assert half.ids[4:].tolist() == greedy("llama", begun, 12, seed=1)
    requests = [Request(p, DRAWN, seed=5) for p in prompts(30, 40)]
    fresh = Engine(model, other, SETTINGS)
    assert all(same(a, b) for a, b in zip(one.run(requests), fresh.run(requests), strict=True))
    assert one.programs.num_compiled() == compiled


@pytest.mark.parametrize(
    "mesh",
    [
        Mesh(replica=2, fsdp=2, tensor=2),
        pytest.param(Mesh(replica=1, fsdp=8, tensor=1), marks=pytest.mark.slow),
        pytest.param(Mesh(replica=1, fsdp=4, tensor=2), marks=pytest.mark.slow),
    ],
    ids=["all", "fsdp", "fsdp-tensor"],
)
def test_sharded_equals_one_device(mesh):
    model, params = made("llama")
    devices = make_mesh(mesh)
    placed = jax.device_put(params, shardings(model.axes(), devices))
    settings = dataclasses.replace(SETTINGS, slots=8)
    requests = [Request(p, DRAWN, seed=i) for i, p in enumerate(prompts(3, 40, 40, 7, 100))]
    sharded = Engine(model, placed, settings, mesh=devices)
    done = sharded.run(requests)
    wanted = engine(settings=settings).run(requests)
    assert all(same(a, b) for a, b in zip(done, wanted, strict=True))
    caches = sharded._memory.caches
    assert caches[0].key.sharding.shard_shape(caches[0].key.shape)[0] < 8


def test_stop_tokens_and_hooks_and_lengths():
    (prompt,) = prompts(20)
    text = greedy("llama", prompt, 20)
    stop = text[7]
    first = text.index(stop)
    one = engine()
    (free,) = one.run([Request(prompt, Sampling(max_new_tokens=20))])
    (stopped,) = one.run([Request(prompt, Sampling(max_new_tokens=20), stop=(stop, 3))])
    assert (stopped.ids.tolist(), stopped.finished) == (text[:first], "stop")
    raw = pytest.approx(free.raw_log_probs[first], abs=tolerance("cached"))
    assert stopped.ending == (stop, 0.0, raw, 0)
    assert free.ending is None
    ends = lambda ids: 5 if len(ids) >= 5 else None  # noqa: E731
    (ended,) = one.run([Request(prompt, Sampling(max_new_tokens=20), ends=ends)])
    assert (ended.ids.tolist(), ended.finished) == (text[:5], "stop")
    (full,) = one.run([Request(prompts(LENGTH - 3)[0], Sampling(max_new_tokens=20))])
    assert (len(full.ids), full.finished) == (3, "length")
    assert len(full.log_probs) == len(full.raw_log_probs) == len(full.versions) == 3


def test_progress_adds_up():
    one = engine()
    for i, prompt in enumerate(prompts(3, 40, 7, 90, 12)):
        one.submit(Request(prompt, DRAWN, seed=i))
    given: dict[int, list[int]] = {}
    done = {}
    while one.num_unfinished:
        for progress in one.step():
            given.setdefault(progress.number, []).extend(progress.ids.tolist())
            if progress.completion is not None:
                done[progress.number] = progress.completion.ids.tolist()
    assert given == done
    assert len(done) == 5


def test_cancelled_requests_say_so_and_leave_room():
    one = engine(settings=dataclasses.replace(SETTINGS, slots=1))
    numbers = [one.submit(Request(p, DRAWN)) for p in prompts(20, 30, 40)]
    one.step()
    one.cancel(numbers[0])
    one.cancel(numbers[1])
    done = dict(one.finish())
    assert [done[n].finished for n in numbers] == ["cancelled", "cancelled", "length"]
    assert [len(done[n].ids) for n in numbers] == [4, 0, 24]
    for call in (one.cancel, one.preempt):
        with pytest.raises(KeyError, match="no request 0 is under way"):
            call(numbers[0])


@pytest.mark.parametrize(
    ("request_", "line"),
    [
        (Request(np.zeros(0, np.int32)), "a prompt of 0 tokens; wanted 1 to 255"),
        (Request(np.zeros(LENGTH, np.int32)), "a prompt of 256 tokens; wanted 1 to 255"),
        (Request(np.array([1, VOCABULARY])), r"integers in \[0, 96\)"),
        (Request(np.array([-1])), r"integers in \[0, 96\)"),
        (Request(np.array([0.5])), r"integers in \[0, 96\)"),
        (Request(np.array([1]), stop=tuple(range(17))), "17 stop tokens"),
        (Request(np.array([1]), Sampling(temperature=-1.0)), "temperature=-1.0; wanted 0"),
        (Request(np.array([1]), Sampling(top_p=0.0)), "top_p=0.0; wanted above 0"),
        (Request(np.array([1]), Sampling(min_p=2.0)), "min_p=2.0; wanted 0 to 1"),
        (Request(np.array([1]), Sampling(top_k=-1)), "top_k=-1"),
        (Request(np.array([1]), Sampling(repetition_penalty=0.0)), "repetition_penalty=0.0"),
    ],
)
def test_impossible_requests(request_, line):
    one = engine()
    with pytest.raises(ValueError, match=line):
        one.submit(request_)
    assert not one.num_unfinished


def test_impossible_settings():
    model, params = made("llama")
    with pytest.raises(ValueError, match=r"slots=0; wanted at least 1"):
        Engine(model, params, EngineSettings(slots=0))
    with pytest.raises(ValueError, match=r"slots=3 do not divide by replica\*fsdp=8"):
        Engine(
            model,
            params,
            EngineSettings(slots=3),
            mesh=make_mesh(Mesh(replica=1, fsdp=8, tensor=1)),
        )


@pytest.mark.parametrize("count", [300, pytest.param(5000, marks=pytest.mark.slow)])
def test_churn(count):
    """Requests that come at random, are cancelled, preempted and of all settings: each gets its own
    text, once; nothing is compiled and nothing grows.
    """
    draw = np.random.default_rng(7)
    one = engine(settings=dataclasses.replace(SETTINGS, slots=8))
    one.warm_up()
    compiled = one.programs.num_compiled()
    pool = prompts(*draw.integers(1, 60, 8), seed=2)
    kinds = [
        Sampling(max_new_tokens=6),
        Sampling(max_new_tokens=9, temperature=1.0),
        Sampling(max_new_tokens=12, temperature=0.7, top_k=5),
        Sampling(max_new_tokens=3, temperature=1.3, top_p=0.6, min_p=0.05),
        Sampling(max_new_tokens=8, temperature=1.0, repetition_penalty=1.5),
    ]
    alone: dict[tuple[int, int, int], list[int]] = {}
    asked: dict[int, tuple[int, int, int]] = {}
    cancelled: set[int] = set()
    done: dict[int, Completion] = {}
    while len(asked) < count or one.num_unfinished:
        for _ in range(draw.integers(0, 7)):
            if len(asked) < count:
                kind = (int(draw.integers(8)), int(draw.integers(5)), int(draw.integers(2)))
                request = Request(pool[kind[0]], kinds[kind[1]], seed=kind[2])
                request = dataclasses.replace(request, priority=int(draw.integers(3)))
                asked[one.submit(request)] = kind
        under_way = sorted(asked.keys() - done.keys() - cancelled)
        if under_way and draw.random() < 0.3:
            one.preempt(int(draw.choice(under_way)))
        if under_way and draw.random() < 0.1:
            number = int(draw.choice(under_way))
            one.cancel(number)
            cancelled.add(number)
        for progress in one.step():
            if progress.completion is not None:
                assert progress.number not in done
                done[progress.number] = progress.completion
    assert done.keys() == asked.keys()
    assert one.programs.num_compiled() == compiled
    for number, completion in done.items():
        kind = asked[number]
        if kind not in alone:
            (wanted,) = one.run([Request(pool[kind[0]], kinds[kind[1]], seed=kind[2])])
            alone[kind] = wanted.ids.tolist()
        wanted = alone[kind]
        if number in cancelled:
            assert completion.finished == "cancelled"
            assert completion.ids.tolist() == wanted[: len(completion.ids)]
        else:
            assert completion.ids.tolist() == wanted
    assert one._memory.seen.shape == (8, VOCABULARY)
    assert one.num_reused > 0


def test_a_mutant_that_shares_too_much_is_found(monkeypatch):
    monkeypatch.setattr(
        engine_module, "reusable", lambda slot, tokens, _: min(len(slot.held), len(tokens))
    )
    one = engine()
    first, second = prompts(40, 60)
    one.run([Request(first, DRAWN)])
    (done,) = one.run([Request(second, DRAWN)])
    (wanted,) = engine().run([Request(second, DRAWN)])
    assert not same(done, wanted)
