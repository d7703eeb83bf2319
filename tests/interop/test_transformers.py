"""Llama against Hugging Face's own code, where torch and transformers are installed (slow)."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest
from tolerances import tolerance

from codejax import trees
from codejax.interop.families import write_config
from codejax.interop.huggingface import read_model, read_params, write_folder
from codejax.model.attention import Attention
from codejax.model.layers import GatedMLP
from codejax.model.rope import LinearScaling, Llama3Scaling, NtkScaling, Rope, YarnScaling
from codejax.model.transformer import Model, Transformer

pytestmark = pytest.mark.slow

LENGTH = 96
ROPES = {
    "plain": Rope(),
    "linear": Rope(scaling=LinearScaling(factor=3.0)),
    "ntk": Rope(scaling=NtkScaling(factor=3.0)),
    "llama3": Rope(theta=5e5, scaling=Llama3Scaling(factor=4.0, original_length=24)),
    "yarn": Rope(scaling=YarnScaling(factor=4.0, original_length=24)),
}


def small_model(rope, *, bias=False, tied=False):
    mixer = Attention(num_heads=6, num_kv_heads=2, head_dim=16, rope=rope, bias=bias, out_bias=bias)
    ffn = GatedMLP(hidden=80, bias=bias, activation="gelu" if tied else "silu")
    return Model(
        vocab_size=96,
        width=48,
        num_layers=4,
        mixers=(mixer,),
        ffns=(ffn,),
        tied_embeddings=tied,
    )


def random_params(model):
    """Matrices that keep a stream's scale, norms and biases about one."""
    rng = np.random.default_rng(0)

    def draw(name, leaf):
        is_vector = name.endswith(("scale", "_bias"))
        draws = rng.normal(size=leaf.shape) * (0.3 if is_vector else model.width**-0.5)
        return (draws + is_vector).astype(np.float32)

    return trees.map_named(draw, Transformer(model, "cpu").abstract())


def torch_logits(folder, ids):
    torch = pytest.importorskip("torch", reason="needs torch")
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return model.eval()(torch.tensor(ids)).logits.numpy()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("rope", ROPES)
def test_a_written_folder_gives_the_same_logits_in_transformers(
    rope, tied, tmp_path, causal_logits
):
    model = small_model(ROPES[rope], bias=tied, tied=tied)
    params = random_params(model)
    write_folder(tmp_path / "a", model, params, config=write_config(model, max_length=LENGTH))
    ids = np.random.default_rng(1).integers(0, model.vocab_size, size=(2, LENGTH))
    expected = torch_logits(tmp_path / "a", ids)
    read = read_model(tmp_path / "a")
    for found_model, found_params in ((model, params), (read, read_params(tmp_path / "a", read))):
        found = causal_logits(found_model, found_params, ids)
        assert np.abs(found - expected).max() < tolerance("hugging_face_logits")
