"""Weights of others: name tables between codejax parameters and published checkpoints."""
# SPDX-License-Identifier: Apache-2.0
