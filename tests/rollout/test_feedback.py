"""Several tries: what the policy is told, whose tokens are whose, and that slots go on."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import numpy as np
import pytest
from played import BYTES, LOUD, PROMPTS, RIGHT, WRONG, Sums, Verdicts, asked, played, says
from small import fresh_params, small_transformer

from codejax.execution.client import Local
from codejax.execution.protocol import Result, TestResult, Verdict
from codejax.generate.engine import Engine, EngineSettings
from codejax.generate.prompts import Prompts
from codejax.generate.requests import Request, Sampling
from codejax.rollout.collect import RolloutSettings
from codejax.rollout.feedback import Feedback
from codejax.tasks.programs import Programs
from codejax.tasks.task import Message, Prompt


def improving(request: Request) -> str:
    """Loud, then wrong, then right, by what it has been told so far."""
    told = BYTES.decode(request.prompt).count(b"This does not pass.")
    return (LOUD, WRONG, RIGHT)[told]


@pytest.mark.parametrize("chat", [True, False])
def test_the_policy_sees_what_failed_and_tries_again(executor: Local, chat: bool):
    engine = says(improving)
    found = played(asked(Sums(1, chat=chat), 2), engine, executor, environment=Feedback())
    for episode in found.values():
        assert (episode.score.value, episode.verdict, episode.num_answers) == (1.0, "AC", 3)
        speakers = [turn.speaker for turn in episode.turns]
        assert speakers == ["prompt", *["policy", "environment"] * 2, "policy"]
        answers = [turn.text for turn in episode.turns if turn.speaker == "policy"]
        assert answers == [LOUD, WRONG, RIGHT]
        first, second = (turn.text for turn in episode.turns if turn.speaker == "environment")
        assert "tests, two: RE" in first
        assert "no idea" in first
        assert "tests, two: WA" in second
        # Only what the policy drew is its own; each prompt is all that stood before.
        spelt = b"".join(
            BYTES.decode(episode.tokens[turn.start : turn.end], special=True)
            for turn in episode.turns
            if turn.speaker == "policy"
        )
        assert spelt == "".join(f"{text}<|endoftext|>" for text in answers).encode()
        starts = [turn.start for turn in episode.turns if turn.speaker == "policy"]
        prompts = [r.prompt.tolist() for r in engine.submitted]
        for start in starts:
            assert episode.tokens[:start].tolist() in prompts
    seeds = [request.seed for request in engine.submitted]
    assert len(set(seeds)) == len(seeds) == 6


def test_no_more_turns_than_allowed_and_none_after_a_fault_of_ours():
    engine = says(lambda r: WRONG)
    two = played(asked(Sums(1), 1), engine, Verdicts(Verdict.WA), environment=Feedback(max_turns=2))
    [episode] = two.values()
    assert (episode.num_answers, episode.score.value) == (2, 0.0)
    [episode] = played(
        asked(Sums(1), 1), engine, Verdicts(Verdict.INFRA), environment=Feedback()
    ).values()
    assert (episode.num_answers, episode.is_absent) == (1, True)


def test_an_episode_that_is_full_keeps_its_last_verdict():
    engine = says(lambda r: WRONG)
    environment = Feedback(max_turns=1000, max_characters=2000)
    [episode] = played(
        asked(Sums(1), 1), engine, Verdicts(Verdict.WA), environment=environment
    ).values()
    assert (episode.finish, episode.score.value) == ("length", 0.0)
    assert 2 < episode.num_answers < 100
    assert episode.turns[-1].speaker == "policy"
    assert len(episode.tokens) <= engine.settings.length


def test_slots_go_on_with_what_they_hold():
    model = small_transformer(vocab_size=BYTES.vocab_size)
    engine = Engine(model, fresh_params(model), EngineSettings(slots=2, length=1024, chunk=64))
    settings = RolloutSettings(sampling=Sampling(max_new_tokens=40, temperature=1.0))
    [episode] = played(
        asked(Sums(1, chat=True), 1),
        engine,
        Verdicts(Verdict.WA),
        settings,
        environment=Feedback(max_turns=2),
    ).values()
    prompt, answer, reply, again = episode.turns
    before = len(episode.tokens[: answer.end])
    assert engine.num_reused >= before - 2  # the last token, and a stop token, are read anew
    assert engine.num_filled + engine.num_reused == len(episode.tokens[: prompt.end]) - 1 + (
        len(episode.tokens[: reply.end]) - 1
    )
    assert again.end == len(episode.tokens)


# What is told of results.


def told(settings: Feedback, *tests: TestResult, **more: Result) -> list[str]:
    overall = next((test.verdict for test in tests if test.verdict is not Verdict.AC), Verdict.AC)
    return list(settings.told({"tests": Result("", overall, tests), **more}))


RIGHT_ONE = TestResult("fine", Verdict.AC, message="never told")
UNEQUAL = TestResult("two", Verdict.WA, message="gave 1, expected 42", stderr="a hint\n")
RAISED = TestResult("", Verdict.RE, message="KeyError: 'b'")
AFTER = TestResult("late", Verdict.SKIPPED)
NEVER_RAN = Result("", Verdict.CE, message="line 3: SyntaxError")


def test_what_a_test_wants_is_told_where_it_may_be():
    tests = (RIGHT_ONE, UNEQUAL, RAISED, AFTER)
    error = "tests, test 3: RE\nKeyError: 'b'"
    assert told(Feedback(), *tests) == ["tests, two: WA\ngave 1, expected 42\na hint", error]
    assert told(Feedback(wanted=False), *tests) == ["tests, two: WA\na hint", error]


def test_no_more_tests_are_told_than_allowed():
    found = told(Feedback(max_tests=2), RAISED, *[UNEQUAL] * 4)
    assert [line.partition(":")[0] for line in found[:2]] == ["tests, test 1", "tests, two"]
    assert found[2:] == ["3 more tests fail."]
    assert len(told(Feedback(max_tests=5), RAISED, *[UNEQUAL] * 4)) == 5


def test_what_does_not_compile_is_told_as_such():
    found = told(Feedback(wanted=False), RAISED, build=NEVER_RAN)
    assert found[0] == "build: it does not compile\nline 3: SyntaxError"
    assert len(found) == 2


def test_long_streams_and_messages_are_cut():
    long = TestResult("one", Verdict.WA, message="m" * 5000, stderr=f"begin{'x' * 5000}end")
    [found] = told(Feedback(max_characters=20), long)
    messages, errors = [f"{'m' * 10}\n... 4980 characters ...\n{'m' * 10}"], "begin" + "x" * 5
    assert found.startswith("\n".join(["tests, one: WA", *messages, errors]))
    assert found.endswith("x" * 7 + "end")


def test_a_gap_has_no_place_for_feedback():
    infilling = Programs(num_problems=1, style="infill")
    with pytest.raises(ValueError, match="a gap to fill in has no place for feedback"):
        played(asked(infilling, 1), says(lambda r: "1"), Verdicts(), environment=Feedback())


# How a talk goes on.


def spelt(prompts: Prompts, ids: np.ndarray) -> str:
    return prompts.tokenizer.decode(ids, special=True).decode()


NEXT = "\n<|im_start|>user\nno<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("already", "wanted"),
    [
        (b"", f"<|im_end|>{NEXT}"),
        (b"<|im_end|>", NEXT),
        (b"<|im_end|>\n<|im", "_start|>user\nno<|im_end|>\n<|im_start|>assistant\n"),
        (b"<|im_end|> more", f"<|im_end|>{NEXT}"),
    ],
)
def test_a_reply_does_not_repeat_what_was_spelt(already: bytes, wanted: str):
    assert spelt(PROMPTS, PROMPTS.reply("no", spelt=already)) == wanted


def template(messages) -> str:
    """With special tokens of ours around turns."""
    turns = [f"<|{m.role}|>{m.content}<|end_of_turn|>" for m in messages]
    return "".join(turns) + "<|assistant|>"


def test_a_reply_does_not_repeat_the_stop_token_nor_spell_others():
    prompts = Prompts(BYTES, template=template)
    special = BYTES.special
    text = "no<|end_of_turn|>"
    ids = prompts.reply(text, ending=special.end_of_turn)
    assert ids.tolist() == [special.user, *text.encode(), special.end_of_turn, special.assistant]
    whole = prompts.reply("no", ending=special.end_of_text)
    assert whole[0] == special.end_of_turn
    with pytest.raises(ValueError, match="leaves turns out"):
        Prompts(BYTES, template=lambda messages: messages[-1].content).reply("no")


def test_a_reply_goes_on_as_the_template_would():
    for prompts in (PROMPTS, Prompts(BYTES, template=template)):
        talk = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
        whole = prompts.ids(Prompt(messages=talk))
        begun = prompts.ids(Prompt(messages=talk[:1]))
        parts = [begun, BYTES.encode(b"b"), prompts.reply("c")]
        assert np.array_equal(np.concatenate(parts), whole)
