"""Lesson 08: parameters of a mixture, the weights of a token's experts, the balance loss, and who finds room."""

import torch
import torch.nn.functional as F

from course.exercise import Exercise


def made(mistakes, *given):
    """What each of (wrong answer, its sentence) returns here, with its sentence."""
    return [(fn(*given), sentence) for fn, sentence in mistakes]


# ---- 1. parameters ----


def mixture_parameters(d_model, d_expert, n_expert, n_active):
    expert = 3 * d_model * d_expert
    router = d_model * n_expert
    return n_expert * expert + router, n_active * expert + router


def counted(matrices=3, router=lambda C, E, k: (C * E, C * E), experts=lambda E, k: (E, k)):
    """mixture_parameters with another number of matrices, of routers' rows, or of experts."""

    def count(d_model, d_expert, n_expert, n_active):
        pairs = zip(experts(n_expert, n_active), router(d_model, n_expert, n_active), strict=True)
        return tuple(n * matrices * d_model * d_expert + r for n, r in pairs)

    return count


WRONG_COUNTS = (
    (counted(router=lambda C, E, k: (0, 0)),
     "The router is missing: a matrix with a row of d_model numbers for each expert."),
    (counted(matrices=2), "Two matrices an expert. A SwiGLU has three: gate, up and down."),
    (counted(matrices=1), "One matrix an expert. A SwiGLU has three: gate, up and down."),
    (counted(router=lambda C, E, k: (C * E, 0)),
     "The router was counted once, among all parameters. Each token makes use of it as well: of all its rows."),
    (counted(router=lambda C, E, k: (C * E, C * k)),
     "Only a part of the router was counted as active. To find the best k experts it scores all of them."),
    (counted(experts=lambda E, k: (E, E)), "All experts were counted as active. A token is sent to n_active of them."),
    (counted(experts=lambda E, k: (E + k, k)), "The active experts were added to all experts. They are among them."),
    (counted(experts=lambda E, k: (k, E)),
     "The two are exchanged: first all parameters, then those that one token makes use of."),
    (counted(router=lambda C, E, k: (C * E * E, C * E * k)),
     "A whole router for each expert. There is one for the layer, with a row for each."),
    (lambda C, width, E, k: mixture_parameters(C, width // E, E, k),
     "d_expert was divided by the number of experts. It is the width of one already."),
)  # fmt: skip


def check_mixture_parameters(answer):
    given = (64, 88, 8, 2)
    answer(*given).should_be(mixture_parameters(*given), *made(WRONG_COUNTS, *given))
    answer(10, 3, 1, 1).should_be((100, 100))


MIXTURE_PARAMETERS = Exercise(
    solution=mixture_parameters,
    difficulty=1,
    statement="""
        Count the parameters of one layer's mixture: `n_expert` SwiGLUs (gate, up, down; no biases) of hidden width
        `d_expert`, and a router. Return two numbers, all of them and those that one token makes use of, when it is sent
        to `n_active` experts. `d_model` is the width of the residual stream.""",
    check=check_mixture_parameters,
    hints=(
        "How many numbers are in one expert? Gate and up map d_model to d_expert, down maps back.",
        "An expert has 3 * d_model * d_expert. The router has one row of d_model numbers for each expert.",
        "n_expert * expert + router, and n_active * expert + router: the router is used whole.",
    ),
    wrong=WRONG_COUNTS,
)

# ---- 2. the weights ----


def expert_weights(logits, k):
    probs = logits.softmax(dim=-1)
    best = probs.topk(k).indices
    chosen = torch.zeros_like(probs).scatter(1, best, probs.gather(1, best))
    return chosen / chosen.sum(dim=-1, keepdim=True)


def marked(scores, k, dim=-1, largest=True):
    """1 at the k largest, 0 elsewhere."""
    return torch.zeros_like(scores).scatter(dim, scores.topk(k, dim=dim, largest=largest).indices, 1.0)


def to_one(weights):
    return weights / weights.sum(dim=-1, keepdim=True)


WRONG_WEIGHTS = (
    (lambda logits, k: logits.softmax(dim=-1),
     "Every expert got a weight. All but the k largest are 0; otherwise nothing is saved."),
    (lambda logits, k: logits.softmax(dim=-1) * marked(logits, k),
     "The rows no longer sum to one: divide what is left by its sum."),
    (lambda logits, k: marked(logits, k) / k,
     "The chosen experts got equal weights. The router's opinion counts: its probabilities."),
    (lambda logits, k: to_one(logits.softmax(dim=-1) * marked(logits, k, largest=False)), "The k smallest were taken."),
    (lambda logits, k: to_one(logits.softmax(dim=0) * marked(logits.softmax(dim=0), k)),
     "The softmax runs over the tokens. Each row is one token's choice: dim=-1."),
    (lambda logits, k: logits.softmax(dim=-1) * marked(logits, k, dim=0),
     "Here experts choose tokens: topk runs over the rows (expert choice, arXiv 2202.09368). Then a token may get no "
     "expert at all. Choose in each row: dim=-1."),
    (lambda logits, k: (logits * marked(logits, k)).softmax(dim=-1),
     "The others' logits were set to 0, and e^0 is 1: they are still there. Set them to -inf, or cut the softmax."),
    (lambda logits, k: to_one(logits * marked(logits, k)),
     "The logits themselves were divided by their sum. They can be negative; take the softmax."),
    (lambda logits, k: expert_weights(logits, 1), "Only the best expert was kept. There are k."),
    (lambda logits, k: to_one(logits.softmax(dim=-1).topk(k).values),
     "These are the weights of the chosen alone, (N, k). Put each back into its expert's column, with 0 in the others: "
     "(N, E)."),
    (lambda logits, k: torch.where(marked(logits, k) > 0, logits.softmax(dim=-1), -torch.inf).softmax(dim=-1),
     "The softmax was taken twice, the second time of probabilities. Divide what is left by its sum."),
)  # fmt: skip


def check_expert_weights(answer):
    logits = torch.tensor([[2.0, 0.5, -1.0, 1.0], [-0.5, 0.25, 1.5, 3.0], [0.75, -2.0, 1.25, 0.5]])
    answer(logits, 2).should_be(expert_weights(logits, 2), *made(WRONG_WEIGHTS, logits, 2))
    answer(logits, 4).should_be(logits.softmax(dim=-1))


EXPERT_WEIGHTS = Exercise(
    solution=expert_weights,
    difficulty=2,
    statement="""
        Return the weights (N, E) with which N tokens' experts are mixed, given the router's `logits` (N, E): the
        softmax over the experts, all but the `k` largest of each row set to 0, and what is left divided by its sum.""",
    check=check_expert_weights,
    hints=(
        "Three steps: softmax, cut, divide. Each works on a row.",
        "probs.topk(k).indices says which to keep; torch.zeros_like(probs).scatter(1, best, …) puts them back.",
        "Or set all other logits to -inf first: the softmax of what is left is the same. Why?",
    ),
    wrong=WRONG_WEIGHTS,
)

# ---- 3. the balance loss ----


def balance_loss(probs, experts):
    N, E = probs.shape
    load = experts.flatten().bincount(minlength=E) / N
    return E * (load * probs.mean(dim=0)).sum()


def chosen_by(probs, experts):
    return F.one_hot(experts, probs.shape[1]).sum(1).float()  # (N, E)


WRONG_LOSSES = (
    (lambda probs, experts: balance_loss(probs, experts) / probs.shape[1],
     "The factor E is missing: with it the loss of an even load does not depend on E."),
    (lambda probs, experts: balance_loss(probs, experts) / experts.shape[1],
     "The load was divided by k too. f_e is the part of the *tokens* that chose e."),
    (lambda probs, experts: probs.shape[1] * chosen_by(probs, experts).mean(0).square().sum(),
     "The load was multiplied by itself. Counts have no gradient: nothing would be learned."),
    (lambda probs, experts: probs.shape[1] * probs.mean(0).square().sum(),
     "The mean probability was multiplied by itself: where is the load?"),
    (lambda probs, experts: probs.shape[1] * (chosen_by(probs, experts) * probs).sum(-1).mean(),
     "Multiplied token by token, then averaged. That rewards a router for being unsure; average load and probability "
     "first, each over all tokens."),
    (lambda probs, experts: probs.shape[1] * (chosen_by(probs, experts).sum(0) * probs.sum(0)).sum(),
     "Sums instead of means: the loss would grow with the square of the batch."),
    (lambda probs, experts: balance_loss(probs, experts[:, :1]),
     "Only the first choices were counted. A second choice is as much work."),
    (lambda probs, experts: (chosen_by(probs, experts).mean(0) / experts.shape[1] - 1 / probs.shape[1]).square().sum(),
     "The squared distance of the load from an even one. It is made of counts, and counts have no gradient."),
)  # fmt: skip


def check_balance_loss(answer):
    probs = torch.tensor([[0.5, 0.25, 0.125, 0.125], [0.4, 0.1, 0.3, 0.2], [0.6, 0.2, 0.15, 0.05]])
    given = (probs, torch.tensor([[0, 1], [0, 2], [0, 1]]))
    answer(*given).should_be(balance_loss(*given), *made(WRONG_LOSSES, *given))
    answer(torch.full((4, 4), 0.25), torch.tensor([[0], [1], [2], [3]])).should_be(1.0)


BALANCE_LOSS = Exercise(
    solution=balance_loss,
    difficulty=2,
    statement="""
        Return the balance loss E · Σ_e f_e P_e of one layer: E experts, f_e the part of the tokens that chose expert e,
        P_e the mean probability of e over the tokens. `probs` (N, E) are the router's probabilities, `experts` (N, k)
        the numbers of each token's chosen experts.""",
    check=check_balance_loss,
    hints=(
        "Two vectors of E numbers, multiplied and summed. Which of them comes from `experts`, which from `probs`?",
        "experts.flatten().bincount(minlength=E) counts how often each expert was chosen.",
        "E * (counts / N * probs.mean(dim=0)).sum()",
    ),
    wrong=WRONG_LOSSES,
)

# ---- 4. capacity ----


def find_room(experts, n_expert, room):
    kept, taken = torch.zeros_like(experts, dtype=torch.bool), [0] * n_expert
    for token, choices in enumerate(experts.tolist()):
        for slot, e in enumerate(choices):
            kept[token, slot] = taken[e] < room
            taken[e] += 1
    return kept


def first_that_fits(experts, n_expert, room):
    """As find_room, but a token takes one place at most."""
    kept, taken = torch.zeros_like(experts, dtype=torch.bool), [0] * n_expert
    for token, choices in enumerate(experts.tolist()):
        slot = next((slot for slot, e in enumerate(choices) if taken[e] < room), None)
        if slot is not None:
            kept[token, slot] = True
            taken[choices[slot]] += 1
    return kept


WRONG_ROOMS = (
    (lambda experts, E, room: find_room(experts, E, room + 1),
     "One too many: an expert that has `room` tokens takes no other."),
    (lambda experts, E, room: find_room(experts.flip(0), E, room).flip(0),
     "Served from the end: the first tokens were dropped. Token 0 comes first."),
    (lambda experts, E, room: find_room(experts.T.reshape(-1, 1), E, room).view(experts.T.shape).T,
     "All first choices were served before any second one. That is a rule too, GShard's; here tokens are served in the "
     "order of the text, with all their choices at once."),
    (lambda experts, E, room: torch.cat([find_room(slot[:, None], E, room) for slot in experts.T], dim=1),
     "First and second choices were counted apart. An expert has room for `room` in all."),
    (lambda experts, E, room: find_room(experts, E, room).all(dim=1, keepdim=True).expand(experts.shape),
     "A token was dropped whole as soon as one of its experts was full. The other one can still serve it."),
    (lambda experts, E, room: (torch.arange(len(experts)) < room)[:, None].expand(experts.shape),
     "Everything after the first `room` tokens was dropped. Each expert counts its own."),
    (lambda experts, E, room: (experts.flatten().bincount(minlength=E) <= room)[experts],
     "Experts with too many tokens serve nobody here. They serve the first `room`."),
    (lambda experts, E, room: first_that_fits(experts, E, room),
     "A token's second choice was not asked once its first had room. Each choice is an assignment of its own."),
    (lambda experts, E, room: ~find_room(experts, E, room), "Turned round: True is for those that find room."),
)  # fmt: skip


def check_find_room(answer):
    given = (torch.tensor([[0, 1], [2, 0], [0, 2], [1, 3], [0, 2], [2, 1]]), 4, 2)
    answer(*given).should_be(find_room(*given), *made(WRONG_ROOMS, *given))
    answer(torch.tensor([[1], [1]]), 2, 5).should_be(torch.ones(2, 1, dtype=torch.bool))


FIND_ROOM = Exercise(
    solution=find_room,
    difficulty=3,
    statement="""
        Each of `n_expert` experts takes at most `room` assignments. `experts` (N, k) are the tokens' choices, best
        first. Serve token after token, its choices from left to right, and return a tensor (N, k): True where there was
        room, False where the expert was full.""",
    check=check_find_room,
    hints=(
        "Walk through the tokens with a counter for each expert. A loop is well here.",
        "kept = torch.zeros_like(experts, dtype=torch.bool), and taken = [0] * n_expert.",
        "For each token and each of its choices e: kept[token, slot] = taken[e] < room, then taken[e] += 1.",
    ),
    wrong=WRONG_ROOMS,
)

EXERCISES = (MIXTURE_PARAMETERS, EXPERT_WEIGHTS, BALANCE_LOSS, FIND_ROOM)
