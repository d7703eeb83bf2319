"""Measuring models: answers to the problems of a task, judged, kept and turned into figures."""
# SPDX-License-Identifier: Apache-2.0
