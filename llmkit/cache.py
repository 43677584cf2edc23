"""The KV cache: keys and values of the text so far, so that a new token costs one token's work.

Contiguous: two preallocated tensors a layer, slot s of a row holds position s. The rows may differ in length: prefill
right-padded prompts, then `truncate(lengths)`; what lies beyond a row's length is masked, and overwritten as it grows.
The model is handed the cache and calls `begin` once and `append` once a layer; the cache alone knows lengths and positions.

Shapes: B batch, T new tokens, S tokens in the longest row, S_max room, K key/value heads, D head_dim, L layers.
"""

import torch

from llmkit.config import ModelConfig


class KVCache:
    """Room for `max_length` tokens (default: the model's context) of `batch_size` texts; `lengths` says what is in use."""

    def __init__(self, config: ModelConfig, batch_size: int, max_length: int | None = None, device=None, dtype=None):
        self.max_length = max_length or config.context_length
        if self.max_length > config.context_length:
            raise ValueError(f"max_length {self.max_length} is beyond the model's context of {config.context_length}")
        shape = (config.n_layer, batch_size, config.n_kv_head, self.max_length, config.head_dim)
        self.k = torch.zeros(shape, device=device, dtype=dtype)  # (L, B, K, S_max, D)
        self.v = torch.zeros(shape, device=device, dtype=dtype)
        self.lengths = [0] * batch_size

    def begin(self, t: int):
        """Make room for `t` tokens in every row; returns their positions (slice or (B, T)) and the attention mask."""
        longest = max(self.lengths) + t
        if longest > self.max_length:
            raise ValueError(
                f"the text would grow to {longest} tokens, but the cache has room for {self.max_length}: "
                "shorten the prompt, or generate fewer tokens"
            )
        self._uniform = len(set(self.lengths)) == 1
        start = self.lengths[0]
        self._end = longest
        self.lengths = [n + t for n in self.lengths]
        if self._uniform:
            self._slots = slice(start, start + t)
            if t == 1:
                return self._slots, torch.ones(1, 1, dtype=torch.bool, device=self.k.device)
            if start == 0:
                return self._slots, None
            positions = torch.arange(start, start + t, device=self.k.device)[None]
        else:
            first = torch.tensor(self.lengths, device=self.k.device) - t
            positions = first[:, None] + torch.arange(t, device=self.k.device)  # (B, T)
            self._slots = positions[:, None, :, None].expand(-1, self.k.shape[2], -1, self.k.shape[4])  # (B, K, T, D)
        keys = torch.arange(longest, device=self.k.device)
        return positions, (keys <= positions[:, :, None])[:, None]  # (B, 1, T, S)

    def append(self, layer: int, k, v):
        """Store the new k and v (B, K, T, D) of one layer; returns all of that layer's, (B, K, S, D)."""
        for store, new in ((self.k[layer], k), (self.v[layer], v)):
            if self._uniform:
                store[:, :, self._slots] = new
            else:
                store.scatter_(2, self._slots, new)
        return self.k[layer][:, :, : self._end], self.v[layer][:, :, : self._end]

    def truncate(self, lengths):
        """Forget what lies beyond each row's length: after a padded prefill, or to take tokens back."""
        lengths = [int(n) for n in lengths]
        if len(lengths) != len(self.lengths) or any(not 0 <= n <= m for n, m in zip(lengths, self.lengths, strict=True)):
            raise ValueError(f"lengths {lengths} must be one per row, each at most what the row holds: {self.lengths}")
        self.lengths = lengths
