"""What `codejax VERB --help` says of some verbs, and their examples."""
# SPDX-License-Identifier: Apache-2.0

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
