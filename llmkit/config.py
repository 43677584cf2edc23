"""The shape of a model: a frozen record of sizes and architecture switches, and a few presets.

The default architecture is Qwen3's (arXiv 2505.09388), with `qk_norm=False` Llama's (arXiv 2307.09288);
`preset("gpt2")` has the switches of GPT-2. The field's other names for the same sizes: d_model = n_embd = hidden_size,
context_length = block_size = n_ctx = max_position_embeddings, d_ff = intermediate_size, n_kv_head =
num_key_value_heads, norm_eps = rms_norm_eps = layer_norm_epsilon.
"""

import math
from dataclasses import asdict, dataclass, fields

CHOICES = {
    "norm": ("rms", "layer"),
    "mlp": ("swiglu", "gelu"),
    "positions": ("rope", "learned", "sinusoidal", "alibi", "none"),
}
SIZES = ("vocab_size", "context_length", "n_layer", "n_head", "n_kv_head", "d_model", "head_dim", "d_ff")


@dataclass(frozen=True)
class RopeScaling:
    """How RoPE is stretched for texts `factor` times as long as those it was trained on (`positions` has the formulas).

    "linear" and "ntk" need nothing more. "yarn" and "llama3" stretch the slow pairs alone, and so need the trained
    length, `original_context`: pairs that turn less than `beta_slow` times over it are stretched in full, those that
    turn more than `beta_fast` times not at all.
    """

    kind: str
    factor: float
    original_context: int | None = None
    beta_slow: float = 1.0  # Llama 3's low_freq_factor
    beta_fast: float | None = None  # None: 32 for yarn, 4 for llama3 (its high_freq_factor)
    attention_factor: float | None = None  # yarn: multiplies queries and keys; None: 0.1 ln(factor) + 1

    def __post_init__(self):
        if self.kind not in ("linear", "ntk", "yarn", "llama3"):
            raise ValueError(f"rope_scaling kind must be linear, ntk, yarn or llama3, not {self.kind!r}")
        if not (_is_positive(self.factor) and self.factor >= 1):
            raise ValueError(f"rope_scaling factor must be at least 1 (longer texts than in training): {self.factor!r}")
        by_parts = self.kind in ("yarn", "llama3")
        if by_parts and not (_is_whole(self.original_context) and self.original_context >= 1):
            raise ValueError(
                f"rope_scaling {self.kind} needs original_context, the length in tokens of the texts that the model "
                f"was trained on, not {self.original_context!r}"
            )
        if by_parts and self.beta_fast is None:
            object.__setattr__(self, "beta_fast", {"yarn": 32.0, "llama3": 4.0}[self.kind])
        betas = self.beta_slow, self.beta_fast
        if by_parts and not (all(map(_is_positive, betas)) and self.beta_slow < self.beta_fast):
            raise ValueError(f"beta_slow ({self.beta_slow!r}) must be above 0 and below beta_fast ({self.beta_fast!r})")
        if self.attention_factor is not None and (self.kind != "yarn" or not _is_positive(self.attention_factor)):
            raise ValueError(f"attention_factor ({self.attention_factor!r}) is for yarn, and above 0")


@dataclass(frozen=True)
class MoEConfig:
    """A mixture of experts in the place of each layer's MLP (`moe` computes it): a router sends every token to
    `n_active` of `n_expert` small SwiGLUs; `n_shared` more see all tokens.

    With n_active 1 and norm_weights the one weight is always 1, and the language loss cannot teach the router.
    """

    n_expert: int  # experts to choose from
    n_active: int  # experts that a token is sent to; Qwen3's num_experts_per_tok
    d_expert: int  # hidden width of one expert; moe_intermediate_size
    n_shared: int = 0  # experts of the same width that no router decides about
    norm_weights: bool = True  # a token's weights sum to one; norm_topk_prob
    capacity_factor: float | None = None  # an expert takes this many times its even share; None: all that is sent to it

    def __post_init__(self):
        for name in ("n_expert", "n_active", "d_expert"):
            _check_count(f"moe {name}", getattr(self, name))
        if self.n_active > self.n_expert:
            raise ValueError(f"moe n_active ({self.n_active}) is more than the n_expert ({self.n_expert}) there are")
        if not (_is_whole(self.n_shared) and self.n_shared >= 0):
            raise ValueError(f"moe n_shared must be a whole number, 0 or more, not {self.n_shared!r}")
        if not isinstance(self.norm_weights, bool):
            raise ValueError(f"moe norm_weights must be True or False, not {self.norm_weights!r}")
        if self.capacity_factor is not None and not _is_positive(self.capacity_factor):
            raise ValueError(
                f"moe capacity_factor must be above 0, or None to drop nothing, not {self.capacity_factor!r}"
            )


@dataclass(frozen=True)
class ModelConfig:
    """Everything that decides a model's shapes; equal configs make models with equal state dicts."""

    vocab_size: int
    context_length: int  # the longest text, in tokens, that the model reads
    n_layer: int
    n_head: int  # query heads
    n_kv_head: int  # key/value heads, each shared by n_head / n_kv_head query heads
    d_model: int
    head_dim: int  # need not be d_model / n_head
    d_ff: int  # hidden width of the MLP; with `moe` there is none
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6
    tie_embeddings: bool = True  # lm_head.weight is tok_emb.weight
    qk_norm: bool = True  # RMSNorm on each head's query and key, whatever `norm` says
    norm: str = "rms"  # or "layer"
    mlp: str = "swiglu"  # or "gelu"
    positions: str = "rope"  # or "learned", "sinusoidal", "alibi", "none"
    bias: bool = False  # in every projection but lm_head, and in LayerNorm
    sliding_window: int | None = None  # a query sees this many keys, its own included; None: all before it
    rope_scaling: RopeScaling | None = None
    moe: MoEConfig | None = None  # experts instead of one MLP, in every layer

    def __post_init__(self):
        for name in SIZES:
            _check_count(name, getattr(self, name))
        if self.sliding_window is not None:
            _check_count("sliding_window", self.sliding_window)
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}")
        for name in ("tie_embeddings", "qk_norm", "bias"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, not {getattr(self, name)!r}")
        if self.n_head % self.n_kv_head:
            raise ValueError(
                f"n_head ({self.n_head}) must be a multiple of n_kv_head ({self.n_kv_head}): "
                "each key/value head serves the same number of query heads"
            )
        for name in ("rope_theta", "norm_eps"):
            if not _is_positive(getattr(self, name)):
                raise ValueError(f"{name} must be a finite number above 0, not {getattr(self, name)!r}")
        self._check_positions()
        if self.moe is not None and not isinstance(self.moe, MoEConfig):
            raise ValueError(f"moe must be a MoEConfig or None, not {self.moe!r}")
        if self.moe is not None and (self.mlp != "swiglu" or self.bias):
            raise ValueError(
                f"experts are SwiGLUs without biases, but mlp is {self.mlp!r} and bias {self.bias}: "
                "take those with moe=None"
            )

    def _check_positions(self):
        if self.positions == "rope" and self.head_dim % 2:
            raise ValueError(f"head_dim ({self.head_dim}) must be even: RoPE turns its numbers in pairs")
        if self.positions == "sinusoidal" and self.d_model % 2:
            raise ValueError(f"d_model ({self.d_model}) must be even: sinusoidal positions pair sine and cosine")
        if self.rope_scaling is None:
            return
        if not isinstance(self.rope_scaling, RopeScaling):
            raise ValueError(f"rope_scaling must be a RopeScaling or None, not {self.rope_scaling!r}")
        if self.positions != "rope":
            raise ValueError(f"rope_scaling stretches RoPE, but positions is {self.positions!r}")
        if self.rope_scaling.kind in ("ntk", "yarn") and (self.head_dim < 4 or self.rope_theta <= 1):
            raise ValueError(
                f"rope_scaling {self.rope_scaling.kind} treats fast and slow pairs apart: it needs a head_dim of at "
                f"least 4 ({self.head_dim}) and a rope_theta above 1 ({self.rope_theta})"
            )

    def to_dict(self) -> dict:
        """The fields as plain JSON values; `ModelConfig.from_dict` is its inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "ModelConfig":
        """Build from `to_dict`'s output; an unknown or missing field is a ValueError that names it."""
        for name, part in (("rope_scaling", RopeScaling), ("moe", MoEConfig)):
            if isinstance(values.get(name), dict):
                values = {**values, name: _build(part, values[name], name)}
        return _build(cls, values, "model config")


def _build(cls, values: dict, what: str):
    known = {f.name for f in fields(cls)}
    if unknown := sorted(set(values) - known):
        raise ValueError(f"unknown {what} field(s): {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    try:
        return cls(**values)
    except TypeError as error:  # a required field is missing
        raise ValueError(f"incomplete {what}: {error}") from None


def _is_whole(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_positive(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf


def _check_count(name: str, value):
    if not _is_whole(value) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")


PRESETS = {
    # about 0.25 M parameters: tests, and drafts for speculative decoding
    "nano": dict(
        vocab_size=1024, context_length=128, n_layer=4, n_head=4, n_kv_head=2, d_model=64, head_dim=16, d_ff=176
    ),
    # 0.87 M: trains live in a lesson
    "tiny": dict(
        vocab_size=1024, context_length=256, n_layer=4, n_head=4, n_kv_head=2, d_model=128, head_dim=32, d_ff=352
    ),
    # 4.7 M: the shipped one
    "small": dict(
        vocab_size=1024, context_length=512, n_layer=6, n_head=4, n_kv_head=2, d_model=256, head_dim=64, d_ff=704
    ),
    # 124 M, GPT-2's size: for a GPU
    "medium": dict(
        vocab_size=50_304, context_length=1024, n_layer=12, n_head=12, n_kv_head=12, d_model=768, head_dim=64, d_ff=2048
    ),
    # 124 M: GPT-2 itself, the smallest of Radford et al. 2019
    "gpt2": dict(
        vocab_size=50_257,
        context_length=1024,
        n_layer=12,
        n_head=12,
        n_kv_head=12,
        d_model=768,
        head_dim=64,
        d_ff=3072,
        norm="layer",
        norm_eps=1e-5,
        mlp="gelu",
        positions="learned",
        bias=True,
        qk_norm=False,
    ),
}


def preset(name: str, **overrides) -> ModelConfig:
    """The preset called `name`, with any field overridden: `preset("tiny", vocab_size=1024)`."""
    if name not in PRESETS:
        raise ValueError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
    return ModelConfig.from_dict({**PRESETS[name], **overrides})
