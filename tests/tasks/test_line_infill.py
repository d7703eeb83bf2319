"""Lines of files left out: they are statements, the prompt is what stands around them."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pathlib
import textwrap

import pytest

from codejax.data.build import build_corpus
from codejax.data.readers import Tree
from codejax.data.tokenizer import ByteTokenizer
from codejax.tasks import line_infill
from codejax.tasks.line_infill import LineInfill, lines_of

SOURCE = textwrap.dedent('''\
    """A docstring on a line."""
    import os

    def outer(path):
        """Another."""
        first = os.stat(path); second = 1
        third = (
            first
        )
        if third: return 3
        naïve = "größe", third
        return naïve
''')


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("lines")
    for number in range(6):
        project = folder / f"tree/project{number}"
        project.mkdir(parents=True)
        (project / "m.py").write_text(f"# {number}\n" + SOURCE * (1 + number), encoding="utf-8")
    (folder / "tree/project0/readme.md").write_text("Return what is asked for.\n")
    (folder / "tree/project0/bad.py").write_text("def (:\n")
    source = Tree(path=str(folder / "tree"))
    build_corpus(source, ByteTokenizer(), folder / "corpus", num_workers=0)
    return str(folder / "corpus")


def check_lines(text: str) -> None:
    lines = text.split("\n")
    found = {lines[number - 1].strip() for number in lines_of(text)}
    wanted = {"import os", "if third: return 3", 'naïve = "größe", third', "return naïve"}
    assert found == wanted


def test_lines_are_whole_statements():
    check_lines(SOURCE)
    for odd in ("x = 1234567\r\n", "x = 1234567\f\n", "def (:\n"):
        assert list(lines_of(odd)) == []


def test_lines_are_whole_statements_mutant(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(line_infill, "SHORTEST", 30)
    with pytest.raises(AssertionError):
        check_lines(SOURCE)


def test_prompts_are_what_stands_around_a_line(corpus: str):
    task = LineInfill(corpus=corpus, before=120, after=60)
    assert len(task.problems) == 6
    for problem in task.problems:
        prompt = task.prompt(problem)
        assert prompt.suffix is not None
        whole = prompt.text + problem.data["line"] + prompt.suffix
        assert whole in "# 5\n" + SOURCE * 6 or whole.startswith("# ")
        assert len(prompt.text) <= 120
        assert len(prompt.suffix) <= 61
        assert not prompt.text or prompt.text.endswith("\n")
        assert prompt.suffix.startswith("\n")
        assert prompt.stop == ("\n",)


def test_lines_are_scored_by_likeness(corpus: str):
    task = LineInfill(corpus=corpus)
    for problem in task.problems:
        wanted = task.canonical(problem)
        assert task.jobs(problem, wanted) == {}
        assert task.score(problem, task.extract(problem, f"  {wanted}\nmore"), {}).value == 1
        near = task.score(problem, wanted[:-1], {})
        assert near.value == 0
        assert 0.8 < near.metrics["edit_similarity"] < 1
        assert task.score(problem, "", {}).metrics["edit_similarity"] == 0


def test_the_same_lines_each_time(corpus: str, tmp_path: pathlib.Path):
    ids = [problem.id for problem in LineInfill(corpus=corpus).problems]
    assert [problem.id for problem in LineInfill(corpus=corpus, num_problems=3).problems] == ids[:3]
    assert LineInfill(corpus=corpus).fingerprint == LineInfill(corpus=corpus).fingerprint
    assert LineInfill(corpus=corpus).fingerprint != LineInfill(corpus=corpus, after=9).fingerprint
    with pytest.raises(ValueError, match="no corpus at"):
        _ = LineInfill(corpus=str(tmp_path)).problems
    with pytest.raises(ValueError, match="num_problems=0"):
        LineInfill(corpus=corpus, num_problems=0).check()
