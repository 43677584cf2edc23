"""The model against transformers' Qwen3 and Llama: equal logits and gradients on tiny random weights."""

import pytest
import torch

from llmkit.config import ModelConfig
from llmkit.model import Transformer

transformers = pytest.importorskip("transformers")

CASES = {
    "gqa_tied": {},
    "mha_tied": dict(n_kv_head=4),
    "mqa_untied": dict(n_kv_head=1, tie_embeddings=False),
    "wide_heads": dict(head_dim=24),  # head_dim is not d_model / n_head
    "large_theta": dict(rope_theta=1_000_000.0, norm_eps=1e-5),
    "llama": dict(qk_norm=False),
    "llama_untied": dict(qk_norm=False, tie_embeddings=False, n_kv_head=4),
}


def config_of(name) -> ModelConfig:
    sizes = dict(vocab_size=97, context_length=64, n_layer=2, n_head=4, n_kv_head=2, d_model=48, head_dim=12, d_ff=80)
    return ModelConfig(**{**sizes, **CASES[name]})


def hf_model(config: ModelConfig, attn_implementation="eager"):
    common = dict(
        vocab_size=config.vocab_size,
        max_position_embeddings=config.context_length,
        num_hidden_layers=config.n_layer,
        num_attention_heads=config.n_head,
        num_key_value_heads=config.n_kv_head,
        hidden_size=config.d_model,
        head_dim=config.head_dim,
        intermediate_size=config.d_ff,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        rms_norm_eps=config.norm_eps,
        tie_word_embeddings=config.tie_embeddings,
        attn_implementation=attn_implementation,
    )
    kind = "Qwen3" if config.qk_norm else "Llama"
    hf_config = getattr(transformers, f"{kind}Config")(**common)
    net = getattr(transformers, f"{kind}ForCausalLM")(hf_config).eval()
    assert net.config.rope_parameters["rope_theta"] == config.rope_theta
    with torch.no_grad():
        for weight in net.parameters():  # norms too, and large enough that every part matters
            weight.normal_(0.0, 0.2)
    return net


def from_hf(tensors: dict, config: ModelConfig) -> dict:
    """Hugging Face's names and tensors -> ours: query/key/value and gate/up are stacked."""
    ours = {"tok_emb.weight": tensors["model.embed_tokens.weight"], "norm_f.weight": tensors["model.norm.weight"]}
    ours["lm_head.weight"] = tensors["model.embed_tokens.weight" if config.tie_embeddings else "lm_head.weight"]
    for i in range(config.n_layer):
        theirs, mine = f"model.layers.{i}", f"blocks.{i}"
        ours[f"{mine}.norm1.weight"] = tensors[f"{theirs}.input_layernorm.weight"]
        ours[f"{mine}.norm2.weight"] = tensors[f"{theirs}.post_attention_layernorm.weight"]
        ours[f"{mine}.attn.qkv.weight"] = torch.cat([tensors[f"{theirs}.self_attn.{x}_proj.weight"] for x in "qkv"])
        ours[f"{mine}.attn.out.weight"] = tensors[f"{theirs}.self_attn.o_proj.weight"]
        if config.qk_norm:
            ours[f"{mine}.attn.q_norm.weight"] = tensors[f"{theirs}.self_attn.q_norm.weight"]
            ours[f"{mine}.attn.k_norm.weight"] = tensors[f"{theirs}.self_attn.k_norm.weight"]
        gate_up = [tensors[f"{theirs}.mlp.{x}_proj.weight"] for x in ("gate", "up")]
        ours[f"{mine}.mlp.gate_up.weight"] = torch.cat(gate_up)
        ours[f"{mine}.mlp.down.weight"] = tensors[f"{theirs}.mlp.down_proj.weight"]
    return ours


@pytest.mark.parametrize("name", CASES)
def test_logits_and_gradients_equal_transformers(name):
    torch.manual_seed(0)
    config = config_of(name)
    theirs, ours = hf_model(config), Transformer(config)
    ours.load_state_dict(from_hf(dict(theirs.named_parameters()), config))
    idx = torch.randint(0, config.vocab_size, (3, 40))
    targets = torch.randint(0, config.vocab_size, (3, 40))

    logits, expected = ours(idx), theirs(idx).logits
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)

    for x in (logits, expected):
        torch.nn.functional.cross_entropy(x.flatten(0, 1), targets.flatten()).backward()
    expected_grads = from_hf({key: p.grad for key, p in theirs.named_parameters()}, config)
    for key, p in ours.named_parameters():
        torch.testing.assert_close(p.grad, expected_grads[key], atol=1e-5, rtol=1e-4, msg=lambda m: f"{key}: {m}")  # noqa: B023
