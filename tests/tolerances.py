"""The one table of tolerances: how far two numbers that should be equal may differ, and why.

A test takes its bound by name, `tolerance("packed_equals_unpacked")`, and never writes a number of
its own. Bounds are for float32 on the CPU unless the name says otherwise.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import NamedTuple


class Tolerance(NamedTuple):
    """A bound and the reason it is not smaller."""

    value: float
    reason: str


TOLERANCES: dict[str, Tolerance] = {
    "bitwise": Tolerance(
        0.0, "the same program on the same machine and threads: not one bit may differ"
    ),
    "schedule": Tolerance(3e-7, "float32 arithmetic and cosine, relative to a peak of one"),
    "optimizer_step": Tolerance(
        5e-6, "a few float32 updates of order one against float64; Adafactor's roots lose most"
    ),
    "muon_step": Tolerance(
        2e-5, "five Newton-Schulz steps in float32 against float64: each triples small errors"
    ),
    "stacked_equals_separate": Tolerance(
        2e-6, "the same float32 matmuls, batched and alone, may sum in another order"
    ),
    "sharded_optimizer": Tolerance(
        2e-5, "norms and Newton-Schulz products summed over eight devices in another order"
    ),
    "rounding": Tolerance(1e-12, "a few float64 additions and divisions of numbers of order one"),
    "t_quantile": Tolerance(1e-9, "Student's quantiles by two routines that iterate"),
    "resampled_quantile": Tolerance(
        1.5e-3, "quantiles of 50,000 resampled means that lie some hundredths apart"
    ),
    "crossed_quantile": Tolerance(
        1e-2, "quantiles of 20,000 means over drawn seeds and problems, a hundredth apart at most"
    ),
    "advantage": Tolerance(
        1e-6, "float64 throughout, rounded once to float32, and whitening's 1e-8"
    ),
    "drawn_frequency": Tolerance(
        0.012, "20,000 draws: 3.4 standard deviations of a frequency of one half"
    ),
    "chi_square_sigmas": Tolerance(
        5.0, "standard deviations of chi-square: its tail is heavier than a normal one's"
    ),
    "infilled_share": Tolerance(
        0.028, "4,000 documents: 3.5 standard deviations of a frequency of one half"
    ),
    "cached": Tolerance(
        5e-4, "log-probabilities after layers whose sums go over blocks of the cache in turn"
    ),
    "first_steps_of_adam": Tolerance(
        2e-3, "a tenth of the learning rate a step: Adam makes steps of rounded tiny gradients"
    ),
    "trainer_equals_sampler": Tolerance(
        1e-4, "log-probabilities of one token by a cached step and by a full pass, in float32"
    ),
    "rope": Tolerance(1e-3, "angles of some thousand radians hold four decimals in float32"),
    "rope_relative": Tolerance(
        2e-3, "as rope, summed over the 64 coordinates of a score of order ten"
    ),
    "rope_frequency": Tolerance(
        1e-6, "float64 rounded once against float32 throughout, a few units in the last place"
    ),
    "hugging_face_logits": Tolerance(
        2e-4, "logits of order one after a few layers of float32 sums in torch's and XLA's orders"
    ),
    "golden_loss": Tolerance(1e-5, "ten steps of Adam on other processors and jax versions"),
    "bfloat16_rounding": Tolerance(2**-7, "a number and a factor, each rounded to eight bits"),
    "layer": Tolerance(2e-5, "a few float32 sums of some dozen terms of order one"),
    "chunked_equals_plain": Tolerance(
        2e-5, "float32 sums of a few hundred token losses in another order"
    ),
    "worked_loss": Tolerance(
        3e-6, "a few float32 operations on ratios, which exponentials of up to 20 amplify"
    ),
    "policy_gradient": Tolerance(
        1e-5, "float32 sums of some dozen tokens' gradients of order one against float64"
    ),
    "packed_equals_unpacked": Tolerance(
        2e-5, "the same float32 sums with masked terms in other places"
    ),
    "merged_equals_adapted": Tolerance(
        1e-4, "x @ (w + s a b) against x @ w + s (x @ a) @ b in float32, over two layers"
    ),
    "merged_gradients": Tolerance(
        2e-3, "as merged_equals_adapted, in sums over the batch of terms that cancel"
    ),
    "scanned": Tolerance(
        5e-5, "the compiler fuses a loop body and its unrolled copies differently"
    ),
    "remat": Tolerance(5e-5, "recomputed sums may be fused, and so rounded, differently"),
    "bfloat16_logits": Tolerance(
        0.1, "eight bits of mantissa in every activation, logits of order one, two layers"
    ),
    "sharded_equals_one_device": Tolerance(
        5e-4, "sums over devices in another order, amplified by three Adam steps of 1e-2"
    ),
    "accumulated_equals_big_batch": Tolerance(
        5e-4, "sums over microbatches in another order, amplified by three Adam steps of 1e-2"
    ),
    "flops_left_out": Tolerance(
        0.01, "norms, softmax, activations, rotations and casts, which the formula leaves out"
    ),
    "attention": Tolerance(
        3e-5, "sums over up to 384 keys of products of order ten in another order, in float32"
    ),
    "attention_bfloat16": Tolerance(
        0.06, "eight bits of mantissa in inputs, weights and outputs; gradients up to ten"
    ),
}


def tolerance(name: str) -> float:
    """The bound of that name; KeyError for a name that the table lacks."""
    return TOLERANCES[name].value
