"""Look inside a model while it runs, and change what it computes, without touching its code.

The residual stream is a sum, and every term has an author:

    end of the stream = embedding + sum over layers of (its heads' outputs + its MLP's output)

so a logit, with the final norm's scale frozen at its actual value, is a sum of shares (`attribution`, as in arXiv
2211.00593), and can be read off early (`logit_lens`, arXiv 2303.08112). What a part is needed for shows when it is
`ablated`; what it carries, when its value from another prompt is `patched` in (arXiv 2202.05262). One mechanism serves
all: `hooked`, a visitor at three places of every layer. Attention weights, which the fused kernel never holds, are
computed again from the queries and keys that the kernel was called with, by the definition.

Shapes: B batch, T time, S key time (= T), C d_model, H heads, K key/value heads, D head_dim, V vocab, L layers.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from llmkit.attention import RMSNorm, attention
from llmkit.model import Transformer


@dataclass(frozen=True)
class Activations:
    """What one run computed, detached from autograd; the first dimension is the layer."""

    idx: Tensor  # (B, T)
    resid: Tensor  # (L + 1, B, T, C): the residual stream before each layer, and at the end
    q: Tensor  # (L, B, H, T, D): queries and keys as the scores see them, RoPE and QK-norm applied
    k: Tensor  # (L, B, K, T, D)
    v: Tensor  # (L, B, K, T, D)
    att: Tensor  # (L, B, H, T, S): attention weights; a row sums to one
    heads: Tensor  # (L, B, H, T, D): att @ v, each head's value before the output matrix (see `head_outputs`)
    mlps: Tensor  # (L, B, T, C): what each MLP adds to the stream
    logits: Tensor  # (B, T, V)


@dataclass(frozen=True)
class Attribution:
    """One logit of each row as a sum: embedding + heads + mlps + bias = logit, up to rounding."""

    embedding: Tensor  # (B,): token and, where they are learned, position
    heads: Tensor  # (B, L, H)
    mlps: Tensor  # (B, L)
    bias: Tensor  # (B,): biases that belong to no head or MLP; 0 in a model without biases
    logit: Tensor  # (B,)


@dataclass(frozen=True)
class HeadScores:
    """Average attention weights (L, H), each between 0 and 1; the last two of tokens that occurred before."""

    previous_token: Tensor  # on the token before
    same_token: Tensor  # on earlier copies of the token itself
    induction: Tensor  # on what followed the earlier copies, and so may follow again (arXiv 2209.11895)


@contextmanager
def hooked(model: Transformer, visit: Callable[[str, int, Tensor], Tensor | None]) -> Iterator[None]:
    """While inside, each run of the model calls visit(place, layer, value) at three places a layer:

    "resid" (B, T, C): the stream before layer 0 … L-1, and, as layer L, before the final norm;
    "heads" (B, H, T, D): each head's value before the output matrix;   "mlps" (B, T, C): what the MLP adds.

    A tensor that `visit` returns takes the value's place; None leaves it. Nested visitors see the outer ones' changes.
    On leaving, also by an exception, the model is as before.
    """
    n_head, handles = model.config.n_head, []

    def resid(layer, _, args):
        new = visit("resid", layer, args[0])
        return None if new is None else (new, *args[1:])

    def heads(layer, _, args):
        new = visit("heads", layer, args[0].unflatten(-1, (n_head, -1)).transpose(1, 2))  # (B, H, T, D)
        return None if new is None else (new.transpose(1, 2).flatten(2),)

    def mlps(layer, _, args, out):
        return visit("mlps", layer, out)

    try:
        for layer, block in enumerate(model.blocks):
            handles.append(block.register_forward_pre_hook(partial(resid, layer)))
            handles.append(block.attn.out.register_forward_pre_hook(partial(heads, layer)))
            handles.append(block.mlp.register_forward_hook(partial(mlps, layer)))
        handles.append(model.norm_f.register_forward_pre_hook(partial(resid, len(model.blocks))))
        yield
    finally:
        for handle in handles:
            handle.remove()


class _KernelCalls(TorchFunctionMode):
    """While active, notes what PyTorch's attention kernel is called with: (q, k, v, mask) for each layer."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention:
            self.calls.append((*args, kwargs["attn_mask"]))
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def capture(model: Transformer, idx: Tensor) -> Activations:
    """Run idx (B, T) and keep everything. Inside `ablated` or `patched`, it is the changed run that is kept."""
    seen = {"resid": [], "heads": [], "mlps": []}
    with hooked(model, lambda place, layer, value: seen[place].append(value)), _KernelCalls() as kernel:
        logits = model(idx)
    (B, T), c = idx.shape, model.config
    q, k, v, _ = zip(*kernel.calls, strict=True)
    return Activations(
        idx=idx,
        q=torch.stack(q).view(c.n_layer, B, c.n_head, T, c.head_dim),
        k=torch.stack(k),
        v=torch.stack(v),
        att=torch.stack([attention(*call)[1] for call in kernel.calls]).view(c.n_layer, B, c.n_head, T, T),
        logits=logits,
        **{place: torch.stack(values) for place, values in seen.items()},
    )


@torch.no_grad()
def head_outputs(model: Transformer, acts: Activations) -> Tensor:
    """What each head adds to the residual stream: (L, B, H, T, C), its value times its columns of the output matrix."""
    out = torch.stack([block.attn.out.weight.unflatten(1, (model.config.n_head, -1)) for block in model.blocks])
    return torch.einsum("lbhtd,lchd->lbhtc", acts.heads.to(out.dtype), out)


@torch.no_grad()
def logit_lens(model: Transformer, resid: Tensor) -> Tensor:
    """What the model would say if its last layer were here: resid (..., C) of any layer -> logits (..., V)."""
    if resid.shape[-1] != model.config.d_model:
        raise ValueError(f"resid must end in d_model {model.config.d_model}, not {tuple(resid.shape)}")
    return model.lm_head(model.norm_f(resid))


@torch.no_grad()
def attribution(model: Transformer, idx: Tensor, position: int, token: int | Tensor) -> Attribution:
    """Who made the logit of `token` (an id, or one for each row (B,)) at `position` of idx (B, T), and by how much.

    With the final norm's scale frozen, the logit is u . x + constant: each part's share is u . what it wrote, zero if
    it is `ablated`. Two tokens' attributions can be subtracted: the shares of the difference between their logits.
    """
    acts, c, (B, T) = capture(model, idx), model.config, idx.shape
    token = torch.as_tensor(token, device=idx.device).expand(B)  # (B,)
    if not -T <= position < T or token.min() < 0 or token.max() >= c.vocab_size:
        raise ValueError(f"no position {position} in {T} tokens, or no token {token.tolist()} in {c.vocab_size}")
    u, constant = _reading(model, acts.resid[-1, :, position], token)  # (B, C), (B,)
    heads, bias = [], constant
    for layer, out in enumerate(block.attn.out for block in model.blocks):
        through = (u @ out.weight).unflatten(-1, (c.n_head, -1))  # (B, H, D): u as seen before the matrix
        heads.append((through * acts.heads[layer, :, :, position]).sum(-1))  # (B, H)
        bias = bias if out.bias is None else bias + u @ out.bias
    return Attribution(
        embedding=(u * acts.resid[0, :, position]).sum(-1),
        heads=torch.stack(heads, dim=1),
        mlps=(u * acts.mlps[:, :, position]).sum(-1).T,
        bias=bias,
        logit=acts.logits[range(B), position, token],
    )


def _reading(model: Transformer, x: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
    """u (B, C) and a constant (B,) with logit = u . y + constant for y = x, x (B, C) setting the norm's scale."""
    norm, row = model.norm_f, model.lm_head.weight[token]
    u, bias = row * norm.weight, getattr(norm, "bias", None)
    if not isinstance(norm, RMSNorm):  # LayerNorm takes the mean out of x; to take it out of u is the same
        x, u = x - x.mean(-1, keepdim=True), u - u.mean(-1, keepdim=True)
    u *= (x.square().mean(-1, keepdim=True) + norm.eps).rsqrt()
    return u, torch.zeros_like(u[:, 0]) if bias is None else row @ bias


@contextmanager
def ablated(
    model: Transformer, heads=(), mlps=(), value: str = "zero", reference: Tensor | None = None
) -> Iterator[Transformer]:
    """The model without some of its heads (layer, head) and MLPs (layer), in every run inside the `with`.

    "zero" takes out what they write; "mean" leaves their average over all tokens of `reference` (B, T), so that a
    part's constant share stays and only what it says about this text goes.
    """
    heads, mlps = _chosen(model, heads, mlps)
    if value not in ("zero", "mean") or (value == "mean") != (reference is not None):
        raise ValueError('value must be "zero", or "mean" with a reference batch of ids (B, T)')
    means = {}
    if reference is not None:
        with hooked(model, lambda place, layer, x: means.update({(place, layer): x.mean((0, -2), keepdim=True)})):
            with torch.no_grad():
                model(reference)

    def visit(place, layer, x):
        new = torch.zeros_like(x) + means.get((place, layer), 0.0)
        if place == "mlps" and layer in mlps:
            return new
        gone = [head for at, head in heads if at == layer]
        if place == "heads" and gone:
            return x.index_copy(1, torch.tensor(gone, device=x.device), new[:, gone])

    with hooked(model, visit):
        yield model


@contextmanager
def patched(
    model: Transformer, source: Activations, heads=(), mlps=(), resid=(), positions=None
) -> Iterator[Transformer]:
    """The model with some values taken from another run, in every run inside the `with`.

    Heads (layer, head) and MLPs (layer) take the source's values at `positions` (None: wherever the source has one);
    `resid` (layer, position) replaces the stream before that layer, L being the end. Positions count from the start of
    the text; what is generated beyond them runs as it is. The source has one row, or as many as the run.
    """
    heads, mlps = _chosen(model, heads, mlps)
    (rows, length), n_layer, resid, start = source.idx.shape, model.config.n_layer, list(resid), 0
    positions = range(length) if positions is None else list(positions)
    if source.resid.shape[::3] != (n_layer + 1, model.config.d_model):
        raise ValueError("the source was captured on a model of another shape: capture it on this one")
    for layer, position in resid + [(0, p) for p in positions]:
        if not (0 <= layer <= n_layer and 0 <= position < length):
            raise ValueError(f"the source has layers 0 .. {n_layer} and {length} tokens, not ({layer}, {position})")

    def begin(_, args, kwargs):
        nonlocal start
        given = dict(zip(("idx", "cache"), args, strict=False)) | kwargs
        idx, cache = given["idx"], given.get("cache")
        start, *others = {0} if cache is None else set(cache.lengths)
        if others or rows not in (1, len(idx)) or start + idx.shape[1] < length:
            raise ValueError(
                f"a source of shape {(rows, length)} does not fit a run of {tuple(idx.shape)}, rows of equal length: "
                "give it one row, or as many, and no more tokens"
            )

    def visit(place, layer, x):
        picks = {
            "heads": [(p, (slice(None), head)) for at, head in heads if at == layer for p in positions],
            "mlps": [(p, ...) for p in positions if layer in mlps],
            "resid": [(p, ...) for at, p in resid if at == layer],
        }[place]
        new = x.clone()
        for position, part in picks:
            if 0 <= position - start < x.shape[-2]:
                value = getattr(source, place)[layer].select(-2, position)  # (B or 1, C) or (B or 1, H, D)
                new.select(-2, position - start)[part] = value[part].to(x.dtype)
        return new

    handle = model.register_forward_pre_hook(begin, with_kwargs=True)
    try:
        with hooked(model, visit):
            yield model
    finally:
        handle.remove()


def _chosen(model: Transformer, heads, mlps) -> tuple[list, list]:
    heads, mlps, c = list(heads), list(mlps), model.config
    for layer, head in heads + [(layer, 0) for layer in mlps]:
        if not (0 <= layer < c.n_layer and 0 <= head < c.n_head):
            raise ValueError(f"no layer {layer}, head {head}: there are {c.n_layer} layers of {c.n_head} heads, from 0")
    return heads, mlps


def repeated_tokens(n_ids: int, n: int, batch_size: int, start: int | None = None, generator=None) -> Tensor:
    """Rows of n distinct random ids below n_ids, written twice: (B, 2n), or (B, 1 + 2n) with the id `start` first.
    Nothing in such a text can be foreseen but the second copy, and that only by looking back."""
    if not 2 <= n <= n_ids:
        raise ValueError(f"n is {n}, but a row of distinct ids below {n_ids} has 2 .. {n_ids} of them")
    once = torch.stack([torch.randperm(n_ids, generator=generator)[:n] for _ in range(batch_size)])
    first = once[:, :0] if start is None else torch.full((batch_size, 1), start)
    return torch.cat([first, once, once], dim=1)


def head_scores(att: Tensor, idx: Tensor) -> HeadScores:
    """Attention weights att (L, B, H, T, T) on texts idx (B, T) -> how much each head is of each kind.

    On `repeated_tokens` nothing but the kind itself can score. A model that knows one sort of text shows its heads on
    that; there compare with evenly spread weights. The last two are NaN where no token occurs twice in a row.
    """
    if att.shape[1::2] != idx.shape:
        raise ValueError(f"att must be (L, B, H, T, T) for idx (B, T) {tuple(idx.shape)}, not {tuple(att.shape)}")
    same = (idx[:, :, None] == idx[:, None]).tril(-1)  # (B, T, S): the key is an earlier copy of the query
    seen = same.any(-1)  # (B, T)

    def share(keys):  # of the weights of tokens seen before
        return (att * keys[:, None]).sum(-1).transpose(2, 3)[:, seen].mean(1)  # (L, H)

    return HeadScores(
        previous_token=att.diagonal(-1, dim1=-2, dim2=-1).mean((1, 3)),
        same_token=share(same),
        induction=share(same.roll(1, -1).tril(-1)),
    )
