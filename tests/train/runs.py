"""Real training runs in processes of their own, on a small corpus made for them."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import atexit
import functools
import os
import pathlib
import socket
import subprocess
import sys
import tempfile

import jax

from codejax.data.corpus_build import Bytes, CorpusBuild
from codejax.data.readers import Tree
from codejax.runlog import read_metrics
from codejax.train.checkpoint import Checkpointing, Checkpoints
from codejax.train.state import TrainState

RECIPES = pathlib.Path(__file__).with_name("tiny_recipes.py")
ROOT = pathlib.Path(__file__).parents[2]
TIMEOUT = 240.0


def make_corpus(folder: pathlib.Path) -> pathlib.Path:
    """`train/` and `held_out/` of some files of this project, as bytes."""
    tree = folder / "tree"
    for number, path in enumerate(sorted((ROOT / "codejax" / "data").glob("*.py"))):
        target = tree / f"repository{number}" / path.name
        target.parent.mkdir(parents=True)
        target.write_bytes(path.read_bytes())
    CorpusBuild(
        name="tiny", sources=(Tree(path=str(tree)),), tokenizer=Bytes(), held_out=0.2, num_workers=1
    ).run(folder / "corpus")  # pyright: ignore[reportArgumentType]
    return folder / "corpus"


def command(corpus: pathlib.Path, workdir: pathlib.Path, *overrides: str, recipe: str = "tiny"):
    """`codejax run` of a recipe of this folder."""
    held_out = [f"--config.held_out.corpus={corpus}/held_out"] if "evaluated" in recipe else []
    return [
        *(sys.executable, "-m", "codejax", "run", f"--config={RECIPES}:{recipe}"),
        f"--config.data.sources[0].corpus={corpus}/train",
        *held_out,
        *overrides,
        f"--workdir={workdir}",
    ]


def environment(num_devices: int, **more: str) -> dict[str, str]:
    """The environment of one process with this many CPU devices."""
    flags = [f for f in os.environ.get("XLA_FLAGS", "").split() if "device_count" not in f]
    flags.append(f"--xla_force_host_platform_device_count={num_devices}")
    # Runs of one program compile it once: a process that is killed and started again reads it.
    more |= {"JAX_COMPILATION_CACHE_DIR": str(compiled_programs())}
    more |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"XLA_FLAGS": " ".join(flags), "PYTHONPATH": path, **more}


def start(arguments: list[str], *, num_processes: int = 1, num_devices: int = 1):
    """Start the processes of one run on loopback; `num_devices` over all of them."""
    port = str(free_port())
    processes = []
    for number in range(num_processes):
        joined = {
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
            "JAX_NUM_PROCESSES": str(num_processes),
            "JAX_PROCESS_ID": str(number),
        }
        env = environment(num_devices // num_processes, **(joined if num_processes > 1 else {}))
        processes.append(
            subprocess.Popen(
                arguments,
                env=env,
                text=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        )
    return processes


def finish(processes) -> list[tuple[int, str]]:
    """Exit code and output of each process; none is left running."""
    try:
        outputs = [process.communicate(timeout=TIMEOUT)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(p.returncode, out) for p, out in zip(processes, outputs, strict=True)]


def run(arguments: list[str], *, expect: int = 0, **where: int) -> str:
    """Run to the end; the output of the first process. AssertionError for another exit code."""
    ended = finish(start(arguments, **where))
    for code, output in ended:
        assert code == expect, f"exit code {code}, wanted {expect}:\n{output[-3000:]}"
    return ended[0][1]


def losses(workdir: pathlib.Path) -> dict[int, float]:
    """Training loss by step; each step stands once."""
    records = [r for r in read_metrics(workdir) if r["kind"] == "train"]
    assert len({r["step"] for r in records}) == len(records), "a step stands twice"
    return {int(r["step"]): r["loss"] for r in records}


def final_state(workdir: pathlib.Path, step: int) -> TrainState:
    """Every array of the checkpoint of a step, on the host."""
    with Checkpoints(workdir / "checkpoints", Checkpointing()) as checkpoints:
        state, _, found = checkpoints.restore(target_of(workdir, step), step)
    assert found == step
    return jax.device_get(state)


def target_of(workdir: pathlib.Path, step: int):
    """What a checkpoint of the tiny recipe holds, on one device."""
    from codejax.model.transformer import Transformer
    from codejax.parallel.mesh import Mesh, make_mesh
    from codejax.recipe import loads
    from codejax.train.state import abstract_state
    from codejax.train.training import optimizer_of

    recipe = loads((workdir / "recipe.json").read_text())
    model = Transformer(recipe.model, "cpu")
    mesh = make_mesh(Mesh(), jax.devices()[:1])
    return abstract_state(model, optimizer_of(recipe, model), mesh)


@functools.cache
def compiled_programs() -> pathlib.Path:
    """A folder for compiled programs that lives as long as this process."""
    folder = tempfile.TemporaryDirectory(prefix="codejax-programs-")
    atexit.register(folder.cleanup)
    return pathlib.Path(folder.name)


def free_port() -> int:
    """A port that was free on loopback a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
