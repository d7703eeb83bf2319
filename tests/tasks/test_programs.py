"""Generated programs: right code passes, every other program fails, the splits share no meaning."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from task_scores import a_judge, canonical_failures, score

from codejax.execution import values
from codejax.recipe import RecipeError
from codejax.tasks import program_family, programs
from codejax.tasks.operations import OPERATIONS, VARIABLES, Kind
from codejax.tasks.program_family import (
    Applied,
    Draws,
    Function,
    cases_of,
    draw_function,
    probes,
    rivals,
)
from codejax.tasks.program_texts import body_of, fill, hole_of, is_term
from codejax.tasks.programs import Programs, calls_of, split_of, training_text
from codejax.tasks.task import Problem

COUNT = 90  # problems of each law
GOLDEN = "56523b74d3dbb6d8"  # of 60 problems and their tests; changes with PROTOCOL


@pytest.fixture(scope="module")
def held_out() -> Sequence[Problem]:
    return Programs(num_problems=COUNT).problems


def compiled(source: str) -> Callable[[Any], Any]:
    """The function of a program, run in this process."""
    names: dict[str, Any] = {}
    exec(source, names)
    return names["f"]


def passes(function: Callable[[Any], Any], problem: Problem) -> bool:
    """Whether it gives what every hidden call wants."""
    for test in calls_of(problem.data["function"], 12):
        [argument], _ = values.loads(test.call)
        try:
            if function(argument) != values.loads(test.returns):
                return False
        except Exception:
            return False
    return True


def applied(kind: Kind) -> Iterator[tuple[Applied, str]]:
    """Every operation on a kind, with some constants and each spelling."""
    draws = Draws("test", kind)
    for operation in OPERATIONS[kind]:
        for code in operation.codes:
            for _ in range(3):
                yield Applied(operation, tuple(map(draws.pick, operation.domains))), code


def check_codes(kind: Kind) -> None:
    """The code of every operation computes what the operation means."""
    for part, code in applied(kind):
        function = compiled(f"def f(v):\n    return {fill(code, part, 'v')}\n")
        for value in probes(kind):
            assert function(value) == part(value), (code, value)


@pytest.mark.parametrize("kind", ["int", "list", "text"])
def test_codes_compute_what_operations_mean(kind: Kind):
    check_codes(kind)


def test_codes_compute_what_operations_mean_mutant(monkeypatch: pytest.MonkeyPatch):
    wrong = [
        dataclasses.replace(one, codes=("{p} // {k} + 1",)) if one.name == "divide" else one
        for one in OPERATIONS["int"]
    ]
    monkeypatch.setitem(OPERATIONS, "int", tuple(wrong))
    with pytest.raises(AssertionError, match=r"// \{k\} \+ 1"):
        check_codes("int")


@pytest.mark.parametrize("style", ["base", "infill", "chat"])
def test_canonical_answers_pass(style: Any):
    task = Programs(split="train", num_problems=COUNT, style=style)
    for problem in task.problems:
        program = task.extract(problem, task.canonical(problem))
        assert passes(compiled(program), problem), program
        assert compiled(program)(probes(problem.data["function"].takes)[0]) is not None


@pytest.mark.parametrize("style", ["base", "infill", "chat"])
def test_the_judge_agrees(style: Any):
    task = Programs(num_problems=6, style=style)
    with a_judge() as judge:
        assert canonical_failures(judge, task) == {}
        for problem, other in zip(task.problems, task.problems[3:], strict=False):
            found = score(judge, task, problem, task.canonical(other))
            assert found.value == 0, (problem.id, other.id)
            assert found.metrics["tests"] < 1
        wanted = "" if style == "infill" else "\n    return None\n"
        assert score(judge, task, task.problems[0], wanted).value == 0


def check_other_meanings_fail(problems: Sequence[Problem]) -> None:
    """No program passes the calls of a problem that means something else."""
    functions = [problem.data["function"] for problem in problems]
    for problem in problems:
        own = problem.data["function"]
        places = {repr(value): place for place, value in enumerate(probes(own.takes))}
        calls = [(places[repr(value)], wanted) for value, wanted in cases_of(own, 12)]
        for other in functions:
            if other.takes == own.takes and other.meaning != own.meaning:
                same = all(other.outputs[place] == wanted for place, wanted in calls)
                assert not same, (problem.data["prompt"], other)


def test_programs_of_other_meanings_fail(held_out: Sequence[Problem]):
    check_other_meanings_fail(held_out)


def test_neighbours_fail(held_out: Sequence[Problem]):
    for problem in held_out[:60]:
        own = problem.data["function"]
        tests = cases_of(own, 4)
        for rival in rivals(own):
            if rival.outputs is not None and rival.outputs != own.outputs:
                assert any(rival(value) != wanted for value, wanted in tests), rival


def test_tests_that_only_begin_let_others_pass_mutant(
    held_out: Sequence[Problem], monkeypatch: pytest.MonkeyPatch
):
    def first(function: Function, count: int) -> list[tuple[Any, Any]]:
        return [(value, function(value)) for value in probes(function.takes)[: count // 4]]

    monkeypatch.setitem(globals(), "cases_of", first)
    with pytest.raises(AssertionError):
        check_other_meanings_fail(held_out)
    with pytest.raises(AssertionError):
        test_neighbours_fail(held_out)


def test_nothing_hard_coded_passes(held_out: Sequence[Problem]):
    for problem in held_out:
        wanted = [values.loads(test.returns) for test in calls_of(problem.data["function"], 12)]
        assert len(wanted) >= 12
        assert not passes(lambda value: value, problem)
        for one in [*wanted, None]:
            assert not passes(lambda value, one=one: one, problem), problem.data["prompt"]


def test_a_hole_left_open_fails(held_out: Sequence[Problem]):
    task = Programs(style="infill")
    for problem in held_out:
        before, hole, after = problem.data["hole"]
        assert before + hole + after == problem.data["body"]
        assert "\n" not in hole
        assert hole.strip()
        program = task.extract(problem, "")
        try:
            function = compiled(program)
        except SyntaxError:
            continue
        assert not passes(function, problem), program


def check_splits(train: Sequence[Problem], other: Sequence[Problem]) -> None:
    meanings = [{one.data["function"].meaning for one in side} for side in (train, other)]
    assert not meanings[0] & meanings[1]
    texts = [{one.data["prompt"] for one in side} for side in (train, other)]
    assert not texts[0] & texts[1]


def test_train_and_held_out_share_no_meaning(held_out: Sequence[Problem]):
    trained = [
        problem
        for seed in (0, 1)
        for problem in Programs(split="train", num_problems=300, seed=seed).problems
    ]
    assert len({problem.id for problem in trained}) > 550
    check_splits(trained, held_out)


def test_train_and_held_out_share_no_meaning_mutant(
    held_out: Sequence[Problem], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(programs, "split_of", lambda meaning: "train")
    with pytest.raises(AssertionError):
        check_splits(Programs(split="train", num_problems=COUNT).problems, held_out)


def test_meaning_is_what_is_computed():
    plus, times = (one for one in OPERATIONS["int"] if one.name in ("plus", "times"))
    one_way = Function((Applied(plus, (3,)), Applied(plus, (4,))))
    other_way = Function((Applied(plus, (7,)),))
    assert one_way.meaning == other_way.meaning
    assert one_way.meaning != Function((Applied(times, (7,)),)).meaning
    on_lists = next(one for one in OPERATIONS["list"] if one.name == "length")
    on_texts = next(one for one in OPERATIONS["text"] if one.name == "size")
    assert Function((Applied(on_lists),)).meaning != Function((Applied(on_texts),)).meaning


@pytest.mark.parametrize(("level", "count"), [(1, 2000), (2, 300), (3, 300)])
def test_every_level_has_thousands(level: int, count: int):
    """Level 1 has the fewest; of the others hardly a draw is lost on what was drawn before."""
    task = Programs(split="train", levels=(level,), num_problems=count)
    assert len({problem.id for problem in task.problems}) == count
    assert {problem.category for problem in task.problems} == {f"level {level}"}


def test_a_fifth_is_held_out():
    draws = Draws("share")
    functions = [one for _ in range(1500) if (one := draw_function(2, draws)) is not None]
    assert len(functions) > 500
    share = sum(split_of(one.meaning) == "held_out" for one in functions) / len(functions)
    assert 0.15 < share < 0.25


def test_too_many_problems_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(programs, "PATIENCE", 20)
    only = [one for one in OPERATIONS["int"] if one.name in ("square", "cube")]
    monkeypatch.setitem(OPERATIONS, "int", tuple(only))
    monkeypatch.setattr(program_family, "INPUTS", ("int",))
    with pytest.raises(ValueError, match=r"level 1 of train has no more than [012]; lower it"):
        _ = Programs(split="train", levels=(1,), num_problems=9).problems


def test_more_problems_begin_with_the_fewer(held_out: Sequence[Problem]):
    few = Programs(num_problems=20).problems
    assert [one.id for one in few] == [one.id for one in held_out[:20]]
    assert [one.category for one in few[:4]] == ["level 1", "level 2", "level 3", "level 1"]


def test_the_same_everywhere(held_out: Sequence[Problem]):
    told = "".join(training_text(problem) for problem in held_out[:60])
    told += repr([cases_of(problem.data["function"], 12) for problem in held_out[:60]])
    assert hashlib.sha256(told.encode()).hexdigest()[:16] == GOLDEN


def test_fingerprints_tell_settings_apart():
    tasks = [
        Programs(num_problems=3),
        Programs(num_problems=4),
        Programs(num_problems=3, style="infill"),
        Programs(num_problems=3, split="train"),
        Programs(num_problems=3, seed=1),
        Programs(num_problems=3, tests_per_problem=20),
    ]
    assert len({task.fingerprint for task in tasks}) == len(tasks)
    assert Programs(num_problems=3).fingerprint == tasks[0].fingerprint
    assert tasks[0].name == "programs_held_out"
    assert tasks[2].name == "programs_held_out_infill"


def test_prompts_and_answers_are_short(held_out: Sequence[Problem]):
    prompts = [len(problem.data["prompt"]) for problem in held_out]
    bodies = [len(problem.data["body"]) for problem in held_out]
    assert max(prompts) <= 320
    assert sum(prompts) / COUNT < 150
    assert max(bodies) <= 240
    assert sum(bodies) / COUNT < 80
    for problem in held_out:
        text = training_text(problem)
        assert text.count('"""') == 2
        assert "{" not in text
        assert len(text.split("\n")[1]) <= 280


def test_words_and_spellings_vary():
    train = Programs(split="train", num_problems=600).problems
    openings = {one.data["prompt"].split('"""')[1].split()[0] for one in train}
    assert openings >= {"Return", "Take", "Start", "If"}
    bodies = "".join(one.data["body"] for one in train)
    for spelling in ("for v in xs:", "total += ", " if ", "    return", "xs = "):
        assert spelling in bodies


def test_chat_takes_the_last_block():
    task = Programs(num_problems=1, style="chat")
    [problem] = task.problems
    assert problem.data["prompt"].strip() in task.prompt(problem).messages[0].content
    answer = "No:\n```python\na\n```\nYes:\n```python\nb\n```\n"
    assert task.extract(problem, answer) == "b\n"
    assert task.extract(problem, "c") == "c"


def test_prompts_end_where_any_tokenizer_may_split():
    """Some have tokens for a newline with the indentation behind it."""
    task = Programs(num_problems=3)
    for problem in task.problems:
        text = task.prompt(problem).text
        assert text.endswith('"""')
        assert text + task.canonical(problem) == training_text(problem)


def test_terms_need_no_parentheses():
    for code in ("x", "xs[1:2]", "max(x, 3)", "[v for v in xs]", "' '.join(xs)"):
        assert is_term(code)
    for code in ("x + 1", "-x", "a in b", "' '.join(xs) + s"):
        assert not is_term(code)


def test_bodies_that_loop_compute_the_same():
    names = ("keep_over", "times_each", "sum")
    parts = [next(one for one in OPERATIONS["list"] if one.name == name) for name in names]
    function = Function((Applied(parts[0], (3,)), Applied(parts[1], (2,)), Applied(parts[2])))
    bodies = {body_of(function, Draws(seed)) for seed in range(20)}
    assert len(bodies) > 2
    assert any("total += v * 2" in body for body in bodies)
    for body in bodies:
        found = compiled(f"def f({VARIABLES['list']}):\n{body}")
        assert [found(value) for value in probes("list")] == list(function.outputs or ())
        assert {"".join(hole_of(body, Draws(seed))) for seed in range(5)} == {body}


@pytest.mark.parametrize(
    "wrong", [{"levels": (4,)}, {"levels": ()}, {"num_problems": 0}, {"tests_per_problem": 3}]
)
def test_settings_that_cannot_be(wrong: dict[str, Any]):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Programs(**wrong).check()
    with pytest.raises(RecipeError):
        Programs(level=(1,))  # type: ignore[call-arg]
