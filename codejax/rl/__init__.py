"""On-policy reinforcement learning: rewards to advantages, and the loss of each token as data."""
# SPDX-License-Identifier: Apache-2.0
