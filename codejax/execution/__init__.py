"""Execution workers: programs that a model wrote, run in a jail and judged against tests.

A worker is a service that anyone can use alone; rewards and evaluations reach it by a client. This
room imports no JAX, and nothing of codejax outside it.
"""
# SPDX-License-Identifier: Apache-2.0
