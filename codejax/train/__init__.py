"""Optimizer, state, step, checkpoints and the loop that drives them."""
# SPDX-License-Identifier: Apache-2.0
