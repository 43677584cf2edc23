"""A mixture of experts: instead of one MLP, E small ones, of which each token is sent to k.

    p = softmax(W_r x);   chosen = the k largest of p + bias;   y = sum over chosen e of w_e expert_e(x)

w_e is p_e, divided by the chosen ones' sum with `norm_weights`: Qwen3-MoE (arXiv 2505.09388), to whose logits ours are
equal on the same weights. A layer so has the parameters of E experts at the price of k. Routers left alone tend to send
everything to a few. Against that: a loss on uneven loads (Switch, 2101.03961, equations 4-6; layer by layer, or pooled
as in transformers), or the `bias`, which steers the choice and nothing else (2408.15664, there on sigmoid scores).
Shared experts are DeepSeekMoE's (2401.06066). A capacity, Switch's, bounds what one expert takes.

Departures: tokens are served in order of position, and those that find no room are computed and then multiplied by 0,
so that a capacity saves no work here; the router stays in float32 when the model computes in another type, as Switch's.

Shapes: N tokens (B T), C d_model, E experts, k active experts, F d_expert, M = N k assignments, L layers.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmkit.attention import Linear
from llmkit.config import ModelConfig, MoEConfig
from llmkit.kernels import swiglu


@dataclass(frozen=True)
class Routing:
    """Which experts compute which token, in one layer and one forward pass."""

    probs: Tensor  # (N, E) float32: the router's softmax
    experts: Tensor  # (N, k) int64: the chosen, best first
    weights: Tensor  # (N, k): what their outputs are multiplied by
    kept: Tensor  # (N, k) bool: False where the expert had no room left


def route(logits: Tensor, moe: MoEConfig, bias: Tensor | None = None) -> Routing:
    """The router's logits (N, E) -> Routing. `bias` (E,) is added to the probabilities for the choice alone."""
    probs = logits.softmax(-1, dtype=torch.float32)  # (N, E)
    experts = (probs if bias is None else probs + bias).topk(moe.n_active).indices  # (N, k)
    weights = probs.gather(1, experts)  # (N, k)
    if moe.norm_weights:
        weights = weights / weights.sum(-1, keepdim=True)
    return Routing(probs, experts, weights, within_capacity(experts, moe))


def within_capacity(experts: Tensor, moe: MoEConfig) -> Tensor:
    """(N, k) bool: which assignments find room, ceil(capacity_factor N k / E) of them in each expert, first come first
    served. Who is dropped so depends on the whole batch: the rows before, and, by N, even the text that follows."""
    if moe.capacity_factor is None:
        return torch.ones_like(experts, dtype=torch.bool)
    capacity = math.ceil(moe.capacity_factor * experts.numel() / moe.n_expert)
    chosen = experts.flatten()  # (M,), in order of position
    place = F.one_hot(chosen, moe.n_expert).cumsum(0).gather(1, chosen[:, None])  # (M, 1): 1 for an expert's first
    return (place <= capacity).view_as(experts)


def naive(x: Tensor, routing: Routing, gate_up: Tensor, down: Tensor) -> Tensor:
    """The definition, one expert after the other. x (N, C), gate_up (E, 2 F, C), down (E, C, F) -> (N, C)."""
    out = torch.zeros_like(x)
    for e in range(len(gate_up)):
        token, slot = ((routing.experts == e) & routing.kept).nonzero(as_tuple=True)  # (m,): who comes to expert e
        y = F.linear(swiglu(F.linear(x[token], gate_up[e])), down[e])  # (m, C)
        out = out.index_add(0, token, y * routing.weights[token, slot, None].to(y.dtype))
    return out


def grouped(x: Tensor, routing: Routing, gate_up: Tensor, down: Tensor) -> Tensor:
    """The same from assignments sorted by expert: each expert's tokens are contiguous rows, so that one grouped product
    serves all experts."""
    chosen = routing.experts.flatten()  # (M,)
    order = chosen.argsort(stable=True)
    token = order // routing.experts.shape[1]  # (M,): whose assignment it is
    ends = _counts(chosen, len(gate_up)).cumsum(0, dtype=torch.int32)  # (E,)
    hidden = swiglu(_product(x.index_select(0, token), gate_up, ends))  # (M, F)
    weights = (routing.weights * routing.kept).flatten()[order, None]
    y = _product(hidden * weights.to(hidden.dtype), down, ends)  # (M, C)
    return y.new_zeros(x.shape).index_add(0, token, y)


def _counts(experts: Tensor, n_expert: int) -> Tensor:
    """(E,): how often each expert stands in (M,). `torch.bincount` would make the CPU wait for a GPU to learn E."""
    return experts.new_zeros(n_expert).scatter_add_(0, experts, torch.ones_like(experts))


def _product(x: Tensor, matrices: Tensor, ends: Tensor) -> Tensor:
    """Rows x (M, in), those of expert e ending before ends[e], each times its expert's matrix of (E, out, in)."""
    aligned = all(n * x.element_size() % 16 == 0 for n in matrices.shape[1:])  # the kernel insists
    takes = (torch.bfloat16,) if torch.compiler.is_compiling() else (torch.bfloat16, torch.float16, torch.float32)
    if aligned and x.dtype in takes and hasattr(F, "grouped_mm"):  # since PyTorch 2.10
        return F.grouped_mm(x, matrices.mT, offs=ends)
    parts = x.split(ends.diff(prepend=ends.new_zeros(1)).tolist())
    return torch.cat([F.linear(part, matrix) for part, matrix in zip(parts, matrices, strict=True)])


class MoE(nn.Module):
    """The experts of one layer and their router: (B, T, C) -> (B, T, C). `routing` is the last forward pass's."""

    compute_dtype = None  # as in `Linear`

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = moe = config.moe
        self.router = nn.Linear(config.d_model, moe.n_expert, bias=False)
        self.gate_up = nn.Parameter(torch.empty(moe.n_expert, 2 * moe.d_expert, config.d_model))  # rows: gate, up
        self.down = nn.Parameter(torch.empty(moe.n_expert, config.d_model, moe.d_expert))
        if moe.n_shared:  # side by side they are one wider expert
            self.shared_gate_up = Linear(config.d_model, 2 * moe.n_shared * moe.d_expert)
            self.shared_down = Linear(moe.n_shared * moe.d_expert, config.d_model)
        self.register_buffer("bias", torch.zeros(moe.n_expert))
        self.routing: Routing | None = None

    def forward(self, x):
        tokens, dtype = x.flatten(0, -2), self.compute_dtype or x.dtype  # (N, C)
        self.routing = route(self.router(tokens), self.config, self.bias)
        out = grouped(tokens.to(dtype), self.routing, self.gate_up.to(dtype), self.down.to(dtype))  # (N, C)
        if self.config.n_shared:
            out = out + self.shared_down(swiglu(self.shared_gate_up(tokens)))
        return out.view_as(x)

    def __getstate__(self):
        """Copies begin without a record: its tensors belong to a graph, which cannot be copied."""
        return super().__getstate__() | {"routing": None}


# --- What the routers did, and how they are balanced -----------------------------------------------------------------


def routings(model: nn.Module) -> list[Routing]:
    """The last forward pass, layer by layer. ValueError if there was none, or there are no experts."""
    records = [module.routing for module in model.modules() if isinstance(module, MoE)]
    if not records:
        raise ValueError("the model has no experts: build it with a config whose moe is a MoEConfig")
    if None in records:
        raise ValueError("no forward pass to read: run the model on a batch first")
    return records


def expert_load(routing: Routing) -> Tensor:
    """(E,): the share of all assignments that went to each expert, before any was dropped; 1/E each when balanced."""
    return _counts(routing.experts.flatten(), routing.probs.shape[1]) / routing.experts.numel()


def load_balance_loss(model: nn.Module, by_layer: bool = False) -> Tensor:
    """E * sum over e of f_e P_e of the last forward pass: a scalar; n_active when all experts are used alike.

    f_e is the part of the tokens that e was chosen for (these sum to n_active), P_e its mean probability, both over
    the tokens of all layers together, as transformers has it: layers that lean to different experts cancel out, and
    stay as they are. `by_layer` takes the loss of each layer, as Switch does, and their mean.
    Only P passes a gradient on: the more an expert is overloaded, the harder its probability is pushed down.
    """
    records = routings(model)
    n_expert, n_active = records[0].probs.shape[1], records[0].experts.shape[1]
    load = torch.stack([expert_load(routing) for routing in records]) * n_active  # (L, E)
    mean = torch.stack([routing.probs.mean(0) for routing in records])  # (L, E)
    if not by_layer:
        load, mean = load.mean(0, keepdim=True), mean.mean(0, keepdim=True)  # (1, E)
    return n_expert * (load * mean).sum(-1).mean()


def balanced(loss_fn, aux: float = 0.01, by_layer: bool = False):
    """`loss_fn` with the balance loss added, for `train.fit`: fit(..., loss_fn=balanced(next_token_loss, aux=0.01)).

    The records then hold the sum of both; aux * n_active of it is what a balanced model pays.
    """

    def loss(model, batch):
        language = loss_fn(model, batch)  # first: the balance loss reads this forward pass
        return language + aux * load_balance_loss(model, by_layer)

    return loss


@torch.no_grad()
def update_bias(model: nn.Module, rate: float = 1e-3) -> None:
    """Balance without a loss: after each update, the bias of every expert that got less than an even share in the last
    forward pass rises by `rate`, the others' fall. `train.fit` calls it through `on_step`; not after an evaluation
    (`record.evals`), since the last forward pass is then the evaluation's."""
    routings(model)  # raises if there is nothing to read
    for module in model.modules():
        if isinstance(module, MoE):
            load = expert_load(module.routing)
            module.bias += rate * (1 / len(load) - load).sign()
