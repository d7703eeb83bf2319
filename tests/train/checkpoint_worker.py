"""A process that saves or restores checkpoints of a known state; started by the tests.

Usage: checkpoint_worker.py VERB DIRECTORY DEVICES [PORT PROCESSES INDEX]; verbs are below.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import itertools
import os
import sys
from collections.abc import Callable
from typing import Any

if __name__ == "__main__":
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={sys.argv[3]}"

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from codejax.train.checkpoint import CheckpointError, Checkpointing, Checkpoints

SPEC = Checkpointing(every_steps=10, keep_last=2)


def example_mesh(devices: list[Any] | None = None) -> Mesh:
    devices = devices or jax.devices()
    return Mesh(np.array(devices), ("fsdp",), axis_types=(AxisType.Auto,))


def example_state(step: int | jax.Array) -> dict[str, Any]:
    """A state with the dtypes and tree types that a run has, known from its step alone.

    Its floats are whole numbers, so that no compiler has a say in their bits.
    """
    key = jax.random.fold_in(jax.random.key(7), step)
    count = itertools.count()

    def numbers(leaf: Any) -> jax.Array:
        own = jax.random.fold_in(key, next(count))
        return jax.random.randint(own, leaf.shape, -99, 99).astype(leaf.dtype)

    trained = {
        "table": jax.ShapeDtypeStruct((64, 48), jnp.float32),
        "scale": jax.ShapeDtypeStruct((40,), jnp.bfloat16),
    }
    adam = optax.masked(optax.adamw(1e-3), {"table": True, "scale": False})
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), adam, optax.ema(0.9))
    return {
        "params": {
            **jax.tree.map(numbers, trained),
            "mask": jnp.arange(8) % 2 == 0,
            "empty": {},
            "absent": None,
        },
        "opt_state": jax.tree.map(numbers, jax.eval_shape(optimizer.init, trained)),
        "step": jnp.asarray(step, jnp.int32),
        "seed": jax.random.key_data(key),
        "key": jax.random.split(key, 8),
        "bytes": jnp.arange(24, dtype=jnp.int8).reshape(3, 8),
    }


def sharding(mesh: Mesh, leaf: Any, *, last: bool = False) -> NamedSharding:
    """Over the first axis that divides (or the last), replicated where none does."""
    axes = list(range(leaf.ndim))
    for axis in reversed(axes) if last else axes:
        if leaf.shape[axis] % mesh.size == 0:
            return NamedSharding(mesh, P(*([None] * axis), "fsdp"))
    return NamedSharding(mesh, P())


def shapes() -> Any:
    return jax.eval_shape(example_state, jnp.int32(0))


@functools.cache
def maker(mesh: Mesh) -> Any:
    """The jitted `example_state`, sharded over the mesh by its first axes."""
    shardings = jax.tree.map(lambda leaf: sharding(mesh, leaf), shapes())
    return jax.jit(example_state, out_shardings=shardings)


def placed(mesh: Mesh, step: int) -> Any:
    return maker(mesh)(jnp.int32(step))


@functools.cache
def expected(step: int) -> Any:
    """The state of a step on one device."""
    return placed(example_mesh(jax.local_devices()[:1]), step)


def target(mesh: Mesh) -> Any:
    """What to restore: the same shapes, sharded by their last axes."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=sharding(mesh, leaf, last=True)
        ),
        shapes(),
    )


def assert_equal(state: Any, step: int) -> None:
    """The state is the step's, bit for bit and in its tree type, as far as this process sees."""
    wanted = expected(step)
    assert jax.tree.structure(state) == jax.tree.structure(wanted)
    for (path, found), leaf in zip(
        jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(wanted), strict=True
    ):
        name = jax.tree_util.keystr(path)
        assert found.dtype == leaf.dtype, name
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            found, leaf = jax.random.key_data(found), jax.random.key_data(leaf)
        whole = np.asarray(leaf)
        for shard in found.addressable_shards:
            assert np.asarray(shard.data).tobytes() == whole[shard.index].tobytes(), name


def save(checkpoints: Checkpoints, mesh: Mesh) -> None:
    """Two checkpoints, 10 and 20."""
    for step in (10, 20):
        checkpoints.save(step, placed(mesh, step), {"rows": step * 4})


def restore(checkpoints: Checkpoints, mesh: Mesh) -> None:
    """The newest checkpoint, which must be 20 and equal."""
    assert checkpoints.latest() == 20
    state, meta, step = checkpoints.restore(target(mesh))
    assert (meta, step) == ({"rows": 80}, 20)
    assert_equal(state, step)
    if jax.process_index() == 0:
        sys.stdout.write(f"restored {step}\n")


def outlive_a_full_disk(
    directory: epath.PathLike,
    mesh: Mesh,
    *,
    fill: Callable[[], object],
    empty: Callable[[], object],
) -> None:
    """A save on a full disk fails and says so; the one before stays good, a later one succeeds."""
    with Checkpoints(directory, Checkpointing(on_failure="continue")) as checkpoints:
        checkpoints.save(10, placed(mesh, 10), {})
        checkpoints.wait()
        fill()
        checkpoints.save(20, placed(mesh, 20), {})
        checkpoints.wait()
        assert checkpoints.failures == 1
        assert checkpoints.steps() == [10]
        assert_equal(checkpoints.restore(target(mesh)).state, 10)
    with Checkpoints(directory, Checkpointing(on_failure="stop")) as checkpoints:
        checkpoints.restore(target(mesh))
        checkpoints.save(20, placed(mesh, 20), {})
        message = ""
        while not message:
            try:
                checkpoints.check()
            except CheckpointError as error:
                message = str(error)
        assert "step 20" in message, message
        assert "not saved: no space left on device" in message, message
        empty()
        checkpoints.save(20, placed(mesh, 20), {})
        assert_equal(checkpoints.restore(target(mesh)).state, 20)


def full(directory: epath.Path, mesh: Mesh) -> None:
    """The same on a file system that really is full."""
    ballast = directory.parent / "ballast"

    def fill() -> None:
        space = os.statvfs(directory.parent)
        ballast.write_bytes(bytes(space.f_bavail * space.f_bsize - 48 * 1024))

    outlive_a_full_disk(directory, mesh, fill=fill, empty=ballast.unlink)
    sys.stdout.write("outlived")


def loop(checkpoints: Checkpoints, mesh: Mesh) -> None:
    """Goes on from the newest checkpoint and saves until it is killed."""
    step = 0
    if checkpoints.latest() is not None:
        state, _, step = checkpoints.restore(target(mesh))
        assert_equal(state, step)
    while True:
        step += 10
        checkpoints.save(step, placed(mesh, step), {"rows": step * 4})
        sys.stdout.write(f"saving {step}\n")
        sys.stdout.flush()


def main(verb: str, directory: str, port: int = 0, processes: int = 1, index: int = 0) -> None:
    if processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{port}", processes, index)
    if verb == "full":
        full(epath.Path(directory), example_mesh())
        return
    with Checkpoints(epath.Path(directory), SPEC) as checkpoints:
        {"save": save, "restore": restore, "loop": loop}[verb](checkpoints, example_mesh())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[4:]))
