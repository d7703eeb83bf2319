"""Runs turned into tables, figures and pages that anyone can regenerate."""
# SPDX-License-Identifier: Apache-2.0
