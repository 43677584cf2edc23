"""The KV cache: keys and values of the text so far, so that a new token costs one token's work.

Contiguous: one preallocated tensor; slot s of a row holds the token at position s. Rows may differ in
length: prefill right-padded prompts, then `truncate(lengths)`; what lies beyond a row's length is masked, and
overwritten as the row grows. The model is handed the cache and calls `begin` once a forward pass and `append` once a
layer; the cache alone knows lengths and positions. It is for inference: what it returns carries no gradient.

Shapes: B batch, T new tokens, S tokens in the longest row, S_max room, K key/value heads, D head_dim, L layers.
"""

import torch

from llmkit.config import ModelConfig


class KVCache:
    """Room for `batch_size` texts of up to `max_length` tokens (default: the model's context); `lengths` are in use.

    It holds 2 L B K S_max D numbers of `dtype`, which must be what the model computes in (default: float32).
    ValueError if max_length is beyond the context, or there is no text.
    """

    def __init__(self, config: ModelConfig, batch_size: int, max_length: int | None = None, device=None, dtype=None):
        self.max_length = config.context_length if max_length is None else max_length
        if not 1 <= self.max_length <= config.context_length:
            raise ValueError(f"max_length {max_length} must be 1 .. {config.context_length}, the model's context")
        if batch_size < 1:
            raise ValueError(f"batch_size {batch_size} must be at least 1")
        shape = (2 * config.n_layer, batch_size, config.n_kv_head, self.max_length, config.head_dim)
        self.kv = torch.zeros(shape, device=device, dtype=dtype)  # (2L, B, K, S_max, D): layer l's keys, then values
        self.lengths = [0] * batch_size

    def begin(self, batch_size: int, t: int):
        """Make room for `t` tokens in each row. Returns their positions, a slice or (B, T), and the attention mask:
        (B, 1, T, S) bool, or None where causal order alone decides."""
        start, self._end = min(self.lengths), max(self.lengths) + t
        if batch_size != len(self.lengths):
            raise ValueError(f"this cache holds {len(self.lengths)} texts, but {batch_size} rows came")
        if self._end > self.max_length:
            raise ValueError(
                f"the text would grow to {self._end} tokens, but the cache has room for {self.max_length}: "
                "shorten the prompt, or ask for fewer new tokens"
            )
        uniform = start + t == self._end
        self._slots = slice(start, start + t) if uniform else self._ragged_slots(t)
        self.lengths = [n + t for n in self.lengths]
        if uniform and (start == 0 or t == 1):
            return self._slots, None
        device = self.kv.device
        positions = torch.arange(start, start + t, device=device)[None] if uniform else self._slots
        keys = torch.arange(self._end, device=device)
        return positions, (keys <= positions[:, :, None])[:, None]  # (B or 1, 1, T, S)

    def _ragged_slots(self, t: int):
        """(B, T): each row goes on where it ends."""
        device = self.kv.device
        return torch.tensor(self.lengths, device=device)[:, None] + torch.arange(t, device=device)

    def append(self, layer: int, k, v):
        """Store one layer's new k and v (B, K, T, D); returns all that the layer holds, each (B, K, S, D)."""
        layer_kv = self.kv[2 * layer : 2 * layer + 2]  # (2, B, K, S_max, D)
        for store, new in zip(layer_kv, (k.detach(), v.detach()), strict=True):
            if isinstance(self._slots, slice):
                store.narrow(2, self._slots.start, new.shape[2]).copy_(new)
            else:
                slots = self._slots[:, None, :, None].expand_as(new)  # (B, K, T, D)
                store.scatter_(2, slots, new)
        return layer_kv[:, :, :, : self._end].unbind()

    def truncate(self, lengths):
        """Forget what lies beyond each row's length: after a padded prefill, or to take tokens back."""
        lengths = [int(n) for n in lengths]
        held = self.lengths
        if len(lengths) != len(held) or any(not 0 <= n <= m for n, m in zip(lengths, held, strict=True)):
            raise ValueError(f"lengths {lengths} must be one per row, each at most what the row holds: {self.lengths}")
        self.lengths = lengths
