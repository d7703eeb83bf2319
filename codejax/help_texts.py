"""What `--help` says of each verb of the command line, and the examples it gives. Text alone."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

EXIT_CODES = """\
exit codes:
  0    done
  1    failed unexpectedly, with a traceback
  2    something you can mend, with one line that says what
  3    training stopped at a loss that is not finite; the batch is saved in the work folder
  70   ended by the watchdog: no step finished for too long
  75   stopped by SIGTERM after saving: run the same command again to go on
  130  interrupted from the keyboard
"""

RUN_HELP = """\
Run a recipe: train, build a corpus, or whatever else it describes.

Numbers change by --config.PATH=VALUE, with the paths that `codejax recipe show` lists; structure
changes in Python. Values are spelt 2e-4, true, None, "(1, 2)" or python,rust.
"""

RECIPE_HELP = """\
List, show and compare recipes.

A recipe is a Python function that returns a typed tree, named FILE.py:FUNCTION.
"""

RUN_EXAMPLES = """\
examples:
  codejax run --config=configs/pretrain.py:quickstart
  codejax run --config=configs/pretrain.py:dense_1b --workdir=gs://bucket/dense_1b \\
      --config.optimizer.learning_rate=2e-4
"""

LIST_HELP = "List the recipes that ship.\n"
SHOW_HELP = "Show every field of a recipe, spelt as --config.PATH overrides it.\n"
DIFF_HELP = "Show where two recipes differ, one field a line.\n"
FINGERPRINT_HELP = "Print the sha256 that names a recipe in records and reports.\n"

LIST_EXAMPLES = """\
examples:
  codejax recipe list
"""
SHOW_EXAMPLES = """\
examples:
  codejax recipe show --config=configs/pretrain.py:quickstart
  codejax recipe show --config=runs/quickstart/recipe.json
"""
DIFF_EXAMPLES = """\
examples:
  codejax recipe diff configs/pretrain.py:dense_1b configs/pretrain.py:dense_8b
  codejax recipe diff runs/quickstart/recipe.json configs/pretrain.py:quickstart
"""
FINGERPRINT_EXAMPLES = """\
examples:
  codejax recipe fingerprint --config=configs/pretrain.py:quickstart
"""
SAMPLE_HELP = """\
Let a model write: go on from a text, fill a gap in, or answer as in a chat.

MODEL is the work folder of a run, a checkpoint in it, a converted folder, or Hugging Face's (a
folder or hf://OWNER/NAME). Text goes to standard output as it comes, and a line about each answer
to standard error. The same seed gives the same text; samples of one prompt have seeds of their own,
made from --seed.
"""

SAMPLE_EXAMPLES = """\
examples:
  codejax sample runs/quickstart --prompt='def read_lines(path):'
  codejax sample runs/quickstart --prefix='def area(r):' --suffix='    return a' --n=4
  codejax sample models/coder --prompt-file=question.txt --chat --temperature=0
  codejax sample models/coder --prompt='import os' --mesh=tensor=8
"""

RECIPE_EXAMPLES = "examples:\n" + "".join(
    text.removeprefix("examples:\n")
    for text in (LIST_EXAMPLES, SHOW_EXAMPLES, DIFF_EXAMPLES, FINGERPRINT_EXAMPLES)
)

SWEEP_HELP = """\
Run every row of a sweep with every seed, one after the other.

Each run has a process and a folder of its own, DIR/runs/ROW/SEED. What is done is skipped, what was
stopped goes on, what failed is recorded, tried again the next time, and the others go on. Numbers
of all rows change by '--config.rows[*].recipe.PATH=VALUE'. The exit code is 0 where all is done, 1
where a run failed, 75 where a signal stopped it.
"""

SWEEP_EXAMPLES = """\
examples:
  codejax sweep --config=configs/ablations/rl_estimators.py:cpu --workdir=runs/estimators
  codejax sweep --config=configs/ablations/rl_estimators.py:cpu --workdir=runs/estimators \\
      --rows=rloo,grpo --seeds=0,1 '--config.rows[*].recipe.start=runs/programs'
  codejax sweep --config=configs/ablations/rl_estimators.py:cpu --workdir=runs/estimators --list
"""

REPORT_HELP = """\
Write a page and figures about a run, about several side by side, or about a sweep.

The page is one self-contained HTML file beside its figures as PNG; its path is printed. Of a sweep,
finished or not, there are tables too, as Markdown and CSV.
"""

REPORT_EXAMPLES = """\
examples:
  codejax report runs/quickstart
  codejax report runs/a runs/b --output=runs/comparison
  codejax report runs/estimators
"""

CONVERT_HELP = """\
Turn weights of Hugging Face's into codejax's, or back.

SOURCE is a Hugging Face folder, its name on the hub (hf://OWNER/NAME), a run's work folder (its
newest good checkpoint) or a folder converted before. DESTINATION is a new folder: a recipe starts
from it with --config.start=DESTINATION, or transformers loads it.
"""

CONVERT_EXAMPLES = """\
examples:
  codejax convert Qwen2.5-Coder-0.5B weights/qwen
  codejax convert hf://bigcode/starcoder2-3b weights/starcoder2
  codejax convert runs/dense_125m dense_125m --dtype=bfloat16
"""

WORKER_HELP = """\
Judge untrusted programs for those who connect, until SIGTERM.

Beyond this machine it listens only with a token, from --token-file or CODEJAX_WORKER_TOKEN, or with
mutual TLS. A line says where it is ready; the log is JSON lines on standard error.
"""

WORKER_EXAMPLES = """\
examples:
  codejax worker
  codejax worker --listen=0.0.0.0:7070 --lanes=8 --min-isolation=2 --token-file=/run/token \\
      --metrics-listen=0.0.0.0:9090
"""

JUDGE_HELP = """\
Judge one program against tests, here and now, and show a table of verdicts.

Tests are a folder of NAME.in beside NAME.out, a JSON list of {"stdin", "expected"} or of {"args",
"returns"}, or a Python file of asserts. The exit code is 0 where all are accepted, else 1.
"""

JUDGE_EXAMPLES = """\
examples:
  codejax judge sum.py --tests=tests/
  codejax judge solution.cpp --tests=tests.json --cpu=2 --memory=256
  codejax judge add.py --tests=test_add.py --entry=add
"""
