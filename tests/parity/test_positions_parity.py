"""positions: stretched RoPE and ALiBi's slopes against transformers'."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmkit.config import RopeScaling
from llmkit.positions import alibi_slopes, attention_factor, inverse_frequencies, sinusoids

transformers = pytest.importorskip("transformers")
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS  # noqa: E402
from transformers.models.bloom.modeling_bloom import build_alibi_tensor  # noqa: E402
from transformers.models.speecht5.modeling_speecht5 import SpeechT5ScaledPositionalEncoding  # noqa: E402


def theirs(kind, head_dim, theta, context=2048, seq_len=None, **parameters):
    """transformers' inverse frequencies and attention factor."""
    config = transformers.LlamaConfig(
        hidden_size=4 * head_dim,
        num_attention_heads=4,
        head_dim=head_dim,
        max_position_embeddings=context,
        rope_parameters={"rope_type": kind, "rope_theta": theta, **parameters},
    )
    return ROPE_INIT_FUNCTIONS[kind](config, device="cpu", seq_len=seq_len)


many = given(
    head_dim=st.sampled_from([4, 16, 32, 64, 128]),
    theta=st.sampled_from([500.0, 10_000.0, 500_000.0]),
    factor=st.floats(1.0, 64.0),
    original=st.integers(64, 32_768),
)


def assert_same(scaling, head_dim, theta, expected):
    inv_freq, factor = expected
    torch.testing.assert_close(inverse_frequencies(head_dim, theta, scaling).float(), inv_freq, rtol=2e-5, atol=0)
    assert attention_factor(scaling) == pytest.approx(factor)


@settings(max_examples=30)
@many
def test_linear(head_dim, theta, factor, original):
    assert_same(RopeScaling("linear", factor), head_dim, theta, theirs("linear", head_dim, theta, factor=factor))


@settings(max_examples=30)
@many
def test_ntk_is_their_dynamic_scaling_at_the_full_length(head_dim, theta, factor, original):
    # theirs grows with the text; for one `seq_len` long, with factor 1, it stretches by seq_len / context
    expected = theirs("dynamic", head_dim, theta, original, seq_len=4 * original, factor=1.0)
    assert_same(RopeScaling("ntk", 4.0), head_dim, theta, expected)


@settings(max_examples=30)
@many
def test_yarn(head_dim, theta, factor, original):
    expected = theirs("yarn", head_dim, theta, factor=factor, original_max_position_embeddings=original)
    assert_same(RopeScaling("yarn", factor, original), head_dim, theta, expected)


def test_yarn_with_borders_and_factor_of_its_own():
    own = dict(beta_slow=2.0, beta_fast=16.0, attention_factor=1.3)
    expected = theirs("yarn", 64, 10_000.0, factor=8.0, original_max_position_embeddings=1024, **own)
    assert_same(RopeScaling("yarn", 8.0, 1024, **own), 64, 10_000.0, expected)


@settings(max_examples=30)
@many
def test_llama3(head_dim, theta, factor, original):
    borders = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    expected = theirs("llama3", head_dim, theta, factor=factor, original_max_position_embeddings=original, **borders)
    assert_same(RopeScaling("llama3", factor, original), head_dim, theta, expected)


@pytest.mark.parametrize("n_head", [1, 2, 3, 6, 8, 12, 16, 25])
def test_alibi_slopes(n_head):
    bias = build_alibi_tensor(torch.ones(1, 3), n_head, torch.float32)  # (n_head, 1, 3): slope times key position
    torch.testing.assert_close(alibi_slopes(n_head), bias[:, 0, 1])


def test_sinusoids():
    encoding = SpeechT5ScaledPositionalEncoding(dropout=0.0, dim=32, max_len=50)
    torch.testing.assert_close(sinusoids(50, 32), encoding.pe[0, :50], atol=2e-6, rtol=0)
