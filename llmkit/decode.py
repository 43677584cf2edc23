"""One token of one text at a time, at the speed of memory: decoding at batch 1 on a CPU.

The same function as `Transformer.forward` for idx (1, 1), written flat. With so little arithmetic, time goes by the
number of operations, and this has a third as many; and a matrix times one token is

    W x = sum over i of x_i W[:, i]

a weighted sum of the columns that `Linear` keeps contiguous. PyTorch's `embedding_bag` streams them from memory, each
thread its bag of columns; its matrix product reads a matrix of this size 3 to 5 times as slowly, on one thread.
Attention is two small products: the fused kernel, made for long queries, takes three times as long for one token.

All that scales queries and keys (QK-norm's weight w, 1/sqrt(D)) goes into RoPE's angles, once for all layers:
    RoPE(n * w) = n * (w cos) + swap(n) * (swap(w) sin),    n = x / rms(x) = sqrt(D) x / hypot(|x|, sqrt(D eps))

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
    text, float32 on an x86 CPU, no module or its `forward` replaced, no hook set), elsewhere the model itself."""
    weight = model.tok_emb.weight
    applies = (
        batch_size == 1
        and weight.is_cpu
        and weight.dtype == torch.float32
        and model.compute_dtype is None
        and not (model.config.bias or model.config.sliding_window)
        and torch.backends.cpu.get_cpu_capability().startswith("AVX")
        and all(map(_is_untouched, model.modules()))
    )
    return Decoder(model) if applies else model


def _is_untouched(module) -> bool:
    own_forward = "forward" in vars(module)  # set on the module, in the place of its class's
    return type(module) in PLAIN and not (own_forward or module._forward_hooks or module._forward_pre_hooks)


class Decoder:
    """A model's weights, in the order of their use, as they are when this is made, once a text.

    They are views, and plain tensors: PyTorch takes longer to look through a `Parameter`, and there are 40 a token.
    Copied are QK-norm's weights, RoPE's tables and an output matrix that is tied to the embedding, whose columns lie
    apart there: that takes half as long as one token.
    """

    def __init__(self, model: Transformer):
        self.model, c = model, model.config
        self.n_qk, self.head_dim = c.n_head + c.n_kv_head, c.head_dim
        self.sizes = c.n_head, 2 * c.n_kv_head  # heads' rows: queries; keys and values
        self.q_shape = c.n_kv_head, c.n_head // c.n_kv_head, c.head_dim  # (K, G, D)
        self.new_shape = c.n_layer, 2 * c.n_kv_head, c.head_dim
        self.root_d_eps, self.zeros = torch.tensor(math.sqrt(c.head_dim * c.norm_eps)), torch.zeros(c.d_model)
        threads = torch.get_num_threads()
        widths = {c.d_model, c.n_head * c.head_dim, c.d_ff}
        self.bags = {n: (torch.arange(n), torch.arange(0, n, -(-n // threads))) for n in widths}  # columns, starts
        self.ones = {n: torch.ones(len(starts)) for n, (_, starts) in self.bags.items()}
        self.layers = [
            (
                block.norm1.weight.detach(),
                block.attn.qkv.weight.detach().t(),  # (C, (H + 2K) D)
                block.attn.out.weight.detach().t(),
                block.norm2.weight.detach(),
                block.mlp.gate_up.weight.detach().t(),  # (C, 2 F)
                block.mlp.down.weight.detach().t(),
            )
            for block in model.blocks
        ]
        self.tok_emb, self.norm_f = model.tok_emb.weight.detach(), model.norm_f.weight.detach()
        self.head = model.lm_head.weight.detach().t().contiguous()  # (C, V)
        scales = self._scales()
        self.scales = torch.stack((scales, scales.roll(c.head_dim // 2, -1)))  # (2, L, H + K, D)
        self.turns = torch.stack((model.pos_emb.cos, model.pos_emb.sin))[:, :, None, None]  # (2, S_max, 1, 1, D)

    @torch.no_grad()
    def _scales(self):
        """(L, H + K, D): what the queries' and keys' numbers are multiplied by before RoPE, besides `_heads`' norm."""
        c = self.model.config
        scales = torch.ones(c.n_layer, self.n_qk, c.head_dim)
        if c.qk_norm:
            scales = math.sqrt(c.head_dim) * torch.stack([block.attn.qk_weight() for block in self.model.blocks])
        scales[:, : c.n_head] /= math.sqrt(c.head_dim)
        return scales

    def __call__(self, idx, cache):
        """idx (1, 1), the text's next token -> logits (1, 1, V)."""
        token = idx.item()
        if not 0 <= token < self.model.config.vocab_size:
            self.model.check(idx)  # raises, with the reason
        with torch.inference_mode():
            logits = self._logits(token, cache)
        return logits.clone()[None, None]  # outside inference mode, so that it may be used anywhere

    def _logits(self, token, cache):
        slot, kv = cache.begin(1, 1)[0].start, cache.kv[:, 0]  # (2L, K, S_max, D)
        new = kv.select(2, slot).view(self.new_shape).unbind()  # L x (2K, D): this token's keys and values
        kept = kv.narrow(2, 0, slot + 1)  # (2L, K, S, D): those of the text, this token's included
        keys, values = kept[::2].mT.unbind(), kept[1::2].unbind()  # L x (K, D, S), L x (K, S, D)
        cos, sin = (angles.unbind() for angles in (self.scales * self.turns[:, slot]).unbind())  # L x (H + K, D) each
        x = self.tok_emb[token]  # (C,)
        for layer, (norm1, qkv, out, norm2, gate_up, down) in enumerate(self.layers):
            heads = self._product(qkv, self._rms_norm(x, norm1)).sum(0).view(-1, self.head_dim)  # (H + 2K, D)
            self._norm_and_rotate(heads[: self.n_qk], cos[layer], sin[layer])
            q, new_kv = heads.split_with_sizes(self.sizes)
            new[layer].copy_(new_kv)
            att = torch.bmm(q.view(self.q_shape), keys[layer]).softmax(-1)  # (K, G, S)
            x = self._add_product(x, out, torch.bmm(att, values[layer]).view(-1))
            gate, up = self._product(gate_up, self._rms_norm(x, norm2)).sum(0).chunk(2)  # 2 x (F,)
            x = self._add_product(x, down, F.silu(gate).mul_(up))
        return self._product(self.head, self._rms_norm(x, self.norm_f)).sum(0)  # (V,)

    def _norm_and_rotate(self, qk, cos, sin):
        """In place, qk (H + K, D)."""
        if self.model.config.qk_norm:
            qk.div_(torch.linalg.vector_norm(qk, dim=-1, keepdim=True).hypot_(self.root_d_eps))
        swapped = qk.roll(self.head_dim // 2, -1)
        qk.mul_(cos).addcmul_(swapped, sin)

    def _product(self, columns, x):
        """columns (n, m), x (n,) -> one row a bag, (bags, m); their sum is the product."""
        numbers, starts = self.bags[x.numel()]
        return torch.embedding_bag(columns, numbers, starts, False, SUM, False, x)[0]

    def _add_product(self, resid, columns, x):
        return torch.addmv(resid, self._product(columns, x).t(), self.ones[x.numel()])  # (C,)

    def _rms_norm(self, x, weight):
        """x (C,). The scale is an ordinary Python number: less work than four operations on tensors of one element."""
        scale = 1 / math.sqrt(x.dot(x).item() / x.numel() + self.model.config.norm_eps)
        return torch.addcmul(self.zeros, x, weight, value=scale)
