"""Samples: gaps that are whole statements of real files, within the room a model has."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import pathlib
import textwrap
from collections.abc import Callable, Iterator

import pytest
from scripted_engine import ScriptedEngine

from codejax.data.document import Document
from codejax.data.tokenizer import ByteTokenizer
from codejax.experiments import samples
from codejax.experiments.samples import Gap, Samples, gaps_of, pick, write_samples
from codejax.generate.prompts import Prompts
from codejax.generate.requests import Request, Sampling
from codejax.generate.text import Texts

SMALL = Samples(min_lines=5, max_lines=10, sampling=Sampling(max_new_tokens=24))
SOURCE = textwrap.dedent('''\
    import os


    @decorated
    def outer(path):
        """Docstring
        of two lines.
        """
        first = os.stat(path)
        second = (
            first
        )
        return second


    def short(x): return x; y = 1


    class Holder:
        async def method(self, value):
            a = 1
            b = 2; c = 3
            @decorated
            def inner():
                return value
            return inner
    ''').encode()


def document(content: bytes, path: str = "m.py", repository: str = "r") -> Document:
    return Document(content, path, repository, "python")


def check_gaps(gaps: Callable[[Document, Samples], Iterator[Gap]]) -> None:
    found = {(gap.title, gap.kind): gap for gap in gaps(document(SOURCE), SMALL)}
    assert all(gap.prefix + gap.truth + gap.suffix == SOURCE for gap in found.values())
    assert {title for title, _ in found} == {"m.py: outer", "m.py: method"}
    outer = found["m.py: outer", "complete"]
    assert outer.prefix.endswith(b'    """\n')
    assert outer.truth.startswith(b"    first =")
    assert outer.truth.endswith(b"    return second\n")
    assert found["m.py: outer", "infill"].truth == b"    second = (\n        first\n    )\n"
    # The statement in the middle shares no line with the one before, and keeps its decorator.
    assert found["m.py: method", "complete"].truth.startswith(b"        a = 1\n")
    assert ("m.py: method", "infill") not in found


def test_gaps_are_whole_statements():
    check_gaps(gaps_of)


def test_gaps_are_whole_statements_mutant(monkeypatch: pytest.MonkeyPatch):
    cut = samples._cut
    monkeypatch.setattr(samples, "_cut", lambda lines, first, last: cut(lines, first + 1, last))
    with pytest.raises(AssertionError):
        check_gaps(gaps_of)


def test_a_decorated_statement_is_cut_with_its_decorator():
    body = SOURCE.replace(b"b = 2; c = 3", b"b = 2")
    gaps = {gap.title: gap for gap in gaps_of(document(body), SMALL) if gap.kind == "infill"}
    assert gaps["m.py: method"].truth.startswith(b"        @decorated\n")


@pytest.mark.parametrize("content", [b"def f(:\n", b"a = '\0'\n", SOURCE.replace(b"\n", b"\r\n")])
def test_files_whose_lines_cannot_be_told_have_no_gaps(content: bytes):
    assert list(gaps_of(document(content), SMALL)) == []


def test_every_project_comes_before_any_project_again():
    documents = [document(SOURCE, f"{i}.py", name) for i, name in enumerate("aaaaaaab")]
    picked = [gap for gap in pick(documents, SMALL) if gap.kind == "complete"]
    assert len(picked) == 3
    assert {gap.repository for gap in picked[:2]} == {"a", "b"}
    assert picked == [gap for gap in pick(documents[::-1], SMALL) if gap.kind == "complete"]


def hashes() -> tuple[Texts, list[Request]]:
    """What answers every question with five hash signs, and the requests that reach it."""
    engine = ScriptedEngine(lambda request: [*b"#####"])
    return Texts(engine, Prompts(ByteTokenizer())), engine.submitted


def test_samples_show_what_the_model_saw_and_wrote():
    long = b"".join(b"v%d = %d\n" % (i, i) for i in range(200)) + SOURCE + b"w = 1\n" * 200
    settings = dataclasses.replace(SMALL, length=400)
    texts, asked = hashes()
    made = write_samples(texts, [document(long)], settings)
    assert [request.seed for request in asked] == [0, 1, 2]
    for one, request in zip(made, asked, strict=True):
        given = (request.prompt, request.sampling)
        assert given[1] == settings.sampling
        assert len(given[0]) + settings.sampling.max_new_tokens <= 400
        seen = ByteTokenizer().decode(given[0]).decode()
        assert seen == one.prefix + one.suffix
    assert [one.kind for one in made] == ["complete", "complete", "infill"]
    for one in made:
        assert one.generated == "#####"
        assert one.prefix + one.truth + one.suffix in long.decode()
        assert len(one.prefix) + len(one.suffix) + 24 + 4 <= 400
        assert len(one.prefix) > 200
        assert (len(one.suffix) > 0) == (one.kind == "infill")
        assert "ended it itself" in one.note
        assert one.note.startswith("r · ")


def test_what_cannot_be_asked_is_no_sample():
    texts, _ = hashes()
    texts.engine.settings.length = 10
    with pytest.raises(ValueError, match="cannot be asked about: a prompt of"):
        write_samples(texts, [document(SOURCE)], SMALL)


def test_no_function_no_sample():
    assert write_samples(hashes()[0], [document(b"x = 1\n")], SMALL) == []


def test_this_files_functions_are_found():
    content = pathlib.Path(__file__).read_bytes()
    names = {gap.title for gap in gaps_of(document(content, "t.py"), SMALL)}
    assert "t.py: test_every_project_comes_before_any_project_again" in names


@pytest.mark.parametrize("wrong", [{"num_infills": -1}, {"min_lines": 30}, {"length": 47}])
def test_impossible_settings_are_refused(wrong: dict[str, int]):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        dataclasses.replace(SMALL, **wrong).check()
