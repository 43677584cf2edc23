"""The model against transformers' Qwen3, Llama, Mistral and GPT-2: equal logits and gradients, tiny random weights."""

import pytest
import torch

from llmkit.config import ModelConfig, RopeScaling, preset
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
    "llama_biased": dict(qk_norm=False, bias=True),
    "llama_linear": dict(qk_norm=False, rope_scaling=RopeScaling("linear", 4.0)),
    "llama3": dict(qk_norm=False, rope_scaling=RopeScaling("llama3", 8.0, original_context=16)),
    "yarn": dict(rope_scaling=RopeScaling("yarn", 4.0, original_context=16)),
    "mistral": dict(qk_norm=False, sliding_window=7),
    "mistral_wide": dict(qk_norm=False, sliding_window=64),
}


def config_of(name) -> ModelConfig:
    sizes = dict(vocab_size=97, context_length=64, n_layer=2, n_head=4, n_kv_head=2, d_model=48, head_dim=12, d_ff=80)
    return ModelConfig(**{**sizes, **CASES[name]})


def rope_parameters(config: ModelConfig) -> dict:
    scaling = config.rope_scaling
    if scaling is None:
        return {"rope_type": "default", "rope_theta": config.rope_theta}
    parameters = {"rope_type": scaling.kind, "rope_theta": config.rope_theta, "factor": scaling.factor}
    if scaling.original_context:
        parameters["original_max_position_embeddings"] = scaling.original_context
    if scaling.kind == "llama3":
        parameters |= {"low_freq_factor": scaling.beta_slow, "high_freq_factor": scaling.beta_fast}
    return parameters


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
        rope_parameters=rope_parameters(config),
        rms_norm_eps=config.norm_eps,
        tie_word_embeddings=config.tie_embeddings,
        attn_implementation=attn_implementation,
    )
    kind = "Qwen3" if config.qk_norm else "Mistral" if config.sliding_window else "Llama"
    if config.sliding_window:
        common["sliding_window"] = config.sliding_window
    if config.bias:
        common |= {"attention_bias": True, "mlp_bias": True}
    hf_config = getattr(transformers, f"{kind}Config")(**common)
    net = getattr(transformers, f"{kind}ForCausalLM")(hf_config).eval()
    assert net.config.rope_parameters["rope_theta"] == config.rope_theta
    return fill(net)


@torch.no_grad()
def fill(net):
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
        for part in ("weight", "bias") if config.bias else ("weight",):
            ours[f"{mine}.attn.qkv.{part}"] = torch.cat([tensors[f"{theirs}.self_attn.{x}_proj.{part}"] for x in "qkv"])
            ours[f"{mine}.attn.out.{part}"] = tensors[f"{theirs}.self_attn.o_proj.{part}"]
            gate_up = [tensors[f"{theirs}.mlp.{x}_proj.{part}"] for x in ("gate", "up")]
            ours[f"{mine}.mlp.gate_up.{part}"] = torch.cat(gate_up)
            ours[f"{mine}.mlp.down.{part}"] = tensors[f"{theirs}.mlp.down_proj.{part}"]
        if config.qk_norm:
            ours[f"{mine}.attn.q_norm.weight"] = tensors[f"{theirs}.self_attn.q_norm.weight"]
            ours[f"{mine}.attn.k_norm.weight"] = tensors[f"{theirs}.self_attn.k_norm.weight"]
    return ours


def gpt2_config() -> ModelConfig:
    sizes = dict(vocab_size=97, context_length=64, n_layer=2, n_head=4, n_kv_head=4, d_model=48, head_dim=12, d_ff=192)
    return preset("gpt2", **sizes)


def hf_gpt2(config: ModelConfig):
    hf_config = transformers.GPT2Config(
        vocab_size=config.vocab_size,
        n_positions=config.context_length,
        n_layer=config.n_layer,
        n_head=config.n_head,
        n_embd=config.d_model,
        attn_implementation="eager",
    )
    return fill(transformers.GPT2LMHeadModel(hf_config).eval())


def from_gpt2(tensors: dict, config: ModelConfig) -> dict:
    """GPT-2's names and tensors -> ours; its matrices are (in, out)."""
    ours = {"tok_emb.weight": tensors["transformer.wte.weight"], "lm_head.weight": tensors["transformer.wte.weight"]}
    ours["pos_emb.weight"] = tensors["transformer.wpe.weight"]
    names = {"norm1": "ln_1", "norm2": "ln_2"}
    names |= {"attn.qkv": "attn.c_attn", "attn.out": "attn.c_proj", "mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj"}
    for part in ("weight", "bias"):
        ours[f"norm_f.{part}"] = tensors[f"transformer.ln_f.{part}"]
        for i in range(config.n_layer):
            for mine, theirs in names.items():
                tensor = tensors[f"transformer.h.{i}.{theirs}.{part}"]
                ours[f"blocks.{i}.{mine}.{part}"] = tensor.T if tensor.dim() == 2 else tensor
    return ours


@pytest.mark.parametrize("name", CASES)
def test_logits_and_gradients_equal_transformers(name):
    torch.manual_seed(0)
    config = config_of(name)
    assert_equal(hf_model(config), from_hf, config)


def test_gpt2_by_config_equals_transformers():
    torch.manual_seed(0)
    config = gpt2_config()
    assert_equal(hf_gpt2(config), from_gpt2, config)


def assert_equal(theirs, translate, config: ModelConfig):
    ours = Transformer(config)
    ours.load_state_dict(translate(dict(theirs.named_parameters()), config))
    idx = torch.randint(0, config.vocab_size, (3, 40))
    targets = torch.randint(0, config.vocab_size, (3, 40))

    logits, expected = ours(idx), theirs(idx).logits
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)

    for x in (logits, expected):
        torch.nn.functional.cross_entropy(x.flatten(0, 1), targets.flatten()).backward()
    expected_grads = translate({key: p.grad for key, p in theirs.named_parameters()}, config)
    for key, p in ours.named_parameters():
        torch.testing.assert_close(p.grad, expected_grads[key], atol=1e-5, rtol=1e-4, msg=lambda m: f"{key}: {m}")  # noqa: B023
