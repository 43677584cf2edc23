"""The model: a decoder-only transformer of the Qwen3/Llama family (arXiv 2505.09388, 2307.09288); by config, GPT-2 too.

    x = tok_emb[idx];   x += attn(norm1(x));   x += mlp(norm2(x))   (n_layer times);   logits = lm_head(norm_f(x))

RMSNorm before each branch, RoPE, grouped-query attention with QK-norm, SwiGLU, tied embeddings, no biases: the logits
equal transformers' Qwen3ForCausalLM on the same weights (tests/parity). Departures: query/key/value and gate/up are
each one matrix (one product instead of three and two), and weights start as GPT-2's do (see `init_weights`). With
LayerNorm, learned positions, a GELU MLP and biases instead, each a class chosen by a switch of the config, they equal
GPT2LMHeadModel's; other positions, a sliding window, a stretched RoPE and experts (`moe`) are switches as well.

Shapes: B batch, T query time, S key time, C d_model, F d_ff, V vocab, L layers.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from llmkit.attention import Attention, Linear, RMSNorm, document_mask, sliding_window_mask
from llmkit.config import ModelConfig
from llmkit.kernels import swiglu
from llmkit.moe import MoE
from llmkit.positions import position_embedding


class SwiGLU(nn.Module):
    """The gated MLP of arXiv 2002.05202: down(silu(gate(x)) * up(x)), gate and up in one product."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate_up = Linear(config.d_model, 2 * config.d_ff, config.bias)  # rows: gate, up
        self.down = Linear(config.d_ff, config.d_model, config.bias)

    def forward(self, x):
        return self.down(swiglu(self.gate_up(x)))  # (B, T, 2 F) -> (B, T, F) -> (B, T, C)


class GeluMLP(nn.Module):
    """GPT-2's MLP: down(gelu(up(x))), with the tanh form of GELU (arXiv 1606.08415)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.up = Linear(config.d_model, config.d_ff, config.bias)
        self.down = Linear(config.d_ff, config.d_model, config.bias)

    def forward(self, x):
        return self.down(F.gelu(self.up(x), approximate="tanh"))  # (B, T, C)


MLPS = {"swiglu": SwiGLU, "gelu": GeluMLP}
WRITES_RESIDUAL = ("attn.out.weight", "mlp.down.weight", "mlp.down", "mlp.shared_down.weight")  # the last two: MoE


def norm(config: ModelConfig) -> nn.Module:
    """A norm over the residual stream."""
    if config.norm == "layer":
        return nn.LayerNorm(config.d_model, config.norm_eps, bias=config.bias)
    return RMSNorm(config.d_model, config.norm_eps)


class Block(nn.Module):
    """One layer: attention moves information between tokens, the MLP works on each; both add to the residual stream."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.norm1 = norm(config)
        self.attn = Attention(config)
        self.norm2 = norm(config)
        self.mlp = MLPS[config.mlp](config) if config.moe is None else MoE(config)

    def forward(self, x, angles=None, mask=None, cache=None, layer=0):
        x = x + self.attn(self.norm1(x), angles, mask, cache, layer)
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """`Transformer(config)(idx)` -> logits."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config, self.compute_dtype = config, None  # None: the dtype of the weights
        self.tok_emb = nn.Embedding(config.vocab_size, config.d_model)
        self.pos_emb = position_embedding(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm_f = norm(config)
        self.lm_head = Linear(config.d_model, config.vocab_size)
        self.init_weights()
        if config.tie_embeddings:
            self.lm_head.weight = self.tok_emb.weight

    @torch.no_grad()
    def init_weights(self):
        """Normal(0, 0.02), as GPT-2; matrices that write to the residual stream are smaller by sqrt(2L), so that the
        stream's variance at the start does not grow with depth. Norm weights start at one, biases at zero."""
        for name, weight in self.named_parameters():
            if weight.dim() >= 2:
                writes_residual = name.endswith(WRITES_RESIDUAL)
                weight.normal_(0.0, 0.02 / math.sqrt(2 * self.config.n_layer) if writes_residual else 0.02)
            elif name.endswith("bias"):
                weight.zero_()

    def compute_in(self, dtype: torch.dtype | None) -> "Transformer":
        """Mixed precision (arXiv 1710.03740): products and attention in `dtype`, say torch.bfloat16, with twice the
        speed or more where the hardware has it. Weights, gradients, norms and the residual stream stay as they are.
        None goes back. Returns the model."""
        for module in self.modules():
            if isinstance(module, (Linear, MoE)):
                module.compute_dtype = dtype
        self.compute_dtype = dtype
        return self

    def forward(self, idx, cache=None, doc_ids=None):
        """idx (B, T) int64 -> logits (B, T, V).

        doc_ids (B, T) numbers the documents of a packed row: tokens see only their own document, as if each had been
        run alone. With a `cache`, idx continues the texts that the cache holds. ValueError as `check` says.
        """
        self.check(idx, cache, doc_ids)
        c, (B, T) = self.config, idx.shape
        if cache is not None:
            positions, mask = cache.begin(B, T)
        else:
            positions = slice(0, T)
            mask = None if doc_ids is None else document_mask(doc_ids)
        if c.sliding_window is not None:
            mask = sliding_window_mask(positions, mask, c.sliding_window, idx.device)
        x = self.pos_emb.embed(self.tok_emb(idx), positions, doc_ids)  # (B, T, C)
        angles = self.pos_emb.angles(positions, c.n_head + c.n_kv_head, self.compute_dtype)
        mask = self.pos_emb.bias(positions, mask, self.compute_dtype or x.dtype)
        for layer, block in enumerate(self.blocks):
            x = block(x, angles, mask, cache, layer)
        return self.lm_head(self.norm_f(x))  # (B, T, V)

    def check(self, idx, cache=None, doc_ids=None):
        """A ValueError that says what to do, for what `forward` cannot run.

        On a CUDA GPU ids are not looked at, since the CPU would have to wait for it. An id outside the vocabulary ends
        there in "CUDA error: device-side assert triggered", perhaps only some lines later, and nothing runs on that GPU
        until the kernel is restarted: run the same batch on the CPU to be told what is wrong.
        """
        if not isinstance(idx, torch.Tensor) or idx.dim() != 2 or idx.dtype != torch.int64 or idx.numel() == 0:
            found = f"{tuple(idx.shape)} {idx.dtype}" if isinstance(idx, torch.Tensor) else f"a {type(idx).__name__}"
            raise ValueError(f"idx must be a (B, T) int64 tensor with B, T >= 1, not {found}")
        if idx.shape[1] > self.config.context_length:
            raise ValueError(
                f"a text of {idx.shape[1]} tokens does not fit the context of {self.config.context_length}: "
                "shorten it, or build the model with a larger context_length"
            )
        if idx.device.type in ("cpu", "mps"):  # Apple's GPU takes any id, and reads zeros for a wrong one
            low, high = idx.aminmax()
            if low < 0 or high >= self.config.vocab_size:
                raise ValueError(f"ids must be 0 .. {self.config.vocab_size - 1}, found {int(low)} .. {int(high)}")
        if doc_ids is not None and doc_ids.shape != idx.shape:
            raise ValueError(f"doc_ids {tuple(doc_ids.shape)} must have the shape of idx {tuple(idx.shape)}")
        if doc_ids is not None and cache is not None:
            raise ValueError("doc_ids are for packed training rows; with a cache, give each document its own row")
