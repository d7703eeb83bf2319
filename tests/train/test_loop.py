"""The loop with scripted parts: what it calls when, how it ends, and what it books."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from codejax.data.batch import Batch, HostBatch
from codejax.train.loop import DONE, NONFINITE, RETRY, Loop, Profile
from codejax.train.state import TrainState
from codejax.train.throughput import Goodput

STATE = TrainState(step=jnp.int32(0), params={"w": jnp.ones(2)}, opt_state={}, key=jnp.zeros(2))


@dataclass
class ScriptedParts:
    """A log, a saver and a guard that write down what they are asked."""

    save_every: int = 4
    stop_at: int | None = None
    records: list[tuple[int, str, dict[str, Any]]] = field(default_factory=list)
    saves: list[tuple[int, int]] = field(default_factory=list)
    best: dict[int, float] = field(default_factory=dict)
    waits: int = 0
    beats: int = 0
    flushed: int = 0

    def write(self, step, kind, scalars):
        self.records.append((step, kind, dict(scalars)))

    def flush(self):
        self.flushed = len(self.records)

    def due(self, step):
        return step % self.save_every == 0

    def save(self, step, state, meta):
        assert self.flushed == len(self.records), "a kill could leave a gap in the log"
        self.saves.append((step, meta["rows"]))
        return 0.0

    def check(self):
        pass

    def wait(self):
        self.waits += 1

    def record(self, step, metrics):
        self.best[step] = metrics["held_out/bits_per_byte"]

    def beat(self):
        self.beats += 1

    def should_stop(self, step):
        return step == self.stop_at


def batches(first_row=0, size=2):
    ids = np.zeros((size, 4), np.int32)
    batch = Batch(tokens=ids, targets=ids, segments=ids, positions=ids, weights=ids)
    row = first_row
    while True:
        rows = np.arange(row, row + size)
        row += size
        yield batch, HostBatch(batch=batch, rows=rows, consumed=row)


def make_loop(parts, workdir, *, bad_steps=(), **changes) -> Loop:
    def step(state, batch):
        number = int(state.step) + 1
        bad = number in bad_steps
        metrics = {
            "loss": jnp.float32(np.nan if bad else 1.0 / number),
            "gradient_norm": jnp.float32(1.0),
            "tokens": jnp.int32(8),
            "nonfinite": jnp.int32(bad),
        }
        next_state = TrainState(jnp.int32(number), state.params, state.opt_state, state.key)
        return next_state, metrics

    fields = {
        "step": step,
        "state": STATE,
        "first_step": 0,
        "num_steps": 10,
        "feed": batches(),
        "log": parts,
        "saver": parts,
        "guard": parts,
        "meta": lambda rows: {"rows": rows},
        "learning_rate": lambda count: 0.5 * count,
        "workdir": epath.Path(workdir),
        "goodput": Goodput(),
        "flops_per_token": 100.0,
        "peak_flops_per_second": 1e12,
    }
    return Loop(**(fields | changes))


def steps_of(parts, kind):
    return [step for step, found, _ in parts.records if found == kind]


def test_every_step_is_logged_once_in_order(tmp_path):
    parts = ScriptedParts()
    assert make_loop(parts, tmp_path).run() == DONE
    assert steps_of(parts, "train") == list(range(1, 11))
    assert parts.beats >= 10
    train = [scalars for _, kind, scalars in parts.records if kind == "train"]
    assert [s["learning_rate"] for s in train] == [0.5 * n for n in range(10)]
    assert [s["rows"] for s in train] == [2 * n for n in range(1, 11)]
    for s in train:
        assert s["tokens_per_second"] == pytest.approx(8 / s["seconds"])
        assert s["mfu"] == pytest.approx(100.0 * s["tokens_per_second"] / 1e12)


def test_saves_when_due_and_at_the_end_with_the_rows_consumed(tmp_path):
    parts = ScriptedParts()
    make_loop(parts, tmp_path).run()
    assert parts.saves == [(4, 8), (8, 16), (10, 20)]
    assert parts.waits == 1  # only the last one is waited for


def test_evaluates_on_the_way_and_after_the_last_step(tmp_path):
    parts, seen = ScriptedParts(), []

    def evaluate(params):
        seen.append(params)
        return {"bits_per_byte": 3.0 - len(seen)}

    make_loop(parts, tmp_path, evaluate=evaluate, evaluate_every=5).run()
    assert steps_of(parts, "held_out") == [5, 10]
    assert parts.best == {5: 2.0, 10: 1.0}


def test_watches_on_the_way_and_after_the_last_step(tmp_path):
    parts, seen = ScriptedParts(), []

    def watch(step, params):
        assert steps_of(parts, "train")[-1] == step  # no step in flight holds the device
        assert params is STATE.params
        seen.append(step)

    make_loop(parts, tmp_path, watch=watch, watch_every=4).run()
    assert seen == [4, 8, 10]


def test_a_signal_saves_and_asks_for_a_retry(tmp_path):
    parts = ScriptedParts(stop_at=6)
    assert make_loop(parts, tmp_path).run() == RETRY
    assert parts.saves[-1] == (6, 12)
    assert steps_of(parts, "train") == [1, 2, 3, 4, 5, 6]
    assert parts.waits == 1


def test_a_signal_at_the_last_step_is_no_retry(tmp_path):
    assert make_loop(ScriptedParts(stop_at=10), tmp_path).run() == DONE


def test_nonfinite_stops_and_names_the_rows(tmp_path):
    parts = ScriptedParts()
    assert make_loop(parts, tmp_path, bad_steps=(6,)).run() == NONFINITE
    note = json.loads((tmp_path / "nonfinite-0.jsonl").read_text())
    assert note == {"step": 6, "loss": "nan", "gradient_norm": "1.0", "rows": [10, 11]}
    assert all(step < 6 for step, _ in parts.saves)


def test_nonfinite_is_skipped_and_counted(tmp_path):
    parts = ScriptedParts()
    loop = make_loop(parts, tmp_path, bad_steps=(3, 6), nonfinite="skip")
    assert loop.run() == DONE
    lines = (tmp_path / "nonfinite-0.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [3, 6]
    flags = [s["nonfinite"] for _, kind, s in parts.records if kind == "train"]
    assert sum(flags) == 2


def test_a_finished_run_does_nothing(tmp_path):
    parts = ScriptedParts()
    assert make_loop(parts, tmp_path, first_step=10).run() == DONE
    assert parts.records == []
    assert parts.saves == []


def test_goodput_counts_steps_against_everything(tmp_path):
    goodput = Goodput({"compile": 1e9})
    make_loop(ScriptedParts(), tmp_path, goodput=goodput).run()
    assert 0.0 < goodput.value() < 1e-6
    assert {"step", "save", "compile"} <= set(goodput.seconds)
    assert Goodput().value() == 1.0


def test_profiler_window_is_recorded(tmp_path):
    make_loop(ScriptedParts(), tmp_path, profile=Profile(first_step=2, num_steps=3)).run()
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
