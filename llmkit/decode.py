"""One token of one text at a time, at the speed of memory: decoding at batch 1 on a CPU.

The same function as `Transformer.forward` for idx (1, 1), written flat. With so little arithmetic, time goes by the
number of operations, and this has half as many; and a matrix times one token is

    W x = sum over i of x_i W[:, i]

a weighted sum of the columns that `Linear` keeps contiguous. PyTorch's `embedding_bag` streams them from memory, each
thread its bag of columns; its matrix product reads a matrix of this size 3 to 5 times as slowly, on one thread.

Shapes: C d_model, H heads, K KV heads, G = H/K, D head_dim, F d_ff, V vocab, L layers, S keys in the cache.
"""

import math

import torch
import torch.nn.functional as F

from llmkit.attention import Attention, Linear, RMSNorm
from llmkit.model import Block, SwiGLU, Transformer
from llmkit.positions import RoPE

PLAIN = (Transformer, Block, Attention, SwiGLU, Linear, RMSNorm, RoPE)
PLAIN += (torch.nn.Linear, torch.nn.Embedding, torch.nn.ModuleList)
SUM = 0  # embedding_bag's mode


def decoder(model, batch_size: int):
    """What to call as `f(idx (B, 1), cache) -> logits (B, 1, V)` while generating: the fast way where it applies (one
    text, float32 on an x86 CPU, no module replaced and no hook set), elsewhere the model itself."""
    weight = model.tok_emb.weight
    applies = (
        batch_size == 1
        and weight.is_cpu
        and weight.dtype == torch.float32
        and model.compute_dtype is None
        and not (model.config.bias or model.config.sliding_window)
        and torch.backends.cpu.get_cpu_capability().startswith("AVX")
        and all(type(m) in PLAIN and not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())
    )
    return Decoder(model) if applies else model


class Decoder:
    """Views of a model's weights, in the order of their use; nothing is copied but the small QK-norm weights."""

    def __init__(self, model: Transformer):
        self.model, c = model, model.config
        self.n_qk, self.n_head, self.head_dim = c.n_head + c.n_kv_head, c.n_head, c.head_dim
        self.q_shape = (1, c.n_kv_head, c.n_head // c.n_kv_head, c.head_dim)  # (1, K, G, D)
        self.eps, self.zeros = torch.tensor(c.norm_eps), torch.zeros(c.d_model)
        threads = torch.get_num_threads()
        widths = {c.d_model, c.n_head * c.head_dim, c.d_ff}
        self.bags = {n: (torch.arange(n), torch.arange(0, n, -(-n // threads))) for n in widths}  # columns, starts
        self.ones = {n: torch.ones(len(starts)) for n, (_, starts) in self.bags.items()}
        with torch.no_grad():
            self.layers = [
                (
                    block.norm1.weight,
                    block.attn.qkv.weight.t(),  # (C, (H + 2K) D)
                    block.attn.out.weight.t(),
                    block.norm2.weight,
                    block.mlp.gate_up.weight.t(),  # (C, 2 F)
                    block.mlp.down.weight.t(),
                )
                for block in model.blocks
            ]
            scales = [block.attn.qk_weight() for block in model.blocks] if c.qk_norm else [torch.ones(1, 1)]
            # RoPE(n * w) = n * (w cos) + swap(n) * (swap(w) sin): QK-norm's weight w goes into the angles
            self.qk_scale = torch.stack(scales).expand(c.n_layer, -1, -1)  # (L, H + K or 1, D or 1)
            self.qk_scale_swapped = self.qk_scale.roll(c.head_dim // 2, -1)

    def __call__(self, idx, cache):
        """idx (1, 1), the text's next token -> logits (1, 1, V)."""
        self.model.check(idx)
        with torch.inference_mode():
            logits = self._logits(int(idx), cache)
        return logits.clone()[None, None]  # outside inference mode, so that it may be used anywhere

    def _logits(self, token, cache):
        slot = cache.begin(1, 1)[0].start
        new = cache.kv.select(3, slot).unbind()  # 2L x (1, K, D): where this token's keys and values go
        kept = cache.kv.narrow(3, 0, slot + 1).unbind()  # 2L x (1, K, S, D): those of the text, this token's included
        x = self.model.tok_emb.weight[token]  # (C,)
        cos = (self.qk_scale * self.model.pos_emb.cos[slot]).unbind()  # L x (H + K or 1, D)
        sin = (self.qk_scale_swapped * self.model.pos_emb.sin[slot]).unbind()
        for layer, (norm1, qkv, out, norm2, gate_up, down) in enumerate(self.layers):
            heads = self._product(qkv, self._rms_norm(x, norm1)).sum(0).view(-1, self.head_dim)  # (H + 2K, D)
            qk = heads[: self.n_qk]
            if self.model.config.qk_norm:
                size = torch.linalg.vector_norm(qk, dim=-1, keepdim=True)
                qk = qk * torch.addcmul(self.eps, size, size, value=1 / self.head_dim).rsqrt_()
            qk = (qk * cos[layer]).addcmul_(qk.roll(self.head_dim // 2, -1), sin[layer])
            new[2 * layer].copy_(qk[self.n_head :])
            new[2 * layer + 1].copy_(heads[self.n_qk :])
            q, k, v = qk[: self.n_head].view(self.q_shape), kept[2 * layer], kept[2 * layer + 1]
            x = self._add_product(x, out, F.scaled_dot_product_attention(q, k, v).view(-1))
            gate, up = self._product(gate_up, self._rms_norm(x, norm2)).sum(0).chunk(2)  # 2 x (F,)
            x = self._add_product(x, down, F.silu(gate).mul_(up))
        return self.model.lm_head.weight.mv(self._rms_norm(x, self.model.norm_f.weight))  # (V,)

    def _product(self, columns, x):
        """columns (n, m), x (n,) -> one row a bag, (bags, m); their sum is the product."""
        numbers, starts = self.bags[len(x)]
        return torch.embedding_bag(columns, numbers, starts, False, SUM, False, x)[0]

    def _add_product(self, resid, columns, x):
        return torch.addmv(resid, self._product(columns, x).t(), self.ones[len(x)])  # (C,)

    def _rms_norm(self, x, weight):
        """x (C,). The scale is an ordinary Python number: less work than four operations on tensors of one element."""
        scale = 1 / math.sqrt(x.dot(x).item() / len(x) + self.model.config.norm_eps)
        return torch.addcmul(self.zeros, x, weight, value=scale)
