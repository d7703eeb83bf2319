"""pass@k of one problem: what k samples of it would come to."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math

import numpy as np


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Probability that at least one of k samples, drawn of these without putting back, is right.

    1 - C(n - c, k) / C(n, k), as a product of n - c factors at most; Chen et al. 2021, "Evaluating
    Large Language Models Trained on Code", equation 1. NaN where k exceeds the number of samples.
    """
    if not 0 <= num_correct <= num_samples or k < 1:
        raise ValueError(f"num_samples={num_samples}, num_correct={num_correct}, k={k} cannot be")
    if k > num_samples:
        return math.nan
    if num_samples - num_correct < k:
        return 1.0
    drawn = np.arange(num_samples - num_correct + 1, num_samples + 1, dtype=np.float64)
    return float(1.0 - np.prod(1.0 - k / drawn))
