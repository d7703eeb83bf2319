"""Samples: gaps that are whole statements of real files, within the room a model has."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import pathlib
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from codejax.data.batch import Batch
from codejax.data.document import Document
from codejax.data.tokenizer import ByteTokenizer
from codejax.experiments import samples
from codejax.experiments.samples import Gap, Samples, gaps_of, pick, write_samples
from codejax.generate.requests import Sampling

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


@dataclasses.dataclass(frozen=True)
class Hashes:
    """Writes five hash signs, which the prompt must not hold, and ends the text."""

    def hidden(self, params: Any, batch: Batch) -> jax.Array:
        hash_BL = (batch.tokens == ord("#")) & (batch.segments > 0)
        return jnp.cumsum(hash_BL, axis=1)[..., None]

    def head(self, params: Any) -> None:
        return None

    def unembed(self, head: Any, hidden: jax.Array) -> jax.Array:
        end = ByteTokenizer().special.end_of_text
        return jax.nn.one_hot(jnp.where(hidden[..., 0] < 5, ord("#"), end), 268)


def test_samples_show_what_the_model_saw_and_wrote():
    long = b"".join(b"v%d = %d\n" % (i, i) for i in range(200)) + SOURCE + b"w = 1\n" * 200
    settings = dataclasses.replace(SMALL, length=400)
    made = write_samples(Hashes(), {}, ByteTokenizer(), [document(long)], settings)
    assert [one.kind for one in made] == ["complete", "complete", "infill"]
    for one in made:
        assert one.generated == "#####"
        assert one.prefix + one.truth + one.suffix in long.decode()
        assert len(one.prefix) + len(one.suffix) + 24 + 4 <= 400
        assert len(one.prefix) > 200
        assert (len(one.suffix) > 0) == (one.kind == "infill")
        assert "ended it itself" in one.note
        assert one.note.startswith("r · ")


def test_no_function_no_sample():
    assert write_samples(Hashes(), {}, ByteTokenizer(), [document(b"x = 1\n")], SMALL) == []


def test_this_files_functions_are_found():
    content = pathlib.Path(__file__).read_bytes()
    names = {gap.title for gap in gaps_of(document(content, "t.py"), SMALL)}
    assert "t.py: test_every_project_comes_before_any_project_again" in names


@pytest.mark.parametrize("wrong", [{"num_infills": -1}, {"min_lines": 30}, {"length": 47}])
def test_impossible_settings_are_refused(wrong: dict[str, int]):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        dataclasses.replace(SMALL, **wrong).check()
