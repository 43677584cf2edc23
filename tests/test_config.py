"""config: presets, validation, and the round trip through plain values."""

import json

import pytest

from llmkit.config import PRESETS, ModelConfig, preset


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_json(name):
    config = preset(name)
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_overrides_replace_fields_and_unknown_ones_are_named():
    assert preset("tiny", vocab_size=777).vocab_size == 777
    with pytest.raises(ValueError, match="n_heads"):
        preset("tiny", n_heads=3)
    with pytest.raises(ValueError, match="nano, tiny"):
        preset("huge")
    with pytest.raises(ValueError, match="vocab_size"):
        ModelConfig.from_dict({"n_layer": 1})


@pytest.mark.parametrize(
    "field, value",
    [("n_layer", 0), ("d_model", -8), ("vocab_size", 12.0), ("n_head", True), ("n_kv_head", 3), ("head_dim", 15)]
    + [("rope_theta", 0.0), ("norm_eps", -1e-6), ("norm_eps", float("nan"))],
)
def test_impossible_sizes_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=field):
        preset("nano", **{field: value})


def test_a_config_cannot_change_under_its_model():
    with pytest.raises(AttributeError):
        preset("nano").n_layer = 5
