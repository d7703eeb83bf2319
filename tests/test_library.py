"""Models out of folders, and `codejax sample`: runs, checkpoints, Hugging Face's, and none."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import NamedTuple

import jax
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors
from train import runs

from codejax import trees
from codejax.__main__ import main
from codejax.data.bpe import byte_letters
from codejax.data.tokenizer import ByteTokenizer
from codejax.interop.families import write_config
from codejax.interop.huggingface import write_folder
from codejax.library import open_model
from codejax.parallel import rules
from codejax.parallel.mesh import Mesh

FAST = ("--max-new-tokens=12", "--length=64")
GREEDY = ("--prompt=import os", "--temperature=0")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work folder of a training run of four steps on bytes; its corpus is beside it."""
    folder = tmp_path_factory.mktemp("library")
    corpus = runs.make_corpus(folder)
    steps = ("--config.num_steps=4", "--config.checkpointing.every_steps=2")
    runs.run(runs.command(corpus, folder / "run", *steps))
    return folder / "run"


@pytest.fixture(scope="module")
def huggingface(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights as a Hugging Face folder."""
    folder = tmp_path_factory.mktemp("huggingface") / "tiny"
    opened = open_model(str(run))
    spec = opened.model.spec
    write_folder(folder, spec, opened.params, config=write_config(spec, max_length=64))
    ByteTokenizer().save(folder)
    return folder


@pytest.fixture(scope="module")
def greedy(run: Path) -> str:
    """What the run writes on one device."""
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        assert main(["sample", str(run), *GREEDY, *FAST]) == 0
    assert shown.getvalue()
    return shown.getvalue()


class Shown(NamedTuple):
    """Standard output and standard error."""

    out: str
    err: str


def sampled(capsys: pytest.CaptureFixture[str], *arguments: str) -> Shown:
    """What `codejax sample` writes."""
    assert main(["sample", *arguments, *FAST]) == 0
    shown = capsys.readouterr()
    return Shown(shown.out, shown.err)


def test_a_run_opens_at_its_newest_checkpoint_or_the_one_that_is_named(run: Path):
    opened = open_model(str(run))
    expected = runs.final_state(run, 4).params
    assert trees.first_difference(jax.device_get(opened.params), expected) is None
    assert (opened.length, opened.name) == (64, "tiny after 4 steps")
    assert trees.first_difference(open_model(f"{run}/checkpoints").params, opened.params) is None
    older = open_model(f"{run}/checkpoints/00000002")
    expected = runs.final_state(run, 2).params
    assert trees.first_difference(jax.device_get(older.params), expected) is None
    assert older.name == "tiny after 2 steps"
    assert open_model(str(run), dtype="bfloat16").model.spec.dtype == "bfloat16"


def test_hugging_face_weights_write_what_the_run_writes(
    greedy: str, huggingface: Path, capsys: pytest.CaptureFixture[str]
):
    opened = open_model(str(huggingface))
    assert (opened.length, opened.name) == (64, "tiny")
    shown = sampled(capsys, str(huggingface), *GREEDY)
    assert shown.out == greedy
    assert shown.err.startswith("tiny\n12 tokens, cut off there, ")


def test_converted_weights_write_what_they_wrote(
    greedy: str, huggingface: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    assert main(["convert", str(huggingface), str(tmp_path / "tiny")]) == 0
    capsys.readouterr()
    shown = sampled(capsys, str(tmp_path / "tiny"), *GREEDY)
    assert shown.out == greedy
    assert shown.err.startswith("tiny\n12 tokens, cut off there, ")


def test_weights_are_read_into_their_parts_of_a_mesh(run: Path, huggingface: Path):
    both = [open_model(str(folder), mesh=Mesh(fsdp=2, tensor=2)) for folder in (run, huggingface)]
    for opened in both:
        assert opened.mesh is not None
        wanted = rules.shardings(opened.model.axes(), opened.mesh)
        placed = jax.tree.map(lambda leaf, s: leaf.sharding == s, opened.params, wanted)
        assert all(jax.tree.leaves(placed))
    ours, theirs = (jax.device_get(opened.params) for opened in both)
    assert trees.first_difference(ours, theirs) is None


@pytest.mark.parametrize(
    "mesh",
    [
        "fsdp=2,tensor=2",
        *(pytest.param(m, marks=pytest.mark.slow) for m in ("fsdp=-1", "tensor=2")),
    ],
)
def test_over_a_mesh_it_writes_what_it_writes_on_one_device(
    run: Path, greedy: str, capsys: pytest.CaptureFixture[str], mesh: str
):
    assert sampled(capsys, str(run), *GREEDY, f"--mesh={mesh}").out == greedy


@pytest.mark.slow
def test_samples_stand_under_rules_and_are_the_same_again(
    run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    (tmp_path / "prompt").write_text("def f(x):\n")
    options = (str(run), "--n=3", "--temperature=1", f"--prompt-file={tmp_path}/prompt")
    first, again = sampled(capsys, *options), sampled(capsys, *options, "--no-stream")
    assert first.out == again.out
    assert [f"─ {i} of 3 ─" in first.out for i in range(1, 4)] == [True] * 3
    assert first.err.count("tokens, ") == 3
    other = sampled(capsys, *options, "--seed=1")
    assert other.out != first.out
    one = sampled(capsys, *options[:1], *options[2:])
    assert one.out in first.out


@pytest.mark.slow
def test_infilling_chatting_and_stop_strings(run: Path, capsys: pytest.CaptureFixture[str]):
    plain = sampled(capsys, str(run), "--prompt=x", "--temperature=1").out
    assert sampled(capsys, str(run), "--prefix=x", "--suffix=y", "--temperature=1").out != plain
    long = "--length=256"
    chat = ["sample", str(run), "--prompt=x", "--chat", "--max-new-tokens=4", long]
    assert main(chat) == 0
    assert capsys.readouterr().out
    texts = sampled(capsys, str(run), "--prompt=x", "--temperature=1", f"--stop={plain[3]}")
    assert texts.out.rstrip("\n") == plain[: plain.index(plain[3])].rstrip("\n")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["{run}"], "give one of --prompt, --prompt-file, or --prefix with --suffix"),
        (["{run}", "--prompt=x", "--suffix=y"], "give one of --prompt, "),
        (["{run}", "--suffix=y", "--chat"], "--chat wants --prompt or --prompt-file"),
        (["{run}x", "--prompt=x"], "there is no folder {run}x"),
        (["{run}/checkpoints/00000002/..", "--prompt=x"], "{run}/checkpoints/00000002/.. holds no"),
        (["{run}/..", "--prompt=x"], "{run}/.. holds no config.json, recipe.json or"),
        (["{run}/checkpoints/3", "--prompt=x"], "there is no folder"),
        (["{run}", "--prompt-file={run}/no"], "No such file or directory: {run}/no"),
        (["{run}", f"--prompt={'x' * 80}"], "the prompt has 81 tokens, and the model takes 64"),
        (["{run}", "--prompt=x", "--n=0"], "n=0; wanted at least 1"),
        (["{run}", "--prompt=x", "--stop="], "a stop string is empty"),
        (["{run}", "--prompt=x", "--top-p=0"], "top_p=0.0; wanted above 0, at most 1"),
        (["{run}", "--prompt=x", "--mesh=4"], "mesh '4': wanted sizes of replica, fsdp, tensor"),
        (["{run}", "--prompt=x", "--mesh=tensor=9"], "mesh replica=1 fsdp=1 tensor=9 does not fit"),
        (["{run}", "--prompt=x", "--mesh=tensor=8"], "blocks/0/mixer/key: its kv_heads=2 does"),
        (["{run}", "--prompt=x", "--tokenizer={run}"], "no tokenizer at {run}; give a directory"),
    ],
)
def test_what_a_user_can_mend_is_one_line(
    run: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
):
    assert main(["sample", *(argument.format(run=run) for argument in arguments)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"codejax: error: {line.format(run=run)}")
    assert printed.err.count("\n") == 1


def test_a_run_without_its_corpus_wants_to_know_where_its_tokenizer_is(
    run: Path, capsys: pytest.CaptureFixture[str]
):
    corpus = run.parent / "corpus"
    corpus.rename(run.parent / "moved")
    try:
        assert main(["sample", str(run), "--prompt=x"]) == 2
        assert "where nothing is; say where it is now (--tokenizer)" in capsys.readouterr().err
        moved = f"--tokenizer={run.parent}/moved/train/tokenizer"
        assert sampled(capsys, str(run), "--prompt=x", moved).out
    finally:
        (run.parent / "moved").rename(corpus)


def test_folders_that_hold_no_whole_model(run: Path, huggingface: Path, tmp_path: Path):
    shutil.copy(run / "recipe.json", tmp_path / "recipe.json")
    with pytest.raises(RuntimeError, match="no checkpoint"):
        open_model(str(tmp_path))
    (tmp_path / "recipe.json").write_text("{")
    with pytest.raises(ValueError, match=r"recipe in .* cannot be read"):
        open_model(str(tmp_path))
    bare = tmp_path / "bare"
    shutil.copytree(huggingface, bare)
    (bare / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="no tokenizer at"):
        open_model(str(bare))
    (bare / "config.json").write_text('{"model_type": "abacus"}')
    with pytest.raises(ValueError, match="abacus"):
        open_model(str(bare))


def write_bpe(folder: Path, *, processed: bool, **config: object) -> None:
    """A byte-level tokenizer.json with a token to begin texts with, which may be added by its
    post-processor, and a tokenizer_config.json if there is anything to say in it.
    """
    vocabulary = {letter: number for number, letter in enumerate(byte_letters())}
    made = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    made.add_special_tokens(["<s>", "<|endoftext|>", "<|fin|>"])
    if processed:
        template = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 256)])
        made.post_processor = template  # type: ignore[assignment]
    made.save(str(folder / "tokenizer.json"))
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("processed", "config", "begin"),
    [
        (False, {}, (257,)),  # as tokenizers made here: end of text
        (True, {}, (256,)),
        (True, {"bos_token": None}, (256,)),
        (False, {"bos_token": "<s>"}, ()),
        (False, {"bos_token": {"content": "<s>"}, "add_bos_token": True}, (256,)),
        (True, {"bos_token": "<s>", "add_bos_token": False}, ()),
    ],
)
def test_texts_begin_as_the_tokenizer_of_the_folder_begins_them(
    huggingface: Path, tmp_path: Path, processed: bool, config: dict[str, object], begin: tuple
):
    folder = tmp_path / "model"
    shutil.copytree(huggingface, folder)
    write_bpe(folder, processed=processed, **config)
    (folder / "generation_config.json").write_text('{"eos_token_id": [258, 257]}')
    prompts = open_model(str(folder)).prompts
    assert prompts.begin == begin
    assert prompts.stop == (258, 257)
