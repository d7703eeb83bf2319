"""The decoder transformer: layers, attention, their pattern, and formulas that count it."""
# SPDX-License-Identifier: Apache-2.0
