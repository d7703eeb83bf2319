"""What a model is asked and how its answers are scored: the same for evaluation and for reward."""
# SPDX-License-Identifier: Apache-2.0
