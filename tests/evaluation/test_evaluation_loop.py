"""Evaluations from end to end: complete, overlapping, resumable, and the same either way."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import killed_worker
import pytest
from scripted_task import LOUD, RIGHT, WRONG, Echoes, Scripted, Sums, Verdicts, mixed

from codejax.evaluation.generator import Answer, Request
from codejax.evaluation.loop import Settings, evaluate
from codejax.evaluation.page import write_page
from codejax.evaluation.records import read_records
from codejax.execution.client import Local, NoWorkers
from codejax.execution.protocol import Verdict
from codejax.rollout.asks import seed_of
from codejax.rollout.journal import read_lines

HERE = Path(__file__).parent
THREE = Settings(num_samples=3, ks=(1, 2))


def test_every_sample_is_judged_and_kept(tmp_path: Path, executor: Local):
    results = evaluate(Sums(), generator := Scripted(), executor, THREE, tmp_path)
    kept = read_records(tmp_path)
    assert len(kept.samples) == len(kept.answers) == len(generator.asked) == 12
    wanted = {RIGHT: "AC", WRONG: "WA", LOUD: "RE"}
    for line in kept.samples.values():
        assert line["verdict"] == wanted[line["candidate"]]
        assert line["value"] == float(line["verdict"] == "AC")
        [test] = line["jobs"]["tests"]["tests"]
        assert test["name"] == "two"
        assert ("no idea" in test["stderr"]) == (line["candidate"] == LOUD)
    right = sum(mixed(request) == RIGHT for request in generator.asked)
    assert results["figures"]["pass@1"]["value"] == pytest.approx(right / 12)
    assert json.loads((tmp_path / "results.json").read_text())["evaluation"] == results
    assert results["judged_by"]["isolation"].keys() == {f"L{next(iter(levels(kept)))}"}
    assert kept.headers[0]["identity"]["task_fingerprint"] == "sums-1"
    assert {"python", "codejax", "commit", "packages"} <= kept.headers[0].keys()


def levels(kept) -> set[int]:
    """Levels of isolation of all jobs."""
    return {job["isolation"] for line in kept.samples.values() for job in line["jobs"].values()}


@pytest.mark.parametrize(
    "text", ["\ud800print(1)", "print('\0')", "", "\u2028\u202e", "x" * 3_000_000]
)
def test_odd_answers_are_judged(tmp_path: Path, executor: Local, text: str):
    results = evaluate(Sums(1), Scripted(lambda r: text), executor, Settings(), tmp_path)
    assert (results["samples"], results["absent"]) == (1, 0)
    assert results["figures"]["pass@1"]["value"] == 0.0


class Sixteen:
    """Half a byte a character, but for those prompts that it cannot take."""

    def __init__(self, refused: str = "none"):
        self.refused, self.asked = refused, 0

    def nats(self, pairs):
        self.asked += len(pairs)
        return [
            math.nan if self.refused in prompt.text else len(text) * math.log(16)
            for prompt, text in pairs
        ]


def test_bits_per_byte_of_canonical_answers(tmp_path: Path):
    script, scorer = Scripted(lambda r: "no"), Sixteen()
    plain = evaluate(Echoes(2), script, None, Settings(), tmp_path)
    assert "bits_per_byte" not in plain["figures"]
    results = evaluate(Echoes(2), script, None, Settings(), tmp_path, scorer=scorer)
    assert results["figures"]["bits_per_byte"]["value"] == pytest.approx(4.0)
    assert evaluate(Echoes(2), script, None, Settings(), tmp_path, scorer=scorer) == results
    assert scorer.asked == 2


def test_canonical_answers_that_cannot_be_measured_are_named(tmp_path: Path):
    script, scorer = Scripted(lambda r: "no"), Sixteen(refused="1.")
    for _ in range(2):
        results = evaluate(Echoes(3), script, None, Settings(), tmp_path, scorer=scorer)
        figure = results["figures"]["bits_per_byte"]
        assert (figure["value"], figure["problems"]) == (pytest.approx(4.0), 2)
        assert (figure["left_out"], figure["unmeasured"]) == (1, ["sums/1"])
    assert scorer.asked == 3
    page = write_page(tmp_path).read_text()
    assert "Not in bits per byte: the canonical answers of sums/1, which" in page


def test_a_second_call_asks_nothing_and_finds_the_same(tmp_path: Path):
    first = evaluate(Sums(), Scripted(), Verdicts(Verdict.AC), THREE, tmp_path)
    again = Scripted()
    assert evaluate(Sums(), again, Verdicts(Verdict.WA), THREE, tmp_path) == first
    assert again.asked == []
    assert len(read_records(tmp_path).headers) == 2


def test_more_samples_extend_an_evaluation(tmp_path: Path):
    evaluate(Sums(), Scripted(), Verdicts(Verdict.AC), THREE, tmp_path / "grown")
    more = Settings(num_samples=5, ks=(1, 5))
    grown = Scripted()
    results = evaluate(Sums(), grown, Verdicts(Verdict.AC), more, tmp_path / "grown")
    assert {request.sample for request in grown.asked} == {3, 4}
    whole = Scripted()
    assert results == evaluate(Sums(), whole, Verdicts(Verdict.AC), more, tmp_path / "whole")
    assert {r.seed for r in grown.asked} <= {r.seed for r in whole.asked}


def test_seeds_are_apart():
    seeds = [seed_of(0, f"p/{i}", n) for i in range(300) for n in range(10)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert seed_of(1, "p/0", 0) != seed_of(0, "p/0", 0)


def test_failed_generations_are_failures(tmp_path: Path):
    generator = Scripted(
        lambda request: "yes", finish=lambda r: "failed" if r.sample == 0 else "length"
    )
    results = evaluate(Echoes(2), generator, None, THREE, tmp_path)
    assert results["figures"]["pass@1"]["value"] == pytest.approx(2 / 3)
    assert results["figures"]["exact_match"]["value"] == pytest.approx(2 / 3)
    assert (results["failed_generations"], results["cut_off"], results["absent"]) == (2, 4, 0)
    line = read_records(tmp_path).samples["sums/0", 0]
    assert (line["verdict"], line["message"]) == ("SKIPPED", "the prompt is too long")


def test_faults_of_ours_are_absent_and_judged_again(tmp_path: Path):
    settings = Settings(num_samples=2)
    faulty = Verdicts(Verdict.AC, Verdict.INFRA)
    results = evaluate(Sums(), Scripted(), faulty, settings, tmp_path)
    assert (results["samples"], results["absent"]) == (4, 4)
    assert results["figures"]["pass@1"]["value"] == 1.0
    assert results["verdicts"] == {"AC": 4, "INFRA": 4}
    again = Scripted()
    results = evaluate(Sums(), again, Verdicts(Verdict.WA), settings, tmp_path)
    assert again.asked == []
    assert (results["samples"], results["absent"]) == (8, 0)
    assert results["figures"]["pass@1"]["value"] == 0.5
    assert len(read_lines(tmp_path / "absent.jsonl")) == 4


def test_absent_samples_alone_make_no_score(tmp_path: Path):
    results = evaluate(Sums(), Scripted(), Verdicts(Verdict.OVERLOADED), Settings(), tmp_path)
    figure = results["figures"]["pass@1"]
    assert figure["value"] is None
    assert figure["left_out"] == 4
    assert figure["reason"]


def test_pass_at_k_beyond_the_samples_is_undefined(tmp_path: Path):
    settings = Settings(num_samples=2, ks=(1, 5))
    results = evaluate(Echoes(2), Scripted(lambda r: "yes"), None, settings, tmp_path)
    assert results["figures"]["pass@1"]["value"] == 1.0
    undefined = results["figures"]["pass@5"]
    assert undefined["value"] is None
    assert undefined["reason"] == "sums/0 has 2 samples, and pass@5 wants 5"


def test_judging_goes_on_while_others_are_generated(tmp_path: Path):
    executor = Verdicts(Verdict.AC)
    judged_meanwhile = []

    class Watching(Scripted):
        def generate(self, requests: Sequence[Request]) -> Iterator[Answer]:
            for answer in super().generate(requests):
                yield answer
                deadline = time.monotonic() + 5
                while len(executor.jobs) < len(self.asked) and time.monotonic() < deadline:
                    time.sleep(0.001)
                judged_meanwhile.append(len(executor.jobs))

    evaluate(Sums(), Watching(), executor, THREE, tmp_path)
    assert judged_meanwhile == list(range(1, 13))


def test_no_more_are_in_flight_than_allowed(tmp_path: Path):
    executor = Verdicts(Verdict.AC, pause=0.02)
    settings = Settings(num_samples=5, in_flight=3)
    evaluate(Sums(), Scripted(), executor, settings, tmp_path)
    assert executor.most_under_way == 3


def test_what_goes_wrong_in_judging_ends_the_loop_and_loses_nothing(tmp_path: Path):
    class Gone(Verdicts):
        async def ajudge(self, jobs, progress=None):
            if len(self.jobs) >= 2:
                raise NoWorkers("nobody is there")
            return await super().ajudge(jobs)

    generator = Scripted(pause=0.01)
    with pytest.raises(NoWorkers, match="nobody"):
        evaluate(Sums(), generator, Gone(Verdict.AC), THREE, tmp_path)
    kept = read_records(tmp_path)
    assert len(kept.samples) == 2
    assert len(kept.answers) == len(generator.asked)
    assert not [thread for thread in threading.enumerate() if thread.name == "judging"]
    again = Scripted()
    results = evaluate(Sums(), again, Verdicts(Verdict.AC), THREE, tmp_path)
    assert len(again.asked) == 12 - len(generator.asked)
    assert results["samples"] == 12


def test_a_job_that_cannot_be_is_named(tmp_path: Path, executor: Local):
    class Untested(Sums):
        def jobs(self, problem, candidate):
            made = super().jobs(problem, candidate)["tests"]
            return {"tests": dataclasses.replace(made, tests=())}

    with pytest.raises(ValueError, match=r"sums/0, sample 0: .*0 tests"):
        evaluate(Untested(1), Scripted(), executor, Settings(), tmp_path)


def test_a_generator_that_breaks_off_is_gone_on_with(tmp_path: Path):
    class Broken(Scripted):
        def generate(self, requests: Sequence[Request]) -> Iterator[Answer]:
            for number, answer in enumerate(super().generate(requests)):
                if number == 5:
                    raise KeyboardInterrupt
                yield answer

    with pytest.raises(KeyboardInterrupt):
        evaluate(Sums(), Broken(), Verdicts(Verdict.AC), THREE, tmp_path)
    assert len(read_records(tmp_path).answers) == 5
    again = Scripted()
    evaluate(Sums(), again, Verdicts(Verdict.AC), THREE, tmp_path)
    assert len(again.asked) == 7


def test_generators_that_skip_or_repeat_are_found_out(tmp_path: Path):
    class Skipping(Scripted):
        def generate(self, requests: Sequence[Request]) -> Iterator[Answer]:
            return super().generate(requests[1:])

    class Repeating(Scripted):
        def generate(self, requests: Sequence[Request]) -> Iterator[Answer]:
            yield from super().generate(requests)
            yield from super().generate(requests)

    with pytest.raises(RuntimeError, match="left 1 requests unanswered"):
        evaluate(Sums(), Skipping(), Verdicts(Verdict.AC), THREE, tmp_path / "a")
    with pytest.raises(RuntimeError, match="not open"):
        evaluate(Sums(), Repeating(), Verdicts(Verdict.AC), THREE, tmp_path / "b")


def test_a_folder_belongs_to_one_evaluation(tmp_path: Path):
    def start(task: Sums, model: str) -> None:
        executor = Verdicts(Verdict.AC)
        evaluate(task, Scripted(), executor, THREE, tmp_path, identity={"model": model})

    start(Sums(), "a")
    with pytest.raises(ValueError, match="model was 'a' and is 'b'"):
        start(Sums(), "b")
    with pytest.raises(ValueError, match="task_fingerprint was 'sums-1' and is 'sums-2'"):
        start(Sums(4, "sums-2"), "a")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"num_samples": 0}, "at least 1"),
        ({"ks": ()}, "at least one k"),
        ({"in_flight": 0}, "at least 1"),
    ],
)
def test_settings_that_cannot_be(wrong, said: str):
    with pytest.raises(ValueError, match=said):
        Settings(**wrong)


def test_buckets_are_refused():
    with pytest.raises(ValueError, match="is a bucket"):
        evaluate(Sums(), Scripted(), None, THREE, "gs://bucket/evaluation")


def spawn(workdir: Path, pause: float) -> subprocess.Popen[bytes]:
    """A child that evaluates, in a session of its own."""
    path = os.pathsep.join([str(HERE.parents[1]), str(HERE)])
    return subprocess.Popen(
        [sys.executable, str(HERE / "killed_worker.py"), str(workdir), str(pause)],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def num_answers(workdir: Path) -> int:
    """Lines so far."""
    path = workdir / "answers.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_killed_at_any_time_is_uninterrupted(tmp_path: Path, executor: Local):
    workdir, asked = tmp_path / "killed", tmp_path / "killed.asked"
    recorded_before: set[tuple[str, int]] = set()
    for wanted in (1, 17, 33):
        child = spawn(workdir, 0.01)
        deadline = time.monotonic() + 60
        while num_answers(workdir) < wanted and child.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        assert child.stderr is not None
        child.stderr.close()
        new = {tuple(json.loads(line)) for line in asked.read_text().splitlines()}
        assert not new & recorded_before  # what is recorded is not generated again
        recorded_before |= set(read_records(workdir).answers)
        asked.write_text("")
    last = spawn(workdir, 0.0)
    _, said = last.communicate(timeout=120)
    assert last.returncode == 0, said.decode()
    assert b"going on" in said
    new = {tuple(json.loads(line)) for line in asked.read_text().splitlines()}
    assert not new & recorded_before
    assert len(new | recorded_before) == 40
    lines = [line for line in read_lines(workdir / "samples.jsonl") if "header" not in line]
    assert len(lines) == len({(line["problem"], line["sample"]) for line in lines}) == 40
    whole = evaluate(
        Sums(8), Scripted(), executor, killed_worker.SETTINGS, tmp_path / "uninterrupted"
    )
    assert json.loads((workdir / "results.json").read_text())["evaluation"] == whole
