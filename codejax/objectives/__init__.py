"""Losses over a Batch: each is a pure function of a model, parameters, a batch and a key."""
# SPDX-License-Identifier: Apache-2.0
