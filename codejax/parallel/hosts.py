"""Joining the hosts of a run: one process each, on a pod slice, a cluster, or a loopback.

JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID name the processes by hand; under
Slurm, and on TPU slices that set TPU_WORKER_HOSTNAMES, JAX finds them itself. Without any of these,
the run has one process.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os

import jax

BY_HAND = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def join() -> None:
    """Join the other processes of this run, if there are any; call it before any device is used."""
    if jax.distributed.is_initialized():
        return
    given = [name for name in BY_HAND if name in os.environ]
    if given and len(given) < len(BY_HAND):
        missing = ", ".join(name for name in BY_HAND if name not in os.environ)
        raise ValueError(f"{given[0]} is set, but not {missing}; set all three or none")
    if given:
        if os.environ.get("JAX_PLATFORMS") == "cpu":
            jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(
            os.environ["JAX_COORDINATOR_ADDRESS"],
            num_processes=int(os.environ["JAX_NUM_PROCESSES"]),
            process_id=int(os.environ["JAX_PROCESS_ID"]),
        )
    elif _several_hosts():
        jax.distributed.initialize()


def _several_hosts() -> bool:
    """Whether the environment of a TPU pod slice or of Slurm names more than one host."""
    workers = os.environ.get("TPU_WORKER_HOSTNAMES", "")
    return "," in workers or int(os.environ.get("SLURM_NTASKS", "1")) > 1
