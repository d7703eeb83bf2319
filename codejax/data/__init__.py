"""From source files to batches: readers, tokenizers, corpora, transforms, packed rows."""
# SPDX-License-Identifier: Apache-2.0
