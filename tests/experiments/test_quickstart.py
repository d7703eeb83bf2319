"""The quickstart, whole and small: it ends with its report, goes on where it was, does not mix."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import json
import pathlib

import pytest
from etils import epath
from tolerances import tolerance

from codejax.data.corpus import Corpus
from codejax.data.corpus_build import TrainBPE
from codejax.data.fim import Fim
from codejax.data.mixture import Data
from codejax.data.rows import Source
from codejax.evaluation.records import read_records
from codejax.execution.local import WorkerDied
from codejax.experiments import improvement, quickstart
from codejax.experiments.compression import Compression
from codejax.experiments.improvement import Improvement, Improving
from codejax.experiments.interpreter_sources import InterpreterSources
from codejax.experiments.quickstart import Quickstart, documents, placed
from codejax.experiments.report import report
from codejax.experiments.results import Results
from codejax.experiments.samples import Samples
from codejax.experiments.small_benchmark import SmallBenchmark
from codejax.generate.engine import EngineSettings
from codejax.generate.requests import Sampling
from codejax.model.attention import Attention
from codejax.model.layers import GatedMLP
from codejax.model.transformer import Model
from codejax.objectives.next_token import NextToken
from codejax.objectives.policy import Policy
from codejax.parallel.mesh import ONE_DEVICE
from codejax.recipe import RecipeError, check, freeze, loads
from codejax.rl.aggregation import TokenMean
from codejax.rl.rewards import Length, Reward
from codejax.rl.training import PolicyTraining
from codejax.rollout.collect import RolloutSettings
from codejax.rollout.journal import read_lines
from codejax.tasks.programs import Programs
from codejax.train.checkpoint import Checkpointing
from codejax.train.held_out import HeldOut
from codejax.train.training import Training

STEPS = ("data", "model", "held_out", "compression", "samples")
STEPS += ("evaluations", "examples", "not_judged")
STEPS += ("stages", "cheats", "changes", "not_improved")
TASKS = ("programs_held_out_infill", "line_infill")


def small() -> Quickstart:
    """The recipe of `make quickstart`, with everything small."""
    training = Training(
        name="small",
        model=Model(
            vocab_size=512,
            width=16,
            num_layers=1,
            mixers=(Attention(num_heads=2),),
            ffns=(GatedMLP(hidden=16),),
            tied_embeddings=True,
            scan=False,
        ),
        data=Data(sources=(Source(corpus="corpus/train", fim=Fim()),), length=192),
        held_out=HeldOut(corpus="corpus/held_out", every_steps=2, max_rows=8, chunk=64),
        global_batch_size=8,
        num_steps=4,
        objective=NextToken(chunk=64),
        checkpointing=Checkpointing(every_steps=2, keep_last=1),
    )
    recipe = Quickstart(
        sources=InterpreterSources(
            max_bytes=400_000, max_project_bytes=40_000, max_held_out_bytes=40_000
        ),
        tokenizer=TrainBPE(vocab_size=512, sample_bytes=200_000),
        training=training,
        compression=Compression(max_primer_bytes=100_000),
        samples=Samples(
            num_completions=1, num_infills=1, length=192, sampling=Sampling(max_new_tokens=4)
        ),
        benchmark=SmallBenchmark(
            num_programs=3,
            styles=("infill",),
            num_lines=2,
            num_samples=1,
            sampling=Sampling(max_new_tokens=4),
            slots=2,
            executor="local:1",
        ),
        improvement=small_improvement(training),
    )
    check(recipe)
    return freeze(recipe)


def small_improvement(training: Training) -> Improvement:
    """Two steps from examples, and two by trial."""
    fine_tuning = dataclasses.replace(
        training,  # type: ignore[type-var]
        name="small_sft",
        start=".",
        data=Data(sources=(Source(corpus="programs/train"),), length=192),
        held_out=None,
        num_steps=2,
    )
    policy = PolicyTraining(
        name="small_rl",
        start="sft",
        tasks=(Programs(split="train", num_problems=12),),
        aggregation=TokenMean(),
        num_steps=2,
        prompts_per_step=2,
        samples_per_prompt=2,
        rollout=RolloutSettings(sampling=Sampling(max_new_tokens=4, temperature=1.0)),
        engine=EngineSettings(slots=4, length=192, chunk=64),
        objective=Policy(chunk=64),
        reward=Reward(terms=(Length(max_length=8, always=True),)),  # some answers are better
        executor="local:1",
        length=192,
        rows=2,
        mesh=ONE_DEVICE,
        checkpointing=Checkpointing(every_steps=1, keep_last=1, best_metric=""),
    )
    return Improvement(
        examples=Programs(split="train", num_problems=12),
        held_out_examples=0.1,
        fine_tuning=fine_tuning,
        policy=policy,
        held_out=Programs(split="held_out", num_problems=3),
        sampling=Sampling(max_new_tokens=4, temperature=1.0),
    )


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> epath.Path:
    folder = epath.Path(tmp_path_factory.mktemp("quickstart") / "run")
    assert small().run(folder) == 0
    return folder


def test_everything_is_measured_on_the_same_bytes(workdir: epath.Path):
    results = json.loads((workdir / "results.json").read_text())
    assert tuple(results) == STEPS
    corpus = Corpus(workdir / "corpus/held_out")
    contents = [document.content for document in documents(corpus)]
    num_bytes = sum(map(len, contents))
    assert num_bytes == results["held_out"]["num_bytes"] == results["compression"]["num_bytes"]
    assert len(contents) == results["held_out"]["num_files"] == results["compression"]["num_files"]
    held_out = results["held_out"]
    of_languages = sum(
        language["num_bytes"] * language["bits_per_byte"]
        for language in held_out["languages"].values()
    )
    bits = held_out["num_bytes"] * held_out["bits_per_byte"]
    assert abs(of_languages / bits - 1) < tolerance("rounding")
    assert 1 < held_out["bits_per_byte"] < 9
    seen = {document.content for document in documents(Corpus(workdir / "corpus/train"))}
    assert seen.isdisjoint(contents)


def test_the_model_is_evaluated_by_running_what_it_writes(workdir: epath.Path):
    results = json.loads((workdir / "results.json").read_text())
    assert not results["not_judged"]
    assert tuple(results["evaluations"]) == TASKS
    page = (workdir / "report/index.html").read_text()
    for task, one in results["evaluations"].items():
        assert one["absent"] == 0
        assert (workdir / one["page"]).exists()
        assert f'href="../evaluation/{task}/index.html"' in page
    assert results["evaluations"][TASKS[0]]["failed_generations"] == 0
    assert sum(results["evaluations"][TASKS[0]]["verdicts"].values()) == 3
    assert results["examples"]


def test_three_models_are_asked_the_same(workdir: epath.Path):
    results = json.loads((workdir / "results.json").read_text())
    assert results["not_improved"] == ""
    assert tuple(results["stages"]) == ("pre-trained", "SFT", "RL")
    asked = []
    for one in results["stages"].values():
        assert one["absent"] == 0
        assert one["samples"] == sum(one["verdicts"].values()) == 3
        assert (workdir / one["page"]).exists()
        kept = read_records((workdir / one["page"]).parent)
        asked.append({name: line["prompt"] for name, line in kept.problems.items()})
    assert asked[0] == asked[1] == asked[2]
    learnt = {line["problem"] for path in episodes(workdir) for line in read_lines(path)}
    assert learnt
    assert learnt.isdisjoint(asked[0])
    assert results["cheats"]["while RL trained"]["judged"] == 8
    assert [one["title"].split(", ")[1] for one in results["changes"]] == ["wrong in every stage"]
    page = (workdir / "report/index.html").read_text()
    for shown in ("From files to programs that run", "Rejected as a cheat", "Loss of fine-tuning"):
        assert shown in page
    assert (workdir / "report/verdicts.png").exists()


def episodes(workdir: epath.Path) -> list[pathlib.Path]:
    return sorted(pathlib.Path(workdir).glob("rl/episodes/*.jsonl"))


def test_each_run_begins_with_the_weights_of_the_one_before(workdir: epath.Path):
    starts = [loads((workdir / name / "recipe.json").read_text()).start for name in ("sft", "rl")]
    assert starts == [str(workdir), str(workdir / "sft")]


def test_an_improvement_goes_on_where_it_was(
    workdir: epath.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    before = json.loads((workdir / "results.json").read_text())
    known = {"stages": {name: before["stages"][name] for name in ("pre-trained", "SFT")}}
    (tmp_path / "results.json").write_text(json.dumps(known))
    done = []
    monkeypatch.setattr(Training, "run", lambda *_: pytest.fail("SFT is done"))
    monkeypatch.setattr(PolicyTraining, "run", lambda self, folder: done.append(folder) or 75)
    recipe = small().improvement
    assert recipe is not None
    folder = epath.Path(tmp_path)
    assert Improving(recipe, folder, Results(folder / "results.json")).run() == 75
    assert done == [folder / "rl"]
    assert json.loads((tmp_path / "results.json").read_text()) == known


def test_without_a_sandbox_nothing_is_learnt_and_that_is_said(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(address: str) -> None:
        raise WorkerDied("no isolation here")

    monkeypatch.setattr(improvement, "open_executor", refuse)
    recipe = small().improvement
    assert recipe is not None
    results = Results(epath.Path(tmp_path / "results.json"))
    assert Improving(recipe, epath.Path(tmp_path), results).run() == 0
    assert results.values == {"not_improved": "no isolation here"}
    page = report([tmp_path], tmp_path / "report").read_text()
    assert "nothing was learnt from running them: no isolation here" in page


def test_report_comes_last_and_what_is_done_is_not_done_again(
    workdir: epath.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    before = (workdir / "results.json").read_text()
    monkeypatch.delattr(Training, "run")
    monkeypatch.delattr(quickstart, "measure")
    monkeypatch.delattr(quickstart, "evaluate")
    monkeypatch.delattr(quickstart, "measure_tasks")
    monkeypatch.delattr(PolicyTraining, "run")
    monkeypatch.delattr(improvement, "evaluate")
    monkeypatch.delattr(InterpreterSources, "survey")
    (workdir / "report/index.html").unlink()
    assert small().run(workdir) == 0
    output = capsys.readouterr().out
    last = pathlib.Path(output.rstrip("\n").split("\n")[-1])
    assert last == pathlib.Path(workdir / "report/index.html")
    assert "this machine" not in last.read_text()
    assert json.loads(before)["data"]["fingerprint"] in output
    assert "the model" in output
    assert (workdir / "results.json").read_text() == before


def test_another_recipe_in_the_same_folder_is_refused(workdir: epath.Path):
    other = loads((workdir / "quickstart.json").read_text())
    assert other == small()
    changed = small()
    object.__setattr__(changed.training, "_frozen", False)
    changed.training.num_steps = 5
    with pytest.raises(RecipeError, match=r"training\.num_steps: 4 -> 5"):
        changed.run(workdir)


def test_a_training_that_stops_hands_on_its_exit_code(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Training, "run", lambda self, workdir: 75)
    monkeypatch.setattr(quickstart, "build_corpora", lambda *_, **__: {"train": 0, "held_out": 0})
    assert small().run(epath.Path(tmp_path / "run")) == 75
    assert not (tmp_path / "run/report").exists()


def test_what_could_not_be_judged_is_tried_again(tmp_path: pathlib.Path):
    results = Results(epath.Path(tmp_path / "results.json"))
    results.step("kept", lambda: 1)
    results.step("not_judged", lambda: "no worker")
    results.drop("not_judged", "evaluations")
    assert results.step("not_judged", lambda: "") == ""
    assert Results(epath.Path(tmp_path / "results.json")).values == {"kept": 1, "not_judged": ""}


def test_results_survive_a_step_that_fails(tmp_path: pathlib.Path):
    results = Results(epath.Path(tmp_path / "results.json"))
    assert results.step("a", lambda: (1, 2)) == [1, 2]
    with pytest.raises(ZeroDivisionError):
        results.step("b", lambda: 1 / 0)
    again = Results(epath.Path(tmp_path / "results.json"))
    assert again.step("a", lambda: 3) == [1, 2]
    assert again.step("b", lambda: 4) == 4


def test_placed_leaves_the_recipe_alone():
    recipe = small()
    made = placed(recipe.training, epath.Path("folder"))
    assert made.data.sources[0].corpus == "folder/corpus/train"
    assert made.held_out is not None
    assert made.held_out.corpus == "folder/corpus/held_out"
    assert recipe == small()


def spoil(name: str) -> Quickstart:
    recipe = small()
    for part in (recipe, recipe.training, recipe.training.data.sources[0], recipe.samples):
        object.__setattr__(part, "_frozen", False)
    if name == "improvement.fine_tuning.model":
        recipe.improvement = small_improvement(other_model(recipe.training))
    elif name == "training.data":
        recipe.training.data.sources[0].corpus = "elsewhere"
    elif name == "training.held_out":
        recipe.training.held_out = None
    elif name == "tokenizer.vocab_size":
        recipe.training = other_model(recipe.training)
    else:
        recipe.samples.length = 256
    return recipe


def other_model(training: Training) -> Training:
    model = Model(vocab_size=640, width=16, num_layers=1, mixers=(Attention(num_heads=2),), ffns=())
    return dataclasses.replace(training, model=model)  # type: ignore[type-var]


@pytest.mark.parametrize(
    "name",
    [
        "training.data",
        "training.held_out",
        "tokenizer.vocab_size",
        "samples.length",
        "improvement.fine_tuning.model",
    ],
)
def test_parts_that_do_not_fit_are_refused(name: str):
    with pytest.raises(ValueError, match=name):
        spoil(name).check()
