"""Recipes that measure models on benchmarks, by running what they write.

Each wants `--config.model=FOLDER`: a run, one of its checkpoints, or a Hugging Face folder or name
(hf://OWNER/NAME); or `--config.samples=FILE` with completions made elsewhere. The benchmark's file
is downloaded and checked, or read from `--config.tasks[0].path=FILE`. Run again after an
interruption, an evaluation goes on where it was; docs/evaluation.md says what it leaves in the work
folder.
"""
# SPDX-License-Identifier: Apache-2.0

from codejax.evaluation.recipe import Evaluation
from codejax.generate.engine import EngineSettings
from codejax.generate.requests import Sampling
from codejax.tasks.big_code_bench import BigCodeBench
from codejax.tasks.contests import LiveCodeBench
from codejax.tasks.cruxeval import CRUXEval
from codejax.tasks.evalplus import HumanEvalPlus, MBPPPlus
from codejax.tasks.human_eval import HumanEval, HumanEvalInfilling
from codejax.tasks.jsonl_task import JsonlTask
from codejax.tasks.mbpp import MBPP
from codejax.tasks.multipl_e import MultiPLE
from codejax.tasks.programs import Programs
from codejax.tasks.repositories import CrossCodeEval


def humaneval() -> Evaluation:
    """164 Python functions, one greedy answer each: pass@1.

    codejax run --config=configs/evaluate.py:humaneval --config.model=FOLDER --workdir=DIR
    A chat model: --config.tasks[0].style=chat
    """
    return Evaluation(name="humaneval", tasks=(HumanEval(),))


def humaneval_20() -> Evaluation:
    """The same from 20 samples a function at temperature 0.8: pass@1 and pass@10.

    codejax run --config=configs/evaluate.py:humaneval_20 --config.model=FOLDER --workdir=DIR
    """
    recipe = humaneval()
    recipe.name = "humaneval_20"
    recipe.num_samples, recipe.ks = 20, (1, 10)
    recipe.sampling = Sampling(max_new_tokens=512, temperature=0.8, top_p=0.95)
    return recipe


def humaneval_plus() -> Evaluation:
    """HumanEval with the many more tests of EvalPlus; `base` is the share without them.

    codejax run --config=configs/evaluate.py:humaneval_plus --config.model=FOLDER --workdir=DIR
    """
    return Evaluation(name="humaneval_plus", tasks=(HumanEvalPlus(),))


def mbpp() -> Evaluation:
    """500 short Python programs from a sentence and its tests, one greedy answer each.

    codejax run --config=configs/evaluate.py:mbpp --config.model=FOLDER --workdir=DIR
    """
    return Evaluation(name="mbpp", tasks=(MBPP(),))


def mbpp_plus() -> Evaluation:
    """MBPP with the many more tests of EvalPlus; `base` is the share without them.

    codejax run --config=configs/evaluate.py:mbpp_plus --config.model=FOLDER --workdir=DIR
    """
    return Evaluation(name="mbpp_plus", tasks=(MBPPPlus(),))


def infilling() -> Evaluation:
    """Single lines of HumanEval's solutions from what stands around them; wants a model with
    fill-in-the-middle tokens.

    codejax run --config=configs/evaluate.py:infilling --config.model=FOLDER --workdir=DIR
    Others: --config.tasks[0].benchmark=multi-line, random-span or random-span-light
    """
    return Evaluation(
        name="infilling", tasks=(HumanEvalInfilling(),), sampling=Sampling(max_new_tokens=128)
    )


def cruxeval() -> Evaluation:
    """What 800 short Python functions give back, one greedy answer each.

    codejax run --config=configs/evaluate.py:cruxeval --config.model=FOLDER --workdir=DIR
    """
    return Evaluation(name="cruxeval", tasks=(CRUXEval(),), sampling=Sampling(max_new_tokens=128))


def multipl_e() -> Evaluation:
    """HumanEval in eight other languages, a task each; wants their toolchains where it is judged.

    codejax run --config=configs/evaluate.py:multipl_e --config.model=FOLDER --workdir=DIR
    """
    tasks = tuple(
        MultiPLE(language=language)
        for language in ("cpp", "cs", "go", "java", "js", "rs", "sh", "ts")
    )
    return Evaluation(name="multipl_e", tasks=tasks)


def livecodebench() -> Evaluation:
    """Contest problems on standard input and by call, for chat models. The file is the user's:
    several are published, one a release.

    codejax run --config=configs/evaluate.py:livecodebench --config.tasks[0].path=FILE \\
        --config.model=FOLDER --workdir=DIR
    Of some months: --config.tasks[0].since=2024-10-01 --config.tasks[0].until=2025-02-01
    """
    return Evaluation(
        name="livecodebench",
        tasks=(LiveCodeBench(),),
        sampling=Sampling(max_new_tokens=2048, temperature=0.2, top_p=0.95),
        num_samples=10,
        ks=(1, 5),
        engine=EngineSettings(slots=16, length=8192),
    )


def bigcodebench_hard() -> Evaluation:
    """148 programs that use many libraries, which must be there where it is judged.

    codejax run --config=configs/evaluate.py:bigcodebench_hard --config.model=FOLDER --workdir=DIR
    """
    return Evaluation(
        name="bigcodebench_hard", tasks=(BigCodeBench(),), sampling=Sampling(max_new_tokens=1280)
    )


def crosscodeeval() -> Evaluation:
    """The next statement, with pieces of other files of its repository: exact match and edit
    similarity. Runs nothing.

    codejax run --config=configs/evaluate.py:crosscodeeval --config.tasks[0].path=FILE \\
        --config.model=FOLDER --workdir=DIR
    """
    return Evaluation(
        name="crosscodeeval",
        tasks=(CrossCodeEval(),),
        sampling=Sampling(max_new_tokens=50),
        engine=EngineSettings(slots=16, length=8192),
    )


def programs() -> Evaluation:
    """Small Python functions that codejax makes itself, of three levels, to write and to fill in;
    for models too small for HumanEval. Reads no file. What `make quickstart` leaves, a model of 3M
    parameters that is pre-trained alone, gets next to none right.

    codejax run --config=configs/evaluate.py:programs --config.model=FOLDER --workdir=DIR
    Those that a model may be trained on: --config.tasks[0].split=train
    """
    return Evaluation(
        name="programs",
        tasks=(Programs(num_problems=300), Programs(num_problems=300, style="infill")),
        sampling=Sampling(max_new_tokens=96),
        engine=EngineSettings(slots=16, length=512),
    )


def jsonl() -> Evaluation:
    """Problems of your own, in the format that docs/tasks.md describes.

    codejax run --config=configs/evaluate.py:jsonl --config.tasks[0].path=FILE \\
        --config.model=FOLDER --workdir=DIR
    """
    return Evaluation(name="jsonl", tasks=(JsonlTask(),))
