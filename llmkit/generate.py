"""Generation: draw a token from the model's distribution, append it, and again.

    x_t ~ p(x_t | x_<t)

`generate_naive` is the definition: it runs the whole text for every new token. `generate` gives the same ids, but
remembers keys and values: the prompt is run once (prefill), then one token a step (decode). `stream` hands out each
token when it is drawn; `generate_ragged` takes prompts of unequal length, right-padded in one batch.

Shapes: B batch, T prompt time, V vocab.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from llmkit.cache import KVCache
from llmkit.decode import decoder
from llmkit.model import Transformer
from llmkit.sampling import check_parameters, sample


@torch.no_grad()
def generate_naive(
    model: Transformer, idx: Tensor, max_new_tokens: int, *, eos_id: int | None = None, **sampling
) -> Tensor:
    """`generate` without a cache: quadratic in the number of tokens, and plain to see."""
    _check(model, idx, max_new_tokens, sampling)
    idx = idx.to(model.tok_emb.weight.device)
    done = torch.zeros(len(idx), dtype=torch.bool, device=idx.device)
    for _ in range(max_new_tokens):
        token = sample(model(idx)[:, -1], **sampling)  # (B,)
        if eos_id is not None:
            token = token.masked_fill(done, eos_id)
            done |= token == eos_id
        idx = torch.cat([idx, token[:, None]], dim=1)  # (B, T + 1)
        if done.all():
            break
    return idx


def generate(
    model: Transformer,
    idx: Tensor,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    eos_id: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Continue idx (B, T) int64 by up to `max_new_tokens`: (B, T + new), on the model's device.

    Temperature 0 is greedy; the filters are those of `sampling.filter_logits`; `generator` lives on the model's device.
    A row that has drawn `eos_id` is padded with it, and when every row has, generation stops. ValueError if prompt and
    new tokens are more than the model's context, for bad parameters, and if the model's logits are not finite.
    """
    tokens = stream(
        model, idx, max_new_tokens, eos_id=eos_id,
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, generator=generator,
    )  # fmt: skip
    return torch.cat([idx.to(model.tok_emb.weight.device), *(token[:, None] for token in tokens)], dim=1)


def stream(
    model: Transformer, idx: Tensor, max_new_tokens: int, *, eos_id: int | None = None, **sampling
) -> Iterator[Tensor]:
    """Yield the tokens of `generate` one step at a time, each (B,); `sampling` as there. Bad input raises at once."""
    _check(model, idx, max_new_tokens, sampling)
    return _decode(model, idx, None, max_new_tokens, eos_id, sampling)


def generate_ragged(
    model: Transformer, prompts: Sequence[Tensor], max_new_tokens: int, *, eos_id: int | None = None, **sampling
) -> list[Tensor]:
    """Continue 1-D prompts of unequal length in one batch; each comes back with its new tokens, up to its first eos.

    Greedy output is that of each prompt alone; the longest prompt must leave room for `max_new_tokens`.
    """
    if not len(prompts) or not all(
        isinstance(p, Tensor) and p.ndim == 1 and len(p) and p.dtype == torch.int64 for p in prompts
    ):
        raise ValueError(
            "prompts must be a non-empty list of 1-D int64 tensors with at least one id each (start with eos)"
        )
    lengths = [len(prompt) for prompt in prompts]
    idx = torch.nn.utils.rnn.pad_sequence(list(prompts), batch_first=True)  # (B, T); what pads is never looked at
    _check(model, idx, max_new_tokens, sampling)
    tokens = [token.tolist() for token in _decode(model, idx, lengths, max_new_tokens, eos_id, sampling)]
    texts = []
    for row, prompt in enumerate(prompts):
        new = [token[row] for token in tokens]
        new = new[: new.index(eos_id) + 1] if eos_id in new else new
        texts.append(torch.cat([prompt, prompt.new_tensor(new)]))
    return texts


@torch.no_grad()
def _decode(model, idx, lengths, max_new_tokens, eos_id, sampling) -> Iterator[Tensor]:
    """Prefill, then one token a step. `lengths` are the rows' true lengths where they differ, else None."""
    if max_new_tokens == 0:
        return
    weight = model.tok_emb.weight
    idx = idx.to(weight.device)
    batch_size, length = idx.shape
    dtype = model.compute_dtype or weight.dtype
    cache = KVCache(model.config, batch_size, length + max_new_tokens, device=weight.device, dtype=dtype)
    step = decoder(model, batch_size)
    logits = model(idx, cache)  # (B, T, V)
    if lengths is None:
        logits = logits[:, -1]  # (B, V)
    else:
        cache.truncate(lengths)
        logits = logits[range(batch_size), [n - 1 for n in lengths]]  # (B, V): each row's own last token
    if not logits.isfinite().all():
        raise ValueError("the model's logits hold NaN or inf: its weights are damaged, or its training diverged")
    done = torch.zeros(batch_size, dtype=torch.bool, device=idx.device)
    for left in reversed(range(max_new_tokens)):
        token = sample(logits, **sampling)  # (B,)
        if eos_id is not None:
            token = token.masked_fill(done, eos_id)
            done |= token == eos_id
        yield token
        if left == 0 or eos_id is not None and done.all():
            return
        logits = step(token[:, None], cache)[:, -1]  # (B, V)


def _check(model: Transformer, idx: Tensor, max_new_tokens: int, sampling: dict) -> None:
    if not isinstance(idx, Tensor) or idx.ndim != 2 or idx.numel() == 0 or idx.dtype != torch.int64:
        found = f"{tuple(idx.shape)} {idx.dtype}" if isinstance(idx, Tensor) else f"a {type(idx).__name__}"
        raise ValueError(
            f"idx must be a (B, T) int64 tensor with at least one id a row (every text starts with eos), not {found}"
        )
    if not isinstance(max_new_tokens, int) or max_new_tokens < 0:
        raise ValueError(f"max_new_tokens is {max_new_tokens!r}; give a whole number ≥ 0")
    length, context = idx.shape[1], model.config.context_length
    if length + max_new_tokens > context:
        raise ValueError(
            f"a prompt of {length} tokens and {max_new_tokens} new ones outgrow the model's context of {context}: "
            f"ask for at most {max(context - length, 0)} new tokens, or shorten the prompt"
        )
    check_parameters(**{"temperature": 1.0} | {k: v for k, v in sampling.items() if k != "generator"})
