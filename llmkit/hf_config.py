"""Hugging Face's config.json: the architectures that this course's model holds, as its switches and sizes.

    read_config(values) -> ("llama", ModelConfig(...))        write_config(ModelConfig(...)) -> ("qwen3", values)

Llama (arXiv 2302.13971), Qwen3 and Qwen3-MoE (2505.09388), and GPT-2. A config.json holds many settings, most of which
do not touch the logits; those that do are either translated or required to be what the model does. RoPE's settings are
read in both their forms (`rope_theta` and `rope_scaling`; since version 5 of transformers `rope_parameters`) and
written in the older one, which every version reads. NTK scaling is written as the larger theta that it is.
"""

from llmkit.checkpoint import CheckpointError
from llmkit.config import ModelConfig, MoEConfig, RopeScaling

CLASSES = {
    "llama": "LlamaForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "gpt2": "GPT2LMHeadModel",
}
_LLAMA_SWITCHES = dict(norm="rms", mlp="swiglu", positions="rope")
SWITCHES = {  # fields of ModelConfig that an architecture fixes
    "qwen3_moe": _LLAMA_SWITCHES | dict(qk_norm=True, bias=False, sliding_window=None),
    "qwen3": _LLAMA_SWITCHES | dict(qk_norm=True, bias=False, moe=None),
    "llama": _LLAMA_SWITCHES | dict(qk_norm=False, sliding_window=None, moe=None),
    "gpt2": dict(norm="layer", mlp="gelu", positions="learned", qk_norm=False, bias=True, sliding_window=None),
}
_LLAMA_FIELDS = dict(  # ours = theirs
    vocab_size="vocab_size",
    context_length="max_position_embeddings",
    n_layer="num_hidden_layers",
    n_head="num_attention_heads",
    n_kv_head="num_key_value_heads",
    d_model="hidden_size",
    head_dim="head_dim",
    d_ff="intermediate_size",
    norm_eps="rms_norm_eps",
    tie_embeddings="tie_word_embeddings",
)
_GPT2_FIELDS = dict(
    vocab_size="vocab_size",
    context_length="n_positions",
    n_layer="n_layer",
    n_head="n_head",
    d_model="n_embd",
    d_ff="n_inner",
    norm_eps="layer_norm_epsilon",
    tie_embeddings="tie_word_embeddings",
)
FIELDS = {"llama": _LLAMA_FIELDS, "qwen3": _LLAMA_FIELDS, "qwen3_moe": _LLAMA_FIELDS, "gpt2": _GPT2_FIELDS}
MOE_FIELDS = dict(  # of MoEConfig
    n_expert="num_experts",
    n_active="num_experts_per_tok",
    d_expert="moe_intermediate_size",
    norm_weights="norm_topk_prob",
)
REQUIRED = {  # settings that change the function: what they must be, the value of a file that is silent first
    "llama": dict(hidden_act=["silu"]),
    "qwen3": dict(hidden_act=["silu"], attention_bias=[False]),
    "qwen3_moe": dict(  # experts in every layer
        hidden_act=["silu"],
        attention_bias=[False],
        use_sliding_window=[False],
        decoder_sparse_step=[1],
        mlp_only_layers=[[], None],
    ),
    "gpt2": dict(
        activation_function=["gelu_new", "gelu_pytorch_tanh"],
        scale_attn_weights=[True],
        scale_attn_by_inverse_layer_idx=[False],
        add_cross_attention=[False],
    ),
}


def read_config(values: dict) -> tuple[str, ModelConfig]:
    """The architecture's name, and the config of the model that is the same function. CheckpointError, which names the
    setting, for an architecture or a setting that this model has not."""
    family, classes = values.get("model_type"), values.get("architectures") or []
    if family not in list(CLASSES) or classes not in ([], [CLASSES[family]]):  # of whatever type the file has them
        name = classes[0] if classes and isinstance(classes, list) else classes or family
        raise CheckpointError(f"the architecture {name} is not one of those read here: {', '.join(CLASSES.values())}")
    if values.get("quantization_config"):
        raise CheckpointError("the weights are quantized: load the original model, and quantize it here")
    for name, allowed in REQUIRED[family].items():
        if values.get(name, allowed[0]) not in allowed:
            raise CheckpointError(f"{family} with {name} {values[name]!r} is not read here, only with {allowed[0]!r}")
    try:
        values = _silent(family, values) | {name: value for name, value in values.items() if value is not None}
        fields = {ours: values[theirs] for ours, theirs in FIELDS[family].items()}
        fields |= SWITCHES[family]
        if family == "gpt2":
            fields |= dict(n_kv_head=fields["n_head"], head_dim=fields["d_model"] // fields["n_head"])
        else:
            fields["rope_theta"], fields["rope_scaling"] = _read_rope(values)
        if family == "llama":
            fields["bias"] = _read_bias(values)
        if family == "qwen3":
            fields["sliding_window"] = _read_window(values)
        if family == "qwen3_moe":
            fields["moe"] = MoEConfig(**{ours: values[theirs] for ours, theirs in MOE_FIELDS.items()})
        return family, ModelConfig(**fields)
    except KeyError as error:
        raise CheckpointError(f"{error.args[0]} is missing") from None
    except (AttributeError, TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(str(error)) from None


def _silent(family: str, values: dict) -> dict:
    """What a file means that does not say it."""
    if family == "gpt2":
        width = values.get("n_embd")
        return dict(n_inner=width and 4 * width, layer_norm_epsilon=1e-5, tie_word_embeddings=True)
    heads, width = values.get("num_attention_heads"), values.get("hidden_size")
    common = dict(num_key_value_heads=heads, rms_norm_eps=1e-6, tie_word_embeddings=False)
    if family == "qwen3_moe":
        common["norm_topk_prob"] = False
        common |= {"num_experts": values["num_local_experts"]} if "num_local_experts" in values else {}  # its new name
    return common | dict(head_dim=128 if family == "qwen3" else heads and width and width // heads)


def _read_bias(values: dict) -> bool:
    attention, mlp = values.get("attention_bias", False), values.get("mlp_bias", False)
    if attention != mlp:
        raise ValueError(f"attention_bias is {attention} and mlp_bias {mlp}: here all projections have biases, or none")
    return attention


def _read_window(values: dict) -> int | None:
    window = values.get("sliding_window") if values.get("use_sliding_window") else None
    kinds = values.get("layer_types")
    if kinds is None:
        first = values.get("max_window_layers", 28) if window else values["num_hidden_layers"]
        kinds = ["full_attention" if i < first else "sliding_attention" for i in range(values["num_hidden_layers"])]
    if len(set(kinds)) > 1 or set(kinds) - {"full_attention", "sliding_attention"}:
        raise ValueError(f"layers of several kinds ({', '.join(sorted(set(kinds)))}) are not read here")
    return window if "sliding_attention" in kinds else None


def _read_rope(values: dict) -> tuple[float, RopeScaling | None]:
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    theta = float(rope.get("rope_theta", values.get("rope_theta", 10_000.0)))
    kind = rope.get("rope_type", rope.get("type", "default"))
    trained = rope.get("original_max_position_embeddings", values["max_position_embeddings"])
    by_layer = any(isinstance(value, dict) for value in rope.values())
    if kind not in ("default", "linear", "yarn", "llama3") or rope.get("truncate", True) is not True or by_layer:
        raise ValueError(f"RoPE of the type {kind!r}, {rope}, is not read here")
    if rope.get("partial_rotary_factor", values.get("partial_rotary_factor", 1.0)) != 1.0:
        raise ValueError("RoPE on a part of each head (partial_rotary_factor) is not read here")
    match kind:
        case "default":
            return theta, None
        case "linear":
            return theta, RopeScaling("linear", rope["factor"])
        case "llama3":
            slow, fast = rope["low_freq_factor"], rope["high_freq_factor"]
            return theta, RopeScaling("llama3", rope["factor"], trained, slow, fast)
    factor = rope.get("factor") or values["max_position_embeddings"] / trained
    size = rope.get("attention_factor")
    if size is None and rope.get("mscale") and rope.get("mscale_all_dim"):
        raise ValueError("YaRN with mscale and mscale_all_dim is not read here: write attention_factor instead")
    slow, fast = rope.get("beta_slow") or 1.0, rope.get("beta_fast") or 32.0
    return theta, RopeScaling("yarn", factor, trained, slow, fast, size)


def write_config(config: ModelConfig) -> tuple[str, dict]:
    """The architecture's name and the values of a config.json; CheckpointError if none of them is such a model."""
    values = config.to_dict()
    differs = {
        family: [name for name, value in switches.items() if values[name] != value]
        for family, switches in SWITCHES.items()
    }
    if config.n_kv_head != config.n_head or config.head_dim * config.n_head != config.d_model:
        differs["gpt2"].append("n_kv_head" if config.n_kv_head != config.n_head else "head_dim")
    if config.moe is None:
        differs["qwen3_moe"].append("moe")
    else:
        values |= values["moe"]
        differs["qwen3_moe"] += [name for name in ("n_shared", "capacity_factor") if values[name]][:1]
    family = min(differs, key=lambda name: len(differs[name]))
    if differs[family]:
        name = differs[family][0]
        raise CheckpointError(
            f"no architecture that is written here has {name} {values[name]!r}: {CLASSES[family]} comes nearest"
        )
    if family == "llama" and config.d_model % config.n_head:
        raise CheckpointError(
            f"d_model ({config.d_model}) is no multiple of n_head ({config.n_head}), which transformers asks of a Llama"
        )
    written = {theirs: values[ours] for ours, theirs in FIELDS[family].items()}
    written |= {name: allowed[0] for name, allowed in REQUIRED[family].items()}
    written |= dict(model_type=family, architectures=[CLASSES[family]])
    if family != "gpt2":
        written["rope_theta"], written["rope_scaling"] = _write_rope(config)
    if family == "llama":
        written |= dict(attention_bias=config.bias, mlp_bias=config.bias)
    if family == "qwen3_moe":
        written |= {theirs: values[ours] for ours, theirs in MOE_FIELDS.items()}
    if family == "qwen3":
        window = config.sliding_window
        layer_type = "full_attention" if window is None else "sliding_attention"
        written |= dict(use_sliding_window=window is not None, sliding_window=window, max_window_layers=0)
        written |= dict(layer_types=[layer_type] * config.n_layer)
    return family, written


def _write_rope(config: ModelConfig) -> tuple[float, dict | None]:
    scaling, d = config.rope_scaling, config.head_dim
    if scaling is None:
        return config.rope_theta, None
    if scaling.kind == "ntk":
        return config.rope_theta * scaling.factor ** (d / (d - 2)), None
    rope = {"rope_type": scaling.kind, "factor": float(scaling.factor)}
    if scaling.kind != "linear":
        rope["original_max_position_embeddings"] = scaling.original_context
    if scaling.kind == "llama3":
        rope |= dict(low_freq_factor=float(scaling.beta_slow), high_freq_factor=float(scaling.beta_fast))
    if scaling.kind == "yarn":
        rope |= dict(beta_slow=float(scaling.beta_slow), beta_fast=float(scaling.beta_fast))
        rope |= {} if scaling.attention_factor is None else dict(attention_factor=scaling.attention_factor)
    return config.rope_theta, rope
