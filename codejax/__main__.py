"""The command line: argv in, an exit code out. Each verb delegates; nothing else reads argv.

What a user can mend is one line, `codejax: error: ...`, and exit code 2; whatever only a bug can
cause keeps its traceback. jax is imported by the verb that needs it, never by `--help`.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import argparse
import dis
import logging
import os
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import codejax
from codejax.help_texts import (
    CONVERT_EXAMPLES,
    CONVERT_HELP,
    JUDGE_EXAMPLES,
    JUDGE_HELP,
    WORKER_EXAMPLES,
    WORKER_HELP,
)
from codejax.recipe import (
    difference,
    fingerprint,
    list_recipes,
    load,
    render,
    render_difference,
    shipped_files,
)
from codejax.recipe.specs import RECIPE_PACKAGE

USER_ERROR = 2
INTERRUPTED = 130
RAISE = dis.opmap["RAISE_VARARGS"]

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
RECIPE_EXAMPLES = "examples:\n" + "".join(
    text.removeprefix("examples:\n")
    for text in (LIST_EXAMPLES, SHOW_EXAMPLES, DIFF_EXAMPLES, FINGERPRINT_EXAMPLES)
)

REPORT_HELP = """\
Write a page and figures about a run, or about several side by side.

The page is one self-contained HTML file beside its figures as PNG; its path is printed.
"""

REPORT_EXAMPLES = """\
examples:
  codejax report runs/quickstart
  codejax report runs/a runs/b --output=runs/comparison
"""


class Parser(argparse.ArgumentParser):
    """argparse with our one-line errors, and with help text printed as it is written."""

    def __init__(self, **options: Any):
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        print(f"codejax: error: {message} (see `{self.prog} --help`)", file=sys.stderr)
        sys.exit(USER_ERROR)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code. `argv` is the process's own unless given."""
    parser = make_parser()
    arguments, rest = parser.parse_known_args(argv)
    arguments.overrides = [item for item in rest if item.startswith("--config.")]
    strangers = [item for item in rest if item not in arguments.overrides]
    for override in arguments.overrides:
        if "=" not in override:
            parser.error(f"write {override}=VALUE, with the equals sign")
    if strangers:
        parser.error(f"unrecognized arguments: {' '.join(strangers)}")
    if arguments.overrides and "config" not in arguments:
        parser.error("--config.PATH=VALUE wants a verb that takes --config")
    try:
        return arguments.verb(arguments)
    except KeyboardInterrupt:
        print("codejax: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if arguments.traceback or not is_mendable(error):
            raise
        print(f"codejax: error: {describe_error(error)}", file=sys.stderr)
        return USER_ERROR


def is_mendable(error: Exception) -> bool:
    """Whether the user can mend it: the world's refusals, and what codejax or a recipe raised.

    A ValueError out of jax or numpy is a bug of ours until shown otherwise, also when their C code
    raised it with one of our lines on top; hence the look at the instruction that was running.
    """
    if isinstance(error, OSError) or is_ours(type(error).__module__):
        return True
    if not isinstance(error, ValueError):
        return False
    *_, last = walk_traceback(error)
    instruction = last.tb_frame.f_code.co_code[last.tb_lasti]
    return instruction == RAISE and is_ours(str(last.tb_frame.f_globals.get("__name__")))


def is_ours(module: str) -> bool:
    """Whether a module belongs to codejax or to a recipe."""
    return module.partition(".")[0] in ("codejax", "__main__") or module.startswith(RECIPE_PACKAGE)


def walk_traceback(error: BaseException) -> Iterator[types.TracebackType]:
    """The frames that an error passed, outermost first."""
    entry = error.__traceback__
    while entry is not None:
        yield entry
        entry = entry.tb_next


def describe_error(error: Exception) -> str:
    """An error as a user reads it: "No space left on device: runs/a", without errno."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error) or type(error).__name__


def make_parser() -> Parser:
    """The whole command line: verbs, their options, their examples."""
    parser = Parser(prog="codejax", description=codejax.__doc__, epilog=EXIT_CODES)
    parser.add_argument("--version", action="version", version=codejax.__version__)
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)

    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--traceback", action="store_true", help="show where an error came from")
    config = argparse.ArgumentParser(add_help=False)
    config.add_argument(
        "--config",
        required=True,
        metavar="RECIPE",
        help="FILE.py:FUNCTION or a run's recipe.json; --config.PATH=VALUE changes numbers in it",
    )

    run = add_verb(verbs, "run", run_recipe, RUN_HELP, RUN_EXAMPLES, parents=[config, shared])
    run.add_argument("--workdir", metavar="DIR", help="where it writes (default: runs/NAME)")

    report = add_verb(verbs, "report", write_report, REPORT_HELP, REPORT_EXAMPLES, parents=[shared])
    report.add_argument("workdirs", nargs="+", metavar="WORKDIR", help="the work folder of a run")
    report.add_argument(
        "--output", metavar="DIR", help="where it writes (default: report/ in the first WORKDIR)"
    )

    turn = add_verb(
        verbs, "convert", convert_weights, CONVERT_HELP, CONVERT_EXAMPLES, parents=[shared]
    )
    turn.add_argument("source", metavar="SOURCE", help="weights")
    turn.add_argument("destination", metavar="DESTINATION", help="a new folder")
    for name, metavar, text in (
        ("dtype", "NAME", "of a Hugging Face folder: float32, bfloat16 or float16"),
        ("family", "NAME", "its model_type (default: the plainest that can say the model)"),
        ("tokenizer", "PATH", "the one to put beside the weights (default: their own)"),
    ):
        turn.add_argument(f"--{name}", metavar=metavar, help=text)
    turn.add_argument(
        "--ignore",
        action="append",
        default=[],
        metavar="FIELD",
        help="a field of config.json that codejax does not know and that changes no logit",
    )

    worker = add_verb(verbs, "worker", run_worker, WORKER_HELP, WORKER_EXAMPLES, parents=[shared])
    for name, default, metavar, text in (
        ("listen", "127.0.0.1:7070", "HOST:PORT", "or unix:/PATH; port 0 takes any free one"),
        ("lanes", 0, "N", "jobs at a time (default: one a core)"),
        ("queue", 0, "N", "jobs taken at most, running ones included (default: 16 a lane)"),
        ("min-isolation", 1, "LEVEL", "0 to 4; refuse to serve below (default: 1)"),
        ("drain-seconds", 30.0, "SECONDS", "for what runs, once told to end (default: 30)"),
        ("metrics-listen", "", "HOST:PORT", "serve metrics for Prometheus"),
        ("token-file", "", "FILE", "holds the token that clients must show"),
        ("tls-cert", "", "FILE", "certificate, PEM"),
        ("tls-key", "", "FILE", "its key, PEM"),
        ("tls-ca", "", "FILE", "whose certificates clients must have, PEM"),
        ("log-level", "info", "LEVEL", "debug (a line a job), info, warning or error"),
    ):
        kind = type(default)
        worker.add_argument(f"--{name}", default=default, type=kind, metavar=metavar, help=text)
    worker.add_argument("--unsafe", action="store_true", help="allow for --min-isolation=0")
    worker.add_argument("--with-parent", action="store_true", help="end when standard input ends")

    judge = add_verb(verbs, "judge", judge_file, JUDGE_HELP, JUDGE_EXAMPLES, parents=[shared])
    judge.add_argument("file", metavar="FILE", help="the program; its ending says the language")
    judge.add_argument("--tests", required=True, metavar="PATH", help="a folder or a file of tests")
    judge.add_argument("--entry", default="", metavar="NAME", help="the function that tests call")
    judge.add_argument("--language", default="", metavar="NAME", help="where the ending misleads")
    judge.add_argument("--cpu", type=float, default=2.0, metavar="SECONDS", help="for a test (2)")
    judge.add_argument(
        "--wall", type=float, default=10.0, metavar="SECONDS", help="for a test (10)"
    )
    judge.add_argument("--memory", type=int, default=512, metavar="MIB", help="for a test (512)")

    recipe = add_verb(verbs, "recipe", None, RECIPE_HELP, RECIPE_EXAMPLES)
    actions = recipe.add_subparsers(title="actions", metavar="ACTION", required=True)
    add_verb(actions, "list", list_shipped, LIST_HELP, LIST_EXAMPLES, parents=[shared])
    add_verb(actions, "show", show_recipe, SHOW_HELP, SHOW_EXAMPLES, parents=[config, shared])
    diff = add_verb(actions, "diff", diff_recipes, DIFF_HELP, DIFF_EXAMPLES, parents=[shared])
    diff.add_argument("recipes", nargs=2, metavar="RECIPE", help="FILE.py:FUNCTION or recipe.json")
    add_verb(
        actions,
        "fingerprint",
        print_fingerprint,
        FINGERPRINT_HELP,
        FINGERPRINT_EXAMPLES,
        parents=[config, shared],
    )
    return parser


def add_verb(
    verbs: Any,
    name: str,
    verb: Callable[[argparse.Namespace], int] | None,
    text: str,
    examples: str,
    *,
    parents: Sequence[argparse.ArgumentParser] = (),
) -> Parser:
    """Add a verb whose one-line help is the first line of its description."""
    line = text.partition("\n")[0].rstrip(".")
    made = verbs.add_parser(name, help=line, description=text, epilog=examples, parents=parents)
    made.set_defaults(verb=verb)
    return made


def run_recipe(arguments: argparse.Namespace) -> int:
    """Run a recipe in its work folder; the exit code is the recipe's own."""
    recipe = load(arguments.config, arguments.overrides)
    from etils import epath

    return recipe.run(epath.Path(arguments.workdir or f"runs/{recipe.name}"))


def write_report(arguments: argparse.Namespace) -> int:
    """Write the report of the runs in some work folders and print the path of its page."""
    from codejax.experiments.report import report

    print(report(arguments.workdirs, arguments.output or f"{arguments.workdirs[0]}/report"))
    return 0


def convert_weights(arguments: argparse.Namespace) -> int:
    """Convert a folder of weights and print what became of it."""
    from codejax.train.convert import convert

    names = ("dtype", "family", "tokenizer")
    chosen = {name: getattr(arguments, name) for name in names}
    print(convert(arguments.source, arguments.destination, ignored=arguments.ignore, **chosen))
    return 0


def run_worker(arguments: argparse.Namespace) -> int:
    """Serve as an execution worker until told to end."""
    from codejax.execution.access import Access, read_token
    from codejax.execution.logs import log_to_stderr
    from codejax.execution.worker import WorkerSettings, serve

    names = ("listen", "lanes", "queue", "min_isolation", "unsafe", "drain_seconds")
    names += ("metrics_listen", "with_parent")
    token = read_token(arguments.token_file)
    access = Access(token, arguments.tls_cert, arguments.tls_key, arguments.tls_ca)
    chosen = {name: getattr(arguments, name) for name in names}
    log_to_stderr(arguments.log_level)
    return serve(WorkerSettings(access=access, **chosen), announce)


def announce(line: str) -> None:
    """Print that a worker is ready; who cannot, as on a full disk, serves all the same."""
    try:
        print(line, flush=True)
    except OSError as error:
        logging.getLogger("codejax.execution").warning("standard output: %s", error.strerror)


def judge_file(arguments: argparse.Namespace) -> int:
    """Judge a file and show what came of it; 0 where every test is accepted."""
    from codejax.execution.terminal import Settings, judge_once, render

    names = ("tests", "entry", "language", "cpu", "wall", "memory")
    chosen = {name: getattr(arguments, name) for name in names}
    result = judge_once(Settings(file=arguments.file, **chosen))
    print(render(result))
    return 0 if result.verdict == "AC" else 1


def list_shipped(arguments: argparse.Namespace) -> int:
    """Print the name of every recipe that ships."""
    for file in shipped_files():
        for name in list_recipes(file):
            print(f"configs/{file.name}:{name}")
    return 0


def show_recipe(arguments: argparse.Namespace) -> int:
    """Print every field of a recipe."""
    print(render(load(arguments.config, arguments.overrides)))
    return 0


def diff_recipes(arguments: argparse.Namespace) -> int:
    """Print the fields in which two recipes differ, one a line; nothing where none does."""
    first, second = (load(source) for source in arguments.recipes)
    differences = difference(first, second)
    if differences:
        print(render_difference(differences))
    return 0


def print_fingerprint(arguments: argparse.Namespace) -> int:
    """Print the fingerprint of a recipe."""
    print(fingerprint(load(arguments.config, arguments.overrides)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
