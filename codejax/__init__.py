"""codejax: a JAX/Flax research codebase for code language models.

Importing this package touches no device and prints nothing.
"""
# SPDX-License-Identifier: Apache-2.0

__version__ = "0.1.0"
