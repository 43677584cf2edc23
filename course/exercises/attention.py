"""Lesson 02: who may look at whom, the weights of a head, several heads at once, and a head that finds repetitions."""

import math

import torch

from course.exercise import Exercise

# ---- 1. a mask ----


def mask(t, s):
    queries = torch.arange(s - t, s)[:, None]  # (t, 1): where the queries stand in the text
    keys = torch.arange(s)  # (s,)
    return keys <= queries


def check_mask(answer):
    square = torch.ones(4, 4, dtype=torch.bool).tril()
    answer(4, 4).should_be(
        square,
        (square.tril(-1), "A token must see itself too. Without it, token 0 sees nothing, and its softmax is nan."),
        (torch.ones(4, 4, dtype=torch.bool).tril(1),
         "Each query sees one key too many, the very one that is to be predicted: the loss would fall to nearly 0."),
        (square.T, "Turned on its side. A row is a query: row 0 has one True, the last row all."),
        (~square, "True and False are exchanged: here True means that the query may look."),
        (square.float(), "Right, but in ones and zeros. A mask is of bools."),
        (torch.ones(4, 4, dtype=torch.bool), "Everybody sees everybody, the future included: nothing is masked."),
    )
    answer(2, 5).should_be(
        mask(2, 5),
        (torch.ones(2, 5, dtype=torch.bool).tril(),
         "The queries were counted from the start of the text. They are the last t of s tokens: the last sees all."),
    )


MASK = Exercise(
    solution=mask,
    difficulty=1,
    statement="""
        A text has `s` tokens, and the last `t` of them ask: they are the queries. Return the causal mask, a bool
        tensor of shape (t, s) whose entry is True where the query may look at the key: at itself and at all before it.
        With t = 2 and s = 3 it is [[True, True, False], [True, True, True]].""",
    check=check_mask,
    hints=(
        "Where in the text does the first query stand? s - t tokens come before it.",
        "torch.arange(s - t, s) are the queries' places, torch.arange(s) the keys'. Compare each with each.",
        "torch.arange(s) <= torch.arange(s - t, s)[:, None]",
    ),
    wrong=(
        (lambda t, s: mask(t, s).tril(s - t - 1), "sees nothing"),
        (lambda t, s: torch.ones(t, s, dtype=torch.bool).tril(s - t + 1), "one key too many"),
        (lambda t, s: mask(t, s).T, "on its side"),
        (lambda t, s: ~mask(t, s), "exchanged"),
        (lambda t, s: mask(t, s).float(), "ones and zeros"),
        (lambda t, s: torch.ones(t, s, dtype=torch.bool), "nothing is masked"),
        (lambda t, s: torch.ones(t, s, dtype=torch.bool).tril(), "from the start of the text"),
    ),
)

# ---- 2. the weights of a head ----


def weights(q, k, mask):
    scores = q @ k.T / math.sqrt(q.shape[1])  # (T, S)
    return scores.masked_fill(~mask, -math.inf).softmax(dim=-1)


def variant(scale=math.sqrt, hidden=-math.inf, dim=-1):
    """Weights with another scaling, another number in the masked places, or a softmax over another dimension."""

    def with_variant(q, k, mask):
        return (q @ k.T / scale(q.shape[1])).masked_fill(~mask, hidden).softmax(dim=dim)

    return with_variant


def masked_after(q, k, mask):
    return (q @ k.T / math.sqrt(q.shape[1])).softmax(dim=-1) * mask


def unmasked(q, k, mask):
    return (q @ k.T / math.sqrt(q.shape[1])).softmax(dim=-1)


def check_weights(answer):
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 3, 4, generator=generator)
    allowed = torch.tensor([[True, False, False], [True, True, False], [True, True, True]])
    given = (q, k, allowed)
    answer(*given).should_be(
        weights(*given),
        (variant(scale=lambda d: 1)(*given),
         "The scores are not scaled. Divide them by √D, or else long vectors make the softmax choose one key alone."),
        (variant(scale=lambda d: d)(*given), "Divided by D. The spread of q · k grows as √D, so divide by √D."),
        (variant(dim=0)(*given),
         "The softmax runs over the queries: columns add up to one. A query shares out over keys: dim=-1."),
        (masked_after(*given),
         "Masked after the softmax: rows no longer add up to one, and hidden keys have taken part. Mask the scores."),
        (variant(hidden=0.0)(*given),
         "A score of 0 still gets a weight, as e⁰ = 1. What is hidden has a score of -inf."),
        (unmasked(*given), "The mask is not used: a query looks at what comes after it."),
        (weights(q, k, ~allowed), "The mask is upside down: True means that the query may look."),
        ((q @ k.T / 2).masked_fill(~allowed, -math.inf), "Those are the scores. Weights come out of their softmax."),
        (weights(k, q, allowed), "q and k are exchanged. Rows belong to queries: q @ k.T."),
    )
    wide = torch.randn(2, 2, 9, generator=generator)
    answer(*wide, allowed[:2, :2]).should_be(weights(*wide, allowed[:2, :2]))


WEIGHTS = Exercise(
    solution=weights,
    difficulty=2,
    statement="""
        `q` and `k` are the queries and keys of one head, (T, D) and (S, D), and `mask` (T, S) is True where a query may
        look. Return the attention weights, (T, S): each row is what one query gives to each key, and adds up to
        one.""",
    check=check_weights,
    hints=(
        "Four steps: every query times every key, scaling, mask, softmax.",
        "q @ k.T is (T, S). Where the mask is False the score becomes -math.inf, with masked_fill(~mask, …).",
        "(q @ k.T / math.sqrt(q.shape[1])).masked_fill(~mask, -math.inf).softmax(dim=-1)",
    ),
    wrong=(
        (variant(scale=lambda d: 1), "not scaled"),
        (variant(scale=lambda d: d), "Divided by D"),
        (variant(dim=0), "over the queries"),
        (masked_after, "after the softmax"),
        (variant(hidden=0.0), "score of 0"),
        (unmasked, "mask is not used"),
        (lambda q, k, mask: weights(q, k, ~mask), "upside down"),
        (lambda q, k, mask: (q @ k.T / math.sqrt(q.shape[1])).masked_fill(~mask, -math.inf), "Those are the scores"),
        (lambda q, k, mask: weights(k, q, mask), "q and k are exchanged"),
    ),
)

# ---- 3. a head that finds repetitions ----


def induction(att, ids):
    repeated = [t for t in range(len(ids)) if ids[t] in ids[:t]]
    found = [sum(float(att[t, s + 1]) for s in range(t) if ids[s] == ids[t]) for t in repeated]
    return sum(found) / len(found)


def counted(weight, share=sum, mean_over=len):
    """The mean over repeated tokens of what they give to places found by their earlier copies s."""

    def score(att, ids):
        repeated = [t for t in range(len(ids)) if ids[t] in ids[:t]]
        found = [share([float(weight(att, t, s)) for s in range(t) if ids[s] == ids[t]]) for t in repeated]
        return sum(found) / mean_over(repeated)

    return score


def on_all_tokens(att, ids):
    return induction(att, ids) * sum(ids[t] in ids[:t] for t in range(len(ids))) / len(ids)


def with_itself(att, ids):
    repeated = [t for t in range(len(ids)) if ids[t] in ids[:t]]
    return sum(float(att[t, s + 1]) for t in repeated for s in range(t + 1) if ids[s] == ids[t]) / len(repeated)


on_the_copy, before_the_copy = counted(lambda att, t, s: att[t, s]), counted(lambda att, t, s: att[t, s - 1])
turned = counted(lambda att, t, s: att[s + 1, t])
last_copy = counted(lambda att, t, s: att[t, s + 1], share=lambda found: found[-1])
total = counted(lambda att, t, s: att[t, s + 1], mean_over=lambda repeated: 1)


def check_induction(answer):
    att = torch.tensor([[1, 0, 0, 0, 0, 0], [0.5, 0.5, 0, 0, 0, 0], [0.2, 0.3, 0.5, 0, 0, 0],
                        [0.1, 0.4, 0.3, 0.2, 0, 0], [0.1, 0.2, 0.45, 0.05, 0.2, 0],
                        [0.05, 0.16, 0.2, 0.1, 0.25, 0.24]])  # fmt: skip
    given = (att, [5, 3, 7, 5, 3, 5])
    itself = "s ran up to t, and a token is no earlier copy of itself: att[t, t + 1] is the future. Use range(t)."
    answer(*given, errors={IndexError: itself}).should_be(
        induction(*given),
        (on_the_copy(*given),
         "That is the weight on the copies themselves. Induction looks at what followed the copy, one further."),
        (before_the_copy(*given), "That is the weight on what stood before the copy. It is s + 1, not s - 1."),
        (turned(*given), "Row and column are exchanged: att[t, s + 1] is what the query t gives to the key s + 1."),
        (last_copy(*given), "Only the last copy was counted. A token that has come twice before has two: add them up."),
        (on_all_tokens(*given),
         "Divided by all T tokens. Those that have not come before cannot be continued: leave them out."),
        (total(*given),
         "That is a sum, which grows with the text. Take the mean over the tokens that have come before."),
    )
    answer(att[:4, :4], [5, 5, 5, 3]).should_be(induction(att[:4, :4], [5, 5, 5, 3]))


INDUCTION = Exercise(
    solution=induction,
    difficulty=2,
    statement="""
        How much is a head an induction head? `att` (T, T) holds its weights on a text, a row for each query, and `ids`
        is the list of the text's T ids. For every token t whose id has come before, add up the weights on the tokens
        right after its earlier copies: att[t, s + 1] for each s < t with the same id. Return the mean of these sums
        over those tokens.""",
    check=check_induction,
    hints=(
        "Two loops: over the tokens t, and over the tokens s before t. When do you count att[t, s + 1]?",
        "ids[t] in ids[:t] says whether t has come before. Only such t are in the mean; the others have no copy.",
        "For each such t: sum(att[t, s + 1] for s in range(t) if ids[s] == ids[t]). Then the mean of these sums.",
    ),
    wrong=(
        (on_the_copy, "copies themselves"),
        (before_the_copy, "before the copy"),
        (turned, "Row and column"),
        (last_copy, "Only the last copy"),
        (on_all_tokens, "all T tokens"),
        (total, "That is a sum"),
        (with_itself, "no earlier copy of itself"),
    ),
)

# ---- 4. several heads ----


def multi_head(x, w_qkv, n_head):
    T, C = x.shape
    q, k, v = ((x @ w.T).view(T, n_head, -1).transpose(0, 1) for w in w_qkv.chunk(3))  # (H, T, D) each
    scores = q @ k.transpose(1, 2) / math.sqrt(C // n_head)  # (H, T, T)
    causal = torch.ones(T, T, dtype=torch.bool).tril()
    out = scores.masked_fill(~causal, -math.inf).softmax(dim=-1) @ v  # (H, T, D)
    return out.transpose(0, 1).reshape(T, C)


def split_right(part, n_head):
    return part.view(len(part), n_head, -1).transpose(0, 1)


def heads_by(split=split_right, order=(0, 1, 2), scale=lambda C, D: math.sqrt(D), joined=True, sees=0):
    """multi_head with one thing done otherwise."""

    def fn(x, w_qkv, n_head):
        T, C = x.shape
        parts = [split(x @ w.T, n_head) for w in w_qkv.chunk(3)]
        q, k, v = (parts[i] for i in order)
        causal = torch.ones(T, T, dtype=torch.bool).tril(sees)
        scores = q @ k.transpose(1, 2) / scale(C, C // n_head)
        out = scores.masked_fill(~causal, -math.inf).softmax(dim=-1) @ v
        return (out.transpose(0, 1) if joined else out).reshape(T, C)

    return fn


cut_through_time = heads_by(lambda part, n_head: part.reshape(n_head, len(part), -1))
every_other = heads_by(lambda part, n_head: part.view(len(part), -1, n_head).permute(2, 0, 1))
one_head = heads_by(lambda part, n_head: part[None])
by_model, unscaled = heads_by(scale=lambda C, D: math.sqrt(C)), heads_by(scale=lambda C, D: 1)
exchanged, not_joined, no_mask = heads_by(order=(1, 0, 2)), heads_by(joined=False), heads_by(sees=4)


def check_multi_head(answer):
    generator = torch.Generator().manual_seed(0)
    given = (torch.randn(4, 6, generator=generator), torch.randn(18, 6, generator=generator), 2)
    answer(*given).should_be(
        multi_head(*given),
        (cut_through_time(*given),
         "A head got rows of other tokens: view(n_head, T, D) cuts through time. view(T, n_head, D) first, "
         "then exchange the first two dimensions."),
        (every_other(*given), "Each head got every other number. Head 0 has the first D of the C, head 1 the next D."),
        (one_head(*given),
         "All as one head: the heads share one set of weights. Each has its own D numbers and its own softmax."),
        (not_joined(*given),
         "The heads are right, but joined the wrong way: (H, T, D) goes back to (T, H, D) before it becomes (T, C)."),
        (no_mask(*given), "Without a mask: each token looks at what comes after it, too."),
        (unscaled(*given), "The scores are not scaled: divide them by √D, the root of a head's numbers."),
        (by_model(*given), "Scaled by √C. A head's vectors have D = C / n_head numbers."),
        (exchanged(*given), "Queries and keys are exchanged: the first C rows of w_qkv make the queries."),
    )


MULTI_HEAD = Exercise(
    solution=multi_head,
    difficulty=3,
    statement="""
        `x` (T, C) is what a layer reads, `w_qkv` (3 C, C) holds the matrices of queries, keys and values, C rows each,
        and `n_head` heads share the C numbers: head 0 has the first D = C / n_head, head 1 the next D, and so on.
        Return causal attention of all heads, side by side again in the same order: (T, C).""",
    check=check_multi_head,
    hints=(
        "First the three tables: x @ w.T for each third of w_qkv (chunk(3) cuts it), each (T, C).",
        "To heads: .view(T, n_head, -1).transpose(0, 1) gives (H, T, D). Now @ works on all heads at once.",
        "Scores q @ k.transpose(1, 2) / √D, mask, softmax, @ v; back with .transpose(0, 1).reshape(T, C).",
    ),
    wrong=(
        (cut_through_time, "through time"),
        (every_other, "every other number"),
        (one_head, "as one head"),
        (not_joined, "joined the wrong way"),
        (by_model, "Scaled by √C"),
        (exchanged, "Queries and keys"),
        (no_mask, "Without a mask"), (unscaled, "not scaled"),
    ),
)

EXERCISES = (MASK, WEIGHTS, INDUCTION, MULTI_HEAD)
