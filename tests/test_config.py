"""config: presets, validation, and the round trip through plain values."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmkit.config import CHOICES, PRESETS, ModelConfig, RopeScaling, preset

SCALINGS = [
    RopeScaling("linear", 4.0),
    RopeScaling("ntk", 2),
    RopeScaling("yarn", 4.0, original_context=64, attention_factor=1.2),
    RopeScaling("llama3", 8.0, original_context=8192, beta_slow=1.0, beta_fast=4.0),
]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_json(name):
    config = preset(name)
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@given(
    switches=st.fixed_dictionaries({name: st.sampled_from(choices) for name, choices in CHOICES.items()}),
    bias=st.booleans(),
    window=st.none() | st.integers(1, 500),
    scaling=st.none() | st.sampled_from(SCALINGS),
)
def test_every_variant_survives_json(switches, bias, window, scaling):
    scaling = scaling if switches["positions"] == "rope" else None
    config = preset("nano", **switches, bias=bias, sliding_window=window, rope_scaling=scaling)
    again = ModelConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config and hash(again) == hash(config)


def test_a_config_from_before_the_switches_is_the_default_architecture():
    old = {
        "vocab_size": 1024, "context_length": 256, "n_layer": 4, "n_head": 4, "n_kv_head": 2, "d_model": 128,
        "head_dim": 32, "d_ff": 352, "rope_theta": 10000.0, "norm_eps": 1e-06, "tie_embeddings": True, "qk_norm": True,
    }  # fmt: skip
    assert ModelConfig.from_dict(old) == preset("tiny")


def test_overrides_replace_fields_and_unknown_ones_are_named():
    assert preset("tiny", vocab_size=777).vocab_size == 777
    with pytest.raises(ValueError, match="n_heads"):
        preset("tiny", n_heads=3)
    with pytest.raises(ValueError, match="nano, tiny"):
        preset("huge")
    with pytest.raises(ValueError, match="vocab_size"):
        ModelConfig.from_dict({"n_layer": 1})
    with pytest.raises(ValueError, match="unknown rope_scaling field.*low_freq"):
        preset("tiny", rope_scaling={"kind": "llama3", "factor": 8, "low_freq": 1})
    with pytest.raises(ValueError, match="incomplete rope_scaling.*factor"):
        preset("tiny", rope_scaling={"kind": "linear"})


@pytest.mark.parametrize(
    "field, value",
    [("n_layer", 0), ("d_model", -8), ("vocab_size", 12.0), ("n_head", True), ("n_kv_head", 3), ("head_dim", 15)]
    + [
        ("rope_theta", 0.0),
        ("norm_eps", -1e-6),
        ("norm_eps", float("nan")),
        ("rope_theta", "10000"),
        ("norm_eps", None),
    ]
    + [("norm", "layernorm"), ("mlp", None), ("positions", "rotary"), ("positions", ["rope"])]
    + [("bias", 1), ("qk_norm", "no"), ("tie_embeddings", None)]
    + [("sliding_window", 0), ("sliding_window", 4.5), ("sliding_window", True), ("rope_scaling", 4.0)],
)
def test_impossible_values_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=field):
        preset("nano", **{field: value})


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(positions="alibi", rope_scaling=SCALINGS[0]), "stretches RoPE, but positions is 'alibi'"),
        (dict(positions="sinusoidal", d_model=63), "d_model .63. must be even"),
        (dict(head_dim=2, rope_scaling=SCALINGS[1]), "head_dim of at least 4 .2."),
        (dict(rope_theta=1.0, rope_scaling=SCALINGS[2]), "rope_theta above 1"),
    ],
)
def test_combinations_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        preset("nano", **fields)


def test_what_only_rope_needs_is_asked_of_rope_alone():
    assert preset("nano", positions="learned", head_dim=15).head_dim == 15


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(kind="dynamic", factor=2.0), "linear, ntk, yarn or llama3, not 'dynamic'"),
        (dict(kind="linear", factor=0.5), "at least 1"),
        (dict(kind="linear", factor=float("nan")), "at least 1"),
        (dict(kind="linear", factor=float("inf")), "at least 1"),
        (dict(kind="linear", factor="4"), "at least 1"),
        (dict(kind="yarn", factor=2.0, original_context=64, beta_slow=None), "beta_slow .None. must be"),
        (dict(kind="yarn", factor=2.0), "needs original_context"),
        (dict(kind="llama3", factor=2.0, original_context=0), "needs original_context"),
        (dict(kind="yarn", factor=2.0, original_context=64, beta_fast=1.0), "beta_slow .1.0. must be"),
        (dict(kind="ntk", factor=2.0, attention_factor=1.1), "attention_factor .1.1. is for yarn"),
        (dict(kind="yarn", factor=2.0, original_context=64, attention_factor=0.0), "above 0"),
    ],
)
def test_a_scaling_that_makes_no_sense_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        RopeScaling(**fields)


def test_the_border_between_fast_and_slow_is_each_papers():
    assert RopeScaling("yarn", 2.0, 64).beta_fast == 32
    assert RopeScaling("llama3", 2.0, 64).beta_fast == 4


def test_a_config_cannot_change_under_its_model():
    with pytest.raises(AttributeError):
        preset("nano").n_layer = 5
