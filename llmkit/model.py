"""The model: a decoder-only transformer of the Qwen3/Llama family (arXiv 2505.09388, 2307.09288).

    x = tok_emb[idx];   x += attn(norm1(x));   x += mlp(norm2(x))   (n_layer times);   logits = lm_head(norm_f(x))

RMSNorm before each branch, RoPE, grouped-query attention with QK-norm, SwiGLU, tied embeddings, no biases: the logits
equal transformers' Qwen3ForCausalLM on the same weights (tests/parity). Departures: query/key/value and gate/up are
each one matrix (one product instead of three and two), and weights start as GPT-2's do (see `init_weights`).

Shapes: B batch, T query time, S key time, C d_model, F d_ff, V vocab, L layers.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from llmkit.attention import Attention, Linear, RMSNorm, document_mask
from llmkit.config import ModelConfig
from llmkit.positions import RoPE


class SwiGLU(nn.Module):
    """The gated MLP of arXiv 2002.05202: down(silu(gate(x)) * up(x)), gate and up in one product."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate_up = Linear(config.d_model, 2 * config.d_ff)  # rows: gate, up
        self.down = Linear(config.d_ff, config.d_model)

    def forward(self, x):
        gate, up = self.gate_up(x).chunk(2, dim=-1)  # 2 x (B, T, F)
        return self.down(F.silu(gate) * up)  # (B, T, C)


class Block(nn.Module):
    """One layer: attention moves information between tokens, the MLP works on each; both add to the residual stream."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.norm1 = RMSNorm(config.d_model, config.norm_eps)
        self.attn = Attention(config)
        self.norm2 = RMSNorm(config.d_model, config.norm_eps)
        self.mlp = SwiGLU(config)

    def forward(self, x, angles, mask=None, cache=None, layer=0):
        x = x + self.attn(self.norm1(x), angles, mask, cache, layer)
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """`Transformer(config)(idx)` -> logits."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config, self.compute_dtype = config, None  # None: the dtype of the weights
        self.tok_emb = nn.Embedding(config.vocab_size, config.d_model)
        self.rope = RoPE(config.head_dim, config.context_length, config.rope_theta)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm_f = RMSNorm(config.d_model, config.norm_eps)
        self.lm_head = Linear(config.d_model, config.vocab_size)
        self.init_weights()
        if config.tie_embeddings:
            self.lm_head.weight = self.tok_emb.weight

    @torch.no_grad()
    def init_weights(self):
        """Normal(0, 0.02), as GPT-2; the 2L matrices that write to the residual stream are smaller by sqrt(2L), so that
        the stream's variance at the start does not grow with depth. Norm weights start at one."""
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                writes_residual = name.endswith(("attn.out.weight", "mlp.down.weight"))
                weight.normal_(0.0, 0.02 / math.sqrt(2 * self.config.n_layer) if writes_residual else 0.02)

    def compute_in(self, dtype: torch.dtype | None) -> "Transformer":
        """Mixed precision (arXiv 1710.03740): products and attention in `dtype`, say torch.bfloat16, with twice the
        speed or more where the hardware has it. Weights, gradients, norms and the residual stream stay as they are.
        None goes back. Returns the model."""
        for module in self.modules():
            if isinstance(module, Linear):
                module.compute_dtype = dtype
        self.compute_dtype = dtype
        return self

    def forward(self, idx, cache=None, doc_ids=None):
        """idx (B, T) int64 -> logits (B, T, V).

        doc_ids (B, T) numbers the documents of a packed row: tokens see only their own document, as if each had been
        run alone. With a `cache`, idx continues the texts that the cache holds.
        """
        self.check(idx, cache, doc_ids)
        B, T = idx.shape
        if cache is not None:
            positions, mask = cache.begin(B, T)
        else:
            positions = slice(0, T)
            mask = None if doc_ids is None else document_mask(doc_ids)
        x = self.tok_emb(idx)  # (B, T, C)
        angles = self.rope(positions, self.config.n_head + self.config.n_kv_head, self.compute_dtype)
        for layer, block in enumerate(self.blocks):
            x = block(x, angles, mask, cache, layer)
        return self.lm_head(self.norm_f(x))  # (B, T, V)

    def check(self, idx, cache=None, doc_ids=None):
        """A ValueError that says what to do, for what `forward` cannot run."""
        if idx.dim() != 2 or idx.dtype != torch.int64 or idx.shape[1] == 0:
            raise ValueError(f"idx must be (B, T) int64 with T >= 1, not {tuple(idx.shape)} {idx.dtype}")
        if idx.shape[1] > self.config.context_length:
            raise ValueError(
                f"a text of {idx.shape[1]} tokens does not fit the context of {self.config.context_length}: "
                "shorten it, or build the model with a larger context_length"
            )
        low, high = idx.aminmax()
        if low < 0 or high >= self.config.vocab_size:
            raise ValueError(f"ids must be 0 .. {self.config.vocab_size - 1}, found {int(low)} .. {int(high)}")
        if doc_ids is not None and doc_ids.shape != idx.shape:
            raise ValueError(f"doc_ids {tuple(doc_ids.shape)} must have the shape of idx {tuple(idx.shape)}")
        if doc_ids is not None and cache is not None:
            raise ValueError("doc_ids are for packed training rows; with a cache, give each document its own row")
