"""One token of one text at a time, at the speed of memory: decoding at batch 1 on a CPU.

The same function as `Transformer.forward` for idx (1, 1), written flat. With so little arithmetic, time goes by the
number of operations, and this has half as many; and a matrix times one token is

    W x = sum over i of x_i W[:, i]

a weighted sum of the columns that `Linear` keeps contiguous. PyTorch's `embedding_bag` streams them from memory, each
thread its bag of columns; its matrix product reads a matrix of this size 3 to 5 times as slowly, on one thread.

Shapes: C d_model, H heads, K KV heads, G = H/K, D head_dim, F d_ff, V vocab, L layers, S keys in the cache.
"""

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
        self.eps = torch.tensor(c.norm_eps)
        threads = torch.get_num_threads()
        widths = {c.d_model, c.n_head * c.head_dim, c.d_ff}
        self.columns = {n: torch.arange(n) for n in widths}
        self.bag_starts = {n: torch.arange(0, n, -(-n // threads)) for n in widths}
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
            self.qk_scale = torch.stack(scales)  # (L or 1, H + K or 1, D or 1)

    def __call__(self, idx, cache):
        """idx (1, 1), the text's next token -> logits (1, 1, V)."""
        self.model.check(idx)
        with torch.inference_mode():
            logits = self._logits(idx, cache)
        return logits.clone()[None, None]  # outside inference mode, so that it may be used anywhere

    def _logits(self, idx, cache):
        model = self.model
        position, _ = cache.begin(1, 1)
        x = model.tok_emb.weight[idx[0, 0]]  # (C,)
        cos, sin = model.pos_emb.cos[position], model.pos_emb.sin[position]  # (1, D)
        # RoPE(n * w) = n * (w cos) + swap(n) * (swap(w) sin): QK-norm's weight goes into the angles, for all layers
        cos = (self.qk_scale * cos).expand(len(self.layers), -1, -1).unbind()  # L x (H + K, D)
        sin = (self.qk_scale.roll(self.head_dim // 2, -1) * sin).expand(len(self.layers), -1, -1).unbind()
        for layer, (norm1, qkv, out, norm2, gate_up, down) in enumerate(self.layers):
            heads = self._product(qkv, self._normalise(x).mul_(norm1)).view(-1, self.head_dim)  # (H + 2K, D)
            qk, v = heads[: self.n_qk], heads[self.n_qk :]
            if model.config.qk_norm:
                qk = self._normalise(qk)
            qk = (qk * cos[layer]).addcmul_(qk.roll(self.head_dim // 2, -1), sin[layer])
            k, v = cache.append(layer, qk[None, self.n_head :, None], v[None, :, None])  # (1, K, S, D)
            q = qk[: self.n_head].view(1, k.shape[1], -1, self.head_dim)  # (1, K, G, D)
            x = x + self._product(out, F.scaled_dot_product_attention(q, k, v).view(-1))
            gate, up = self._product(gate_up, self._normalise(x).mul_(norm2)).chunk(2)  # 2 x (F,)
            x = x + self._product(down, F.silu(gate).mul_(up))
        return model.lm_head.weight.mv(self._normalise(x).mul_(model.norm_f.weight))  # (V,)

    def _product(self, columns, x):
        """columns (n, m), x (n,) -> (m,)."""
        n = x.numel()
        return torch.embedding_bag(columns, self.columns[n], self.bag_starts[n], False, SUM, False, x)[0].sum(0)

    def _normalise(self, x):
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x * torch.addcmul(self.eps, norm, norm, value=1 / x.shape[-1]).rsqrt_()
