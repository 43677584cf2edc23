"""Lesson 04: what the cache holds, reading the stream early, the effect of a patch, and who wrote a logit."""

import torch

from course.exercise import Exercise

# ---- 1. the size of the cache ----


def cache_bytes(n_layer, n_kv_head, head_dim, length):
    return 2 * n_layer * n_kv_head * head_dim * length * 2


WRONG_SIZES = (
    (lambda L, K, D, T: 2 * L * K * D * T,
     "Half of it: a token leaves a key and a value in every layer, and each takes two bytes a number."),
    (lambda L, K, D, T: L * K * D * T,
     "A quarter of it: neither the value beside the key nor the second byte of each number was counted."),
    (lambda L, K, D, T: 4 * K * D * T, "One layer's cache. Each layer has keys and values of its own."),
    (lambda L, K, D, T: 4 * L * D * T, "One head's keys and values. There are n_kv_head."),
    (lambda L, K, D, T: 4 * L * K * T, "One number a head. A key has head_dim numbers, and so has a value."),
    (lambda L, K, D, T: 8 * L * K * D * T, "Four bytes a number were counted. In bfloat16 it is two."),
    (lambda L, K, D, T: 32 * L * K * D * T, "Those are bits. A bfloat16 has 16 of them, which are two bytes."),
    (lambda L, K, D, T: 4 * L * K * D, "One token's. Every token of the text keeps its keys and values."),
    (lambda L, K, D, T: 4 * L * K * D * T**2,
     "The length went in twice. Scores are length × length, but only keys and values are kept."),
    (lambda L, K, D, T: 4 * L * K * D * T / 2**20, "Right, but in mebibytes. Return bytes."),
)  # fmt: skip


def check_cache_bytes(answer):
    given = 5, 3, 64, 500
    answer(*given).should_be(1_920_000, *((fn(*given), sentence) for fn, sentence in WRONG_SIZES))
    answer(32, 8, 128, 131_072).should_be(17_179_869_184)


CACHE_BYTES = Exercise(
    solution=cache_bytes,
    difficulty=1,
    statement="""
        How many bytes does the KV cache of one text of `length` tokens take, in bfloat16? Each of the `n_layer` layers
        keeps, for every token and each of its `n_kv_head` key/value heads, a key and a value of `head_dim` numbers.""",
    check=check_cache_bytes,
    hints=(
        "Count for one token and one layer first: how many numbers are kept?",
        "A key and a value for each head: 2 × n_kv_head × head_dim numbers. How many bytes is a bfloat16?",
        "2 × n_kv_head × head_dim × n_layer × length numbers of two bytes.",
    ),
    wrong=WRONG_SIZES,
)

# ---- 2. the effect of a patch ----


def patch_effect(patched, clean, source, clean_answer, source_answer):
    def gap(logits):
        return logits[source_answer] - logits[clean_answer]

    return (gap(patched) - gap(clean)) / (gap(source) - gap(clean))


def by_gaps(share):
    """An answer made of the three gaps: after the patch, before it, in the source's run."""

    def answer(patched, clean, source, clean_answer, source_answer):
        return share(*(run[source_answer] - run[clean_answer] for run in (patched, clean, source)))

    return answer


def of_one(which):
    """An answer that looks at one logit alone: of the clean run's answer (0) or the source's (1)."""

    def answer(patched, clean, source, *answers):
        at = answers[which]
        return (patched[at] - clean[at]) / (source[at] - clean[at])

    return answer


BACKWARDS = (
    "A patch can move the gap the wrong way. Then the effect is below zero: do not cut it off, or drop its sign."
)
WRONG_EFFECTS = (
    (by_gaps(lambda new, old, end: new),
     "That is the gap after the patch. Where was it before, and how far could it go?"),
    (by_gaps(lambda new, old, end: new - old),
     "That is how far the gap moved. Say it as a share of the way from the clean run's gap to the source's."),
    (by_gaps(lambda new, old, end: -(new - old) / (end - old)),
     "Backwards: a patch that brings the source's answer closer must count as positive."),
    (by_gaps(lambda new, old, end: (new - end) / (old - end)),
     "Measured from the source: an untouched run must have the effect 0, a wholly replaced one 1."),
    (of_one(1), "Only the source's answer was looked at. A patch may also lower the clean run's own answer."),
    (of_one(0), "Only the clean run's answer was looked at. It may fall while the source's comes no closer."),
    (by_gaps(lambda new, old, end: new / end),
     "Divided by the source's gap alone, so an untouched run would not have the effect 0."),
    (by_gaps(lambda new, old, end: new / old),
     "Divided by the clean run's gap, so an untouched run would have the effect 1, and should have 0."),
    (by_gaps(lambda new, old, end: 1 - new / old),
     "That is 1 where the gap is 0, halfway. It has to be 1 where the gap is as large as the source's."),
    (lambda patched, clean, source, *answers: patch_effect(*(x.softmax(0) for x in (patched, clean, source)), *answers),
     "Those are gaps between probabilities. Near 0 and 1 they hardly move; take the logits as they are."),
)  # fmt: skip


def check_patch_effect(answer):
    clean, source = torch.tensor([6.0, 0.0, 1.0]), torch.tensor([-2.0, 5.0, 2.0])  # gaps -6 and 7
    given = torch.tensor([3.0, 0.5, 9.0]), clean, source, 0, 1  # gap -2.5
    answer(*given).should_be(3.5 / 13, *((fn(*given), sentence) for fn, sentence in WRONG_EFFECTS))
    answer(clean, clean, source, 0, 1).should_be(0.0)
    answer(source, clean, source, 0, 1).should_be(1.0)
    worse = torch.tensor([6.5, 0.0, 1.0])  # gap -6.5
    answer(worse, clean, source, 0, 1).should_be(-0.5 / 13, (0.0, BACKWARDS), (0.5 / 13, BACKWARDS))


PATCH_EFFECT = Exercise(
    solution=patch_effect,
    difficulty=2,
    statement="""
        A value from a run on one prompt, the source, was patched into a run on another. `clean`, `source` and `patched`
        are the logits (V,) at the end of the untouched run, the source's own, and the patched one; `clean_answer` and
        `source_answer` are the ids of the right answers to the two prompts. Take the gap, the logit of the
        source's answer minus that of the clean one, and return how far the patch moved it: 0 if not at all, 1 if all
        the way to the source's gap.""",
    check=check_patch_effect,
    hints=(
        "Three gaps, one for each run. Two of them are the ends of a scale.",
        "Where a value x lies between a and b is (x - a) / (b - a).",
        "(gap(patched) - gap(clean)) / (gap(source) - gap(clean)), with gap(x) = x[source_answer] - x[clean_answer].",
    ),
    wrong=(
        *WRONG_EFFECTS,
        (lambda *given: patch_effect(*given).clamp(0, 1), BACKWARDS),
        (lambda *given: patch_effect(*given).abs(), BACKWARDS),
    ),
)

# ---- 3. the lens ----


def lens(x, weight, eps, table):
    normed = x / (x.square().mean() + eps).sqrt() * weight
    return table @ normed


TABLE = torch.tensor([[1.0, 0.0, 2.0, 0.5], [0.0, -1.0, 1.0, 1.0], [0.5, 0.5, 0.5, -1.0]])


def by_length(x, weight, eps, table):
    return table @ (x / (x.square().sum() + eps).sqrt() * weight)


WRONG_LENSES = (
    (lambda x, weight, eps, table: table @ x,
     "The lens without the final norm. The table was trained on normed vectors, so its logits are off in scale, and "
     "with them every probability."),
    (lambda x, weight, eps, table: table @ (x * weight),
     "The norm's weight is there, but its division by the size of x is not."),
    (lambda x, weight, eps, table: lens(x, torch.ones(4), eps, table),
     "The size of x is right, but the norm's weight is missing: it scales each of the C numbers."),
    (lambda x, weight, eps, table: lens(x, weight, 0.0, table), "eps is not used: add it to the mean of squares."),
    (lambda x, weight, eps, table: lens(x - x.mean(), weight, eps, table),
     "That takes the mean out first, as LayerNorm does. This model's norm is RMSNorm: no mean."),
    (lambda x, weight, eps, table: table @ (x / (x.square().mean().sqrt() + eps) * weight),
     "eps stands outside the root. RMSNorm adds it to the mean of the squares, inside."),
    (lambda x, weight, eps, table: table @ (x / (x.square().mean() + eps) * weight),
     "Divided by the mean of the squares. The root is missing."),
    (by_length, "Divided by the length of x: the sum of squares. RMSNorm takes their mean."),
    (lambda x, weight, eps, table: lens(x * weight, torch.ones(4), eps, table),
     "The weight was multiplied in before the norm. It comes after the division."),
    (lambda x, weight, eps, table: lens(x, weight, eps, table).softmax(-1),
     "Those are probabilities. Asked for are the logits before the softmax."),
    (lambda x, weight, eps, table: lens(x, weight, eps, table).log_softmax(-1),
     "Those are log-probabilities. Asked for are the logits before the softmax."),
    (lambda x, weight, eps, table: lens(x, 1 / weight, eps, table), "Divided by the norm's weight: it multiplies."),
)  # fmt: skip
TURNED = "If a product does not fit: the table is (V, C), a row for each token, so it is table @ x, or x @ table.T."


def check_lens(answer):
    x, weight = torch.tensor([3.0, -1.0, 0.5, 1.5]), torch.tensor([1.0, 2.0, 0.5, 1.5])
    given = x, weight, 0.5, TABLE
    answer(*given, errors={RuntimeError: TURNED}).should_be(
        lens(*given), *((fn(*given), sentence) for fn, sentence in WRONG_LENSES)
    )
    answer(2 * x, weight, 0.0, TABLE).should_be(lens(2 * x, weight, 0.0, TABLE))


LENS = Exercise(
    solution=lens,
    difficulty=2,
    statement="""
        The logit lens at one place: `x` (C,) is the residual stream there. Return the logits (V,) that the model would
        give if its last layer were this one: the final RMSNorm, with its `weight` (C,) and `eps`, and then the output
        head, whose matrix `table` (V, C) has a row for each token.""",
    check=check_lens,
    hints=(
        "Two steps, in the order of the model's own last line: lm_head(norm_f(x)).",
        "RMSNorm divides x by the root of the mean of its squares, eps added inside, then multiplies by its weight.",
        "table @ (x / (x.square().mean() + eps).sqrt() * weight)",
    ),
    wrong=(*WRONG_LENSES, (lambda x, weight, eps, table: (x * weight) @ table, TURNED)),
)

# ---- 4. who wrote a logit ----


def shares(parts, weight, eps, row):
    x = parts.sum(0)
    scale = (x.square().mean() + eps).rsqrt()
    return parts @ (row * weight) * scale


def scaled(scale, weighed=True):
    """shares with another scale made of (parts, stream, eps), or without the norm's weight."""

    def answer(parts, weight, eps, row):
        return parts @ (row * weight if weighed else row) * scale(parts, parts.sum(0), eps)

    return answer


def norm_scale(parts, x, eps):
    return (x.square().mean() + eps).rsqrt()


WRONG_SHARES = (
    (scaled(lambda parts, x, eps: 1),
     "The norm's scale was forgotten: these shares add up to a logit that the model never gave. Divide by the size of "
     "the whole stream."),
    (scaled(lambda parts, x, eps: 1, weighed=False),
     "Those are plain products with the token's row: the norm's scale and weight are both missing."),
    (scaled(norm_scale, weighed=False), "The norm's weight is missing: the table reads the stream through it."),
    (scaled(lambda parts, x, eps: (parts.square().mean(-1) + eps).rsqrt()),
     "Every part was normed by its own size. The model norms the sum, once: one scale for all parts, or they do not "
     "add up."),
    (scaled(lambda parts, x, eps: (parts.square().mean() + eps).rsqrt()),
     "The mean was taken over the squares of all parts. The model norms their sum: parts.sum(0) first."),
    (scaled(lambda parts, x, eps: x.square().mean().rsqrt()), "eps is missing, beside the mean of the squares."),
    (scaled(lambda parts, x, eps: 1 / norm_scale(parts, x, eps)), "Multiplied by the stream's size. The norm divides."),
    (scaled(lambda parts, x, eps: 1 / (x.square().mean() + eps)),
     "Divided by the mean of the squares. The root is missing."),
    (scaled(lambda parts, x, eps: 1 / x.norm()),
     "Divided by the length of the stream, the root of the sum of squares. RMSNorm takes their mean."),
    (scaled(lambda parts, x, eps: (x.square().sum() + eps).rsqrt()),
     "The squares were summed. RMSNorm takes the mean of the stream's squares."),
    (lambda *given: shares(*given).sum(), "That is the logit itself, the sum. Asked for is each part's share of it."),
    (lambda *given: shares(*given) / shares(*given).sum(),
     "Those are fractions of the logit. Return the shares themselves, which add up to it."),
    (lambda *given: shares(*given).softmax(0),
     "A softmax of the shares: they may be negative, and they add up to the logit, not to one."),
)  # fmt: skip


def check_shares(answer):
    parts = torch.tensor([[2.0, 0.0, -1.0, 0.5], [0.5, -1.0, 1.0, 0.5], [0.5, 0.0, 0.5, 0.5]])
    given = parts, torch.tensor([1.0, 2.0, 0.5, 1.5]), 0.5, TABLE[0]
    answer(*given).should_be(shares(*given), *((fn(*given), sentence) for fn, sentence in WRONG_SHARES))


SHARES = Exercise(
    solution=shares,
    difficulty=3,
    statement="""
        `parts` (n, C) are what the embedding, each head and each MLP wrote to the stream at one place; their sum is
        the stream. The logit of a token is row · norm(stream), where `row` (C,) is the token's row of the table and
        norm is RMSNorm with `weight` (C,) and `eps`. Return each part's share (n,) of that logit, so that the shares
        add up to it exactly.""",
    check=check_shares,
    hints=(
        "All that is not linear here is the division by the size of the stream. That size is one number.",
        "Treat it as a constant, computed from the sum of all parts. What is left is a product with a vector.",
        "scale = 1 / root(mean of the squares of parts.sum(0), plus eps); shares = parts @ (row * weight) * scale.",
    ),
    wrong=WRONG_SHARES,
)

EXERCISES = (CACHE_BYTES, PATCH_EFFECT, LENS, SHARES)
