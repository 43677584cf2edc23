"""The shape of a model: a frozen record of sizes, and a few presets.

The default architecture is Qwen3's (arXiv 2505.09388), with `qk_norm=False` Llama's (arXiv 2307.09288).
The field's other names for the same sizes: d_model = n_embd = hidden_size, context_length = block_size = n_ctx
= max_position_embeddings, d_ff = intermediate_size, n_kv_head = num_key_value_heads, norm_eps = rms_norm_eps.
"""

from dataclasses import asdict, dataclass, fields


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
    d_ff: int
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6
    tie_embeddings: bool = True  # lm_head.weight is tok_emb.weight
    qk_norm: bool = True

    def __post_init__(self):
        for name in ("vocab_size", "context_length", "n_layer", "n_head", "n_kv_head", "d_model", "head_dim", "d_ff"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")
        if self.n_head % self.n_kv_head:
            raise ValueError(
                f"n_head ({self.n_head}) must be a multiple of n_kv_head ({self.n_kv_head}): "
                "each key/value head serves the same number of query heads"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim ({self.head_dim}) must be even: RoPE turns its numbers in pairs")
        if not self.rope_theta > 0 or not self.norm_eps > 0:
            raise ValueError(f"rope_theta ({self.rope_theta}) and norm_eps ({self.norm_eps}) must be above 0")

    def to_dict(self) -> dict:
        """The fields as plain JSON values; `ModelConfig.from_dict` is its inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "ModelConfig":
        """Build from `to_dict`'s output; an unknown or missing field is a ValueError that names it."""
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"unknown model config field(s): {', '.join(unknown)}; known: {', '.join(sorted(known))}")
        try:
            return cls(**values)
        except TypeError as error:  # a required field is missing
            raise ValueError(f"incomplete model config: {error}") from None


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
}


def preset(name: str, **overrides) -> ModelConfig:
    """The preset called `name`, with any field overridden: `preset("tiny", vocab_size=1024)`."""
    if name not in PRESETS:
        raise ValueError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
    return ModelConfig.from_dict({**PRESETS[name], **overrides})
