"""Parameters and FLOPs of a `Model` by formula: no array is made, no program compiled.

FLOPs are those the mathematics needs, whatever a program does: a matrix product of [m, k] and
[k, n] is 2mkn; the backward pass is twice the forward pass; recomputation counts for nothing. A
token's cost is averaged over a full row taken as one document. Of attention's scores only the
visible ones count: with a causal mask (length + 1) / 2 a token, fewer under a window. Left out are
look-ups, norms, biases, rotations, softmax and activations: under 1% from width 256 on.

This is appendix B of PaLM (Chowdhery et al., https://arxiv.org/abs/2204.02311), 6N + 12LHQT, with
two differences: N is the weights that multiply (so the output head and not the table that is looked
up), and the masked half of the scores is not counted. Chinchilla (Hoffmann et al.,
https://arxiv.org/abs/2203.15556, appendix F) counts the full square, softmax and look-ups too.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from dataclasses import dataclass

from codejax.model.attention import Attention
from codejax.model.layers import MLP, GatedMLP, LayerNorm, RMSNorm
from codejax.model.transformer import Model


@dataclass(frozen=True)
class Parameters:
    """Numbers of stored parameters. `layers` has one entry a layer, in order."""

    embedding: int
    layers: tuple[int, ...]
    final_norm: int
    head: int

    @property
    def total(self) -> int:
        """All of them; a tied table counts once."""
        return self.embedding + self.non_embedding + self.head

    @property
    def non_embedding(self) -> int:
        """All but embedding table and output head (N of Kaplan et al. 2020, section 2.1)."""
        return sum(self.layers) + self.final_norm


@dataclass(frozen=True)
class Flops:
    """FLOPs of one token in the forward pass: by weights, and by attention's scores and values."""

    weights: float
    scores: float

    @property
    def forward(self) -> float:
        """FLOPs of the forward pass."""
        return self.weights + self.scores

    @property
    def backward(self) -> float:
        """FLOPs of the backward pass: every product has two gradients, each as dear as itself."""
        return 2 * self.forward

    @property
    def training(self) -> float:
        """FLOPs of forward and backward pass."""
        return self.forward + self.backward


def count_parameters(model: Model) -> Parameters:
    """Parameters by formula, equal to those of `Transformer(model).abstract()`."""
    width = model.width
    table = model.vocab_size * width
    norm = _norm(model.norm, width)
    norms = (4 if model.post_norms else 2) * norm
    return Parameters(
        embedding=table + (model.learned_positions or 0) * width,
        layers=tuple(
            _mixer_weights(mixer, width)
            + _mixer_vectors(mixer, width)
            + _ffn_weights(ffn, width)
            + _ffn_biases(ffn, width)
            + norms
            for mixer, ffn in _blocks(model)
        ),
        final_norm=norm,
        head=0 if model.tied_embeddings else table,
    )


def count_flops(model: Model, length: int) -> Flops:
    """FLOPs of one token, averaged over rows of `length` tokens."""
    width = model.width
    weights = model.vocab_size * width
    scores = 0.0
    for mixer, ffn in _blocks(model):
        weights += _mixer_weights(mixer, width) + _ffn_weights(ffn, width)
        per_pair = 2 * mixer.num_heads * mixer.head_size(width)
        scores += per_pair * visible_tokens(length, causal=mixer.causal, window=mixer.window)
    return Flops(weights=2.0 * weights, scores=2.0 * scores)


def visible_tokens(length: int, *, causal: bool = True, window: int | None = None) -> float:
    """Tokens that a token of a full row sees, itself included, averaged over the row."""
    reach = length if window is None else min(window, length)
    beyond = (length - reach) * (length - reach + 1) / 2  # pairs too far back for the window
    pairs = length * (length + 1) / 2 if causal else length**2
    return (pairs - beyond) / length


def model_flops_utilization(
    model: Model, length: int, *, tokens_per_second: float, peak_flops_per_second: float
) -> float:
    """MFU: the FLOPs that training these tokens needs, over those that all devices could do."""
    return count_flops(model, length).training * tokens_per_second / peak_flops_per_second


def _blocks(model: Model) -> list[tuple[Attention, GatedMLP | MLP]]:
    mixers, ffns = model.mixers, model.ffns
    return [(mixers[i % len(mixers)], ffns[i % len(ffns)]) for i in range(model.num_layers)]


def _mixer_weights(mixer: Attention, width: int) -> int:
    return 2 * (mixer.num_heads + mixer.kv_heads) * mixer.head_size(width) * width


def _mixer_vectors(mixer: Attention, width: int) -> int:
    head_dim = mixer.head_size(width)
    biases = (mixer.num_heads + 2 * mixer.kv_heads) * head_dim if mixer.bias else 0
    norms = 2 * _norm(mixer.qk_norm, head_dim) if mixer.qk_norm is not None else 0
    return biases + norms + (width if mixer.out_bias else 0)


def _ffn_weights(ffn: GatedMLP | MLP, width: int) -> int:
    return (3 if isinstance(ffn, GatedMLP) else 2) * width * ffn.hidden


def _ffn_biases(ffn: GatedMLP | MLP, width: int) -> int:
    return ((2 if isinstance(ffn, GatedMLP) else 1) * ffn.hidden + width) if ffn.bias else 0


def _norm(norm: RMSNorm | LayerNorm, size: int) -> int:
    return 2 * size if isinstance(norm, LayerNorm) and norm.bias else size
