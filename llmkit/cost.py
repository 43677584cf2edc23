"""What a model costs, from its config alone: parameters, floating-point operations, bytes.

A multiply-add is 2 FLOPs. A token's forward pass costs 2 for every parameter that multiplies it, and in each layer
4 H D for every key that its query sees (2 for q.k, 2 for att.v):

    forward(token)  = 2 N + 4 L H D S        training(token) = 3 x forward: the backward pass costs twice the forward

N counts the matrices, lm_head once (tied or not), and of a mixture of experts only those that the token is sent to. The
embedding lookup, norms, biases, softmax, positions and the like are not counted. S is the number of keys really seen:
(T + 1)/2 on average in a causal text of T tokens, with a sliding window never more than the window. (PaLM's
utilisation, arXiv 2204.02311 appendix B, counts S = T; ours is stricter.)

Shapes: B batch, T time, S keys, C d_model, H heads, K KV heads, D head_dim, F d_ff, V vocab, L layers, E experts.
"""

from dataclasses import dataclass

from llmkit.config import ModelConfig
from llmkit.kernels import LONGEST, n_scores


@dataclass(frozen=True)
class Parameters:
    """Parameter counts by part, biases included; `lm_head` is 0 when it is tied to the embedding."""

    embedding: int
    positions: int  # 0 unless they are learned
    attention: int
    mlp: int  # experts and routers included
    norms: int
    lm_head: int
    matmul: int  # N of the formulas: what multiplies each token
    idle: int = 0  # of `mlp`: the experts that a token is not sent to

    @property
    def total(self) -> int:
        return self.embedding + self.positions + self.attention + self.mlp + self.norms + self.lm_head

    @property
    def active(self) -> int:
        """What one token makes use of: the second number in a name such as 30B-A3B."""
        return self.total - self.idle


def parameters(config: ModelConfig) -> Parameters:
    """Exactly the model's parameters: `total` is the sum of numel() over model.parameters()."""
    c = config
    vocab_matrix = c.vocab_size * c.d_model
    hidden = 2 * c.d_ff if c.mlp == "swiglu" else c.d_ff  # gate and up; up alone
    qkv = (c.n_head + 2 * c.n_kv_head) * c.head_dim
    attention = c.n_layer * (qkv + c.n_head * c.head_dim) * c.d_model
    mlp, idle = c.n_layer * (hidden + c.d_ff) * c.d_model, 0
    if c.moe:
        idle = c.n_layer * (c.moe.n_expert - c.moe.n_active) * expert_parameters(c)
        mlp = c.n_layer * ((c.moe.n_active + c.moe.n_shared) * expert_parameters(c) + c.moe.n_expert * c.d_model) + idle
    attention_bias = c.n_layer * (qkv + c.d_model) * c.bias
    mlp_bias = c.n_layer * (hidden + c.d_model) * c.bias
    norm = c.d_model * (2 if c.norm == "layer" and c.bias else 1)
    return Parameters(
        embedding=vocab_matrix,
        positions=c.context_length * c.d_model if c.positions == "learned" else 0,
        attention=attention + attention_bias,
        mlp=mlp + mlp_bias,
        norms=c.n_layer * (2 * norm + 2 * c.head_dim * c.qk_norm) + norm,
        lm_head=0 if c.tie_embeddings else vocab_matrix,
        matmul=attention + mlp - idle + vocab_matrix,
        idle=idle,
    )


def expert_parameters(config: ModelConfig) -> int:
    """Parameters of one expert: gate, up and down."""
    return 3 * config.moe.d_expert * config.d_model


@dataclass(frozen=True)
class Flops:
    """Floating-point operations, by where they go."""

    matmul: int
    attention: int

    @property
    def total(self) -> int:
        return self.matmul + self.attention


def forward_flops(config: ModelConfig, t: int, past: int = 0) -> Flops:
    """FLOPs of the forward pass over `t` tokens of one text whose first `past` tokens are already cached.

    Assignments that a capacity drops are counted, as `moe` computes them."""
    keys = keys_seen(config, past + t) - keys_seen(config, past)
    return Flops(
        matmul=2 * parameters(config).matmul * t,
        attention=4 * config.n_layer * config.n_head * config.head_dim * keys,
    )


def keys_seen(config: ModelConfig, t: int) -> int:
    """Pairs of a query and a key that it sees, in one text of `t` tokens: t (t + 1) / 2, or fewer with a window."""
    near = min(t, config.sliding_window or t)  # the first tokens see all before them, the others a full window
    return near * (near + 1) // 2 + (t - near) * near


def training_flops(config: ModelConfig, t: int) -> Flops:
    """FLOPs of forward and backward over one text of `t` tokens; divide by `t` for a token's: 6 N + 6 L H D (t + 1), if
    no window is shorter than the text."""
    forward = forward_flops(config, t)
    return Flops(matmul=3 * forward.matmul, attention=3 * forward.attention)


def weight_bytes(config: ModelConfig, bytes_per_number: int = 4) -> int:
    """Bytes that the weights take."""
    return parameters(config).total * bytes_per_number


def kv_cache_bytes(config: ModelConfig, batch_size: int, length: int, bytes_per_number: int = 4) -> int:
    """Bytes of the keys and values that the next token of `batch_size` texts of `length` tokens may look at: with a
    sliding window no more than the window's (`cache.KVCache` keeps the older ones too)."""
    length = min(length, config.sliding_window or length)
    return 2 * config.n_layer * batch_size * config.n_kv_head * length * config.head_dim * bytes_per_number


def decode_bytes(config: ModelConfig, batch_size: int, length: int, bytes_per_number: int = 4) -> int:
    """Bytes that one decoding step must at least read: every matrix once, and the cache. Over the machine's memory
    bandwidth this is the shortest possible time of a step.

    Of E experts, k active, one text needs k; B texts, if each chooses at random, E (1 - (1 - k/E)^B) on average.
    """
    numbers = parameters(config).matmul
    if config.moe:
        n, k = config.moe.n_expert, config.moe.n_active
        needed = n * (1 - (1 - k / n) ** batch_size)
        numbers += round(config.n_layer * (needed - k) * expert_parameters(config))
    return numbers * bytes_per_number + kv_cache_bytes(config, batch_size, length, bytes_per_number)


@dataclass(frozen=True)
class Memory:
    """Bytes of a training step, by what holds them."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations


def training_memory(config: ModelConfig, batch_size: int, t: int, bytes_per_number: int = 4) -> Memory:
    """An estimate of a training step's peak: weights, their gradients, AdamW's two moments, and what autograd keeps of
    the forward pass of `batch_size` texts of `t` tokens. Workspaces and the framework itself are not in it. On a GPU,
    and with numbers of 2 bytes, attention keeps less: only a mask."""
    c, weights = config, weight_bytes(config, bytes_per_number)
    queries, keys = c.n_head * c.head_dim, c.n_kv_head * c.head_dim
    mlp = (4 if c.mlp == "swiglu" else 2) * c.d_ff  # gate, up, silu(gate), their product; up, gelu(up)
    if c.moe:  # of each expert: what goes in, five of its width (one more for the weights), what comes out, who; probs
        mlp = c.moe.n_active * (2 * c.d_model + 5 * c.moe.d_expert + 8) + c.moe.n_expert
        mlp += 4 * c.moe.n_shared * c.moe.d_expert
    per_layer = (
        4 * c.d_model  # both norms: x / rms(x) (LayerNorm: x), and the output
        + queries + 2 * keys  # the projections; of these the values stay as they are
        + (queries + keys) * (2 if c.qk_norm else c.positions == "rope")  # x / rms(x); what RoPE or the norm makes
        + queries  # attention's output
        + mlp
    )  # fmt: skip
    per_token = c.n_layer * per_layer + 2 * c.d_model + 2 * c.vocab_size  # norm_f; logits and their log-softmax
    windowed = c.sliding_window is not None and c.sliding_window < t
    masks = c.n_head if c.positions == "alibi" else int(windowed)  # of (T, T) numbers, the same for all layers and rows
    if bytes_per_number == 4 and t <= LONGEST:  # attention in blocks, see `kernels`
        attention = batch_size * c.n_layer * c.n_head * n_scores(t)
    else:
        attention = masks * t * t
    numbers = batch_size * t * per_token + attention
    return Memory(weights, weights, 2 * weights, numbers * bytes_per_number)
