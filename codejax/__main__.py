"""The command line: argv in, an exit code out. Each verb delegates; nothing else reads argv.

What a user can mend is one line, `codejax: error: ...`, and exit code 2; whatever only a bug can
cause keeps its traceback. jax is imported by the verb that needs it, never by `--help`.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import argparse
import dataclasses
import dis
import logging
import os
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import codejax
from codejax import help_texts
from codejax.recipe import (
    difference,
    fingerprint,
    list_recipes,
    load,
    render,
    render_difference,
    shipped_files,
    shipped_name,
)
from codejax.recipe.specs import RECIPE_PACKAGE

USER_ERROR = 2
INTERRUPTED = 130
RAISE = dis.opmap["RAISE_VARARGS"]


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
    parser = Parser(prog="codejax", description=codejax.__doc__, epilog=help_texts.EXIT_CODES)
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

    run = add_verb(verbs, "run", run_recipe, parents=[config, shared])
    sweep = add_verb(verbs, "sweep", run_sweep, parents=[config, shared])
    for verb in (run, sweep):
        verb.add_argument("--workdir", metavar="DIR", help="where it writes (default: runs/NAME)")
    some = {"default": [], "type": split, "help": "these alone, with commas between them"}
    sweep.add_argument("--rows", metavar="NAMES", **some)
    sweep.add_argument("--seeds", metavar="NUMBERS", **some)
    sweep.add_argument("--list", action="store_true", help="show how the runs stand; run nothing")

    report = add_verb(verbs, "report", write_report, parents=[shared])
    report.add_argument("workdirs", nargs="+", metavar="WORKDIR", help="of a run, or of a sweep")
    report.add_argument(
        "--output", metavar="DIR", help="where it writes (default: report/ in the first WORKDIR)"
    )

    turn = add_verb(verbs, "convert", convert_weights, parents=[shared])
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

    worker = add_verb(verbs, "worker", run_worker, parents=[shared])
    for name, default, metavar, text in (
        ("listen", "127.0.0.1:7070", "HOST:PORT", "or unix:/PATH; port 0 takes any free one"),
        ("lanes", 0, "N", "jobs at a time (default: one a core)"),
        ("queue", 0, "N", "jobs taken at most, running ones included (default: 16 a lane)"),
        ("min-isolation", 1, "LEVEL", "0 to 4; refuse to serve below (default: 1)"),
        ("drain-seconds", 30.0, "SECONDS", "for what runs, once told to end (default: 30)"),
        ("sessions", -1, "N", "sessions at a time (default: as many as lanes); 0 takes none"),
        ("session-idle", 600.0, "SECONDS", "idle time that ends a session (default: 600)"),
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

    judge = add_verb(verbs, "judge", judge_file, parents=[shared])
    judge.add_argument("file", metavar="FILE", help="the program; its ending says the language")
    judge.add_argument("--tests", required=True, metavar="PATH", help="a folder or a file of tests")
    judge.add_argument("--entry", default="", metavar="NAME", help="the function that tests call")
    judge.add_argument("--language", default="", metavar="NAME", help="where the ending misleads")
    judge.add_argument("--cpu", type=float, default=2.0, metavar="SECONDS", help="for a test (2)")
    judge.add_argument(
        "--wall", type=float, default=10.0, metavar="SECONDS", help="for a test (10)"
    )
    judge.add_argument("--memory", type=int, default=512, metavar="MIB", help="for a test (512)")

    sample = add_verb(verbs, "sample", sample_text, parents=[shared])
    add_sample_options(sample)

    recipe = add_verb(verbs, "recipe", None)
    actions = recipe.add_subparsers(title="actions", metavar="ACTION", required=True)
    add_verb(actions, "list", list_shipped, parents=[shared])
    add_verb(actions, "show", show_recipe, parents=[config, shared])
    diff = add_verb(actions, "diff", diff_recipes, parents=[shared])
    diff.add_argument("recipes", nargs=2, metavar="RECIPE", help="FILE.py:FUNCTION or recipe.json")
    add_verb(actions, "fingerprint", print_fingerprint, parents=[config, shared])
    return parser


def add_sample_options(sample: Parser) -> None:
    """What `codejax sample` takes."""
    sample.add_argument("model", metavar="MODEL", help="a run, a checkpoint, weights of others")
    for name, metavar, text in (
        ("prompt", "TEXT", "what to go on from"),
        ("prompt-file", "FILE", "what to go on from, or - for standard input"),
        ("prefix", "TEXT", "what stands before a gap to fill in"),
        ("suffix", "TEXT", "what stands behind it"),
        ("tokenizer", "PATH", "where it is, if not where the run or the folder has it"),
    ):
        sample.add_argument(f"--{name}", metavar=metavar, help=text)
    sample.add_argument(
        "--stop", action="append", metavar="TEXT", help="ends an answer; repeatable"
    )
    sample.add_argument("--chat", action="store_true", help="the prompt is a message to answer")
    for name, default, text in (
        ("n", 1, "answers to the same prompt (1)"),
        ("max-new-tokens", 256, "of an answer (256)"),
        ("temperature", 0.2, "0 takes the likeliest token (0.2)"),
        ("top-k", 0, "draw from so many likeliest tokens (0: all)"),
        ("top-p", 0.95, "draw from the tokens that hold this much probability (0.95)"),
        ("min-p", 0.0, "draw from tokens this much as likely as the likeliest (0)"),
        ("repetition-penalty", 1.0, "above 1 makes tokens that were there less likely (1)"),
        ("seed", 0, "the same gives the same text (0)"),
        ("length", 0, "tokens of prompt and answer (as many as the model was trained on)"),
    ):
        sample.add_argument(
            f"--{name}", default=default, type=type(default), metavar="N", help=text
        )
    sample.add_argument("--dtype", choices=("float32", "bfloat16"), help="to compute in")
    sample.add_argument(
        "--mesh", metavar="SIZES", help="split over devices, as fsdp=2,tensor=4 (one device)"
    )
    shown = argparse.BooleanOptionalAction
    sample.add_argument("--stream", default=True, action=shown, help="show text as it comes")


def split(text: str) -> list[str]:
    """The parts of a list with commas."""
    return [part for part in text.split(",") if part]


def add_verb(
    verbs: Any,
    name: str,
    verb: Callable[[argparse.Namespace], int] | None,
    *,
    parents: Sequence[argparse.ArgumentParser] = (),
) -> Parser:
    """Add a verb whose one-line help is the first line of its description."""
    text, examples = (
        getattr(help_texts, f"{name.upper()}_{kind}") for kind in ("HELP", "EXAMPLES")
    )
    line = text.partition("\n")[0].rstrip(".")
    made = verbs.add_parser(name, help=line, description=text, epilog=examples, parents=parents)
    made.set_defaults(verb=verb)
    return made


def run_recipe(arguments: argparse.Namespace) -> int:
    """Run a recipe in its work folder; the exit code is the recipe's own."""
    recipe = load(arguments.config, arguments.overrides)
    from etils import epath

    return recipe.run(epath.Path(arguments.workdir or f"runs/{recipe.name}"))


def run_sweep(arguments: argparse.Namespace) -> int:
    """Run what is not done of a sweep; the exit code is 0 where all of it is."""
    recipe = load(arguments.config, arguments.overrides)
    from codejax.experiments.sweep import sweep

    chosen = {"rows": arguments.rows, "seeds": arguments.seeds, "only_list": arguments.list}
    return sweep(recipe, arguments.workdir or f"runs/{recipe.name}", **chosen)


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
    names += ("sessions", "session_idle", "metrics_listen", "with_parent")
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


def sample_text(arguments: argparse.Namespace) -> int:
    """Let a model write, and show it as it does."""
    from codejax.generate.requests import Sampling
    from codejax.generate.terminal import Typed, open_texts, pieces, read_prompt

    names = [field.name for field in dataclasses.fields(Sampling)]
    sampling = Sampling(**{name: getattr(arguments, name) for name in names})
    names = ["prompt", "prompt_file", "prefix", "suffix", "chat", "n", "seed", "length", "stream"]
    typed = Typed(
        sampling=sampling,
        stop=tuple(arguments.stop or ()),
        **{name: getattr(arguments, name) for name in names},
    )
    prompt = read_prompt(typed)  # before the model, which takes longer
    from codejax.library import open_model
    from codejax.parallel.mesh import ONE_DEVICE, read_mesh

    opened = open_model(
        arguments.model,
        tokenizer=arguments.tokenizer or "",
        dtype=arguments.dtype,
        mesh=read_mesh(arguments.mesh) if arguments.mesh else ONE_DEVICE,
    )
    parts = (opened.model, opened.params, opened.prompts)
    texts = open_texts(*parts, prompt, typed, opened.length, mesh=opened.mesh)
    print(opened.name, file=sys.stderr)
    for kind, text in pieces(texts, prompt, typed):
        if kind == "answer":
            print(text, end="", flush=True)
        else:
            print(text, file=sys.stderr)
    return 0


def list_shipped(arguments: argparse.Namespace) -> int:
    """Print the name of every recipe that ships."""
    for file in shipped_files():
        for name in list_recipes(file):
            print(f"{shipped_name(file)}:{name}")
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
