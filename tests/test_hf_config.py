"""hf_config: settings there and back, files that leave things out, and what is refused by name."""

import pytest

from llmkit.checkpoint import CheckpointError
from llmkit.config import RopeScaling, preset
from llmkit.hf_config import read_config, write_config
from llmkit.positions import inverse_frequencies

LLAMA = dict(qk_norm=False)
GPT2 = dict(norm="layer", mlp="gelu", positions="learned", bias=True, qk_norm=False, n_kv_head=4)
VARIANTS = {
    "qwen3": {},
    "qwen3_window": dict(sliding_window=16, tie_embeddings=False),
    "llama": LLAMA | dict(rope_theta=500_000.0, head_dim=24, norm_eps=1e-5),
    "llama_bias": LLAMA | dict(bias=True, n_kv_head=1),
    "gpt2": GPT2 | dict(d_ff=100),
    "linear": dict(rope_scaling=RopeScaling("linear", 2.5)),
    "yarn": dict(rope_scaling=RopeScaling("yarn", 4.0, 64)),
    "yarn_all": dict(rope_scaling=RopeScaling("yarn", 4.0, 64, 2.0, 20.0, 1.25)),
    "llama3": LLAMA | dict(rope_scaling=RopeScaling("llama3", 8.0, 64)),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_there_and_back(name):
    config = preset("nano", **VARIANTS[name])
    family, values = write_config(config)
    assert family in name or name in ("linear", "yarn", "yarn_all", "llama3")
    assert read_config(values) == (family, config)


@pytest.mark.parametrize("name", ["linear", "yarn_all", "llama3", "llama"])
def test_the_newer_form_of_rope_s_settings(name):
    config = preset("nano", **VARIANTS[name])
    family, values = write_config(config)
    rope = {"rope_theta": values.pop("rope_theta"), **(values.pop("rope_scaling") or {"rope_type": "default"})}
    assert read_config(values | {"rope_parameters": rope}) == (family, config)


def test_ntk_is_written_as_its_theta():
    config = preset("nano", rope_scaling=RopeScaling("ntk", 4.0))
    _, again = read_config(write_config(config)[1])
    assert again.rope_scaling is None
    ntk = inverse_frequencies(config.head_dim, config.rope_theta, config.rope_scaling)
    assert inverse_frequencies(config.head_dim, again.rope_theta).allclose(ntk)


def test_a_file_that_leaves_things_out():
    sizes = dict(vocab_size=100, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=80)
    _, config = read_config(sizes | dict(model_type="llama", max_position_embeddings=64, num_key_value_heads=None))
    assert (config.head_dim, config.n_kv_head, config.rope_theta, config.norm_eps) == (12, 4, 10_000.0, 1e-6)
    assert not config.tie_embeddings and not config.bias
    _, config = read_config(dict(model_type="gpt2", vocab_size=100, n_positions=64, n_embd=48, n_layer=2, n_head=4))
    assert (config.head_dim, config.n_kv_head, config.d_ff, config.norm_eps) == (12, 4, 192, 1e-5)
    assert config.tie_embeddings and config.bias


def qwen(**changes):
    return write_config(preset("nano"))[1] | changes


def test_a_window_counts_only_where_it_is_used():
    silent = {"layer_types": None}
    assert read_config(qwen(sliding_window=16))[1].sliding_window is None
    assert read_config(qwen(sliding_window=16, use_sliding_window=True, max_window_layers=4) | silent)[
        1
    ].sliding_window is None  # fmt: skip
    assert read_config(qwen(sliding_window=16, use_sliding_window=True) | silent)[1].sliding_window == 16
    with pytest.raises(CheckpointError, match="several kinds"):
        read_config(qwen(sliding_window=16, use_sliding_window=True, max_window_layers=2) | silent)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"model_type": "mamba"}, "mamba is not one of those"),
        ({}, "None is not one of those"),
        ({"model_type": ["llama"]}, r"\['llama'\] is not one of those"),
        ({"model_type": "llama", "architectures": 3}, "3 is not one of those"),
        ({"model_type": "llama", "architectures": ["LlamaModel"]}, "LlamaModel is not one of those"),
        (qwen(architectures=["Qwen3ForSequenceClassification"]), "SequenceClassification"),
        (qwen(quantization_config={"bits": 4}), "quantized"),
        (qwen(hidden_act="gelu"), "hidden_act 'gelu'"),
        (qwen(attention_bias=True), "attention_bias True"),
        (qwen(rope_scaling={"type": "dynamic", "factor": 2.0}), "'dynamic'"),
        (qwen(rope_scaling={"rope_type": "linear"}), "factor is missing"),
        (qwen(rope_scaling={"rope_type": "yarn", "factor": 2.0, "truncate": False}), "truncate"),
        (qwen(rope_scaling={"rope_type": "yarn", "factor": 2.0, "mscale": 1.0, "mscale_all_dim": 1.0}), "mscale"),
        (qwen(partial_rotary_factor=0.5), "partial_rotary_factor"),
        (qwen(rope_parameters={"full_attention": {"rope_theta": 1e6}}), "full_attention"),
        (qwen(rope_parameters="linear"), "no attribute"),
        (qwen(num_hidden_layers=0), "n_layer must be"),
        (write_config(preset("nano", **LLAMA))[1] | {"head_dim": None, "hidden_size": "48"}, "unsupported operand"),
        (qwen(hidden_size="48"), "d_model must be"),
        ({k: v for k, v in qwen().items() if k != "intermediate_size"}, "intermediate_size is missing"),
        (write_config(preset("nano", **LLAMA))[1] | {"mlp_bias": True}, "attention_bias is False and mlp_bias True"),
        (write_config(preset("nano", **GPT2))[1] | {"activation_function": "relu"}, "activation_function 'relu'"),
    ],
)
def test_what_is_not_read_is_named(values, message):
    with pytest.raises(CheckpointError, match=message):
        read_config(values)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(positions="alibi"), "positions 'alibi'"),
        (dict(bias=True), "bias True|qk_norm True"),
        (LLAMA | dict(sliding_window=8), "sliding_window 8|qk_norm False"),
        (GPT2 | dict(n_kv_head=2), "n_kv_head 2"),
        (GPT2 | dict(head_dim=24), "head_dim 24"),
        (LLAMA | dict(n_head=6), r"d_model \(64\) is no multiple of n_head \(6\)"),
        (dict(norm="layer"), "norm 'layer'"),
    ],
)
def test_what_cannot_be_written_is_named(changes, message):
    with pytest.raises(CheckpointError, match=message):
        write_config(preset("nano", **changes))
