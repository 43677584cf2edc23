"""Lesson 04: what the cache holds, reading the stream early, the effect of a patch, and who wrote a logit."""

import torch

from course.exercise import Exercise

# ---- 1. the size of the cache ----


def cache_bytes(n_layer, n_kv_head, head_dim, length):
    return 2 * n_layer * n_kv_head * head_dim * length * 2


def check_cache_bytes(answer):
    answer(6, 2, 64, 512).should_be(
        1_572_864,
        (786_432, "Half of it: a token leaves a key and a value in every layer, and each takes two bytes a number."),
        (393_216, "A quarter of it: neither the value beside the key nor the second byte of each number was counted."),
        (262_144, "One layer's cache. Each layer has keys and values of its own."),
        (786_432 * 4, "Four bytes a number were counted. In bfloat16 it is two."),
        (3072, "One token's. Every token of the text keeps its keys and values."),
        (786_432 * 512, "The length went in twice. Scores are length × length, but only keys and values are kept."),
        (786_432 * 2 / 2**20, "Right, but in mebibytes. Return bytes."),
    )
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
    wrong=(
        (lambda n_layer, n_kv_head, head_dim, length: 2 * n_layer * n_kv_head * head_dim * length, "Half of it"),
        (lambda n_layer, n_kv_head, head_dim, length: n_layer * n_kv_head * head_dim * length, "A quarter"),
        (lambda n_layer, n_kv_head, head_dim, length: 4 * n_kv_head * head_dim * length, "One layer's"),
        (lambda n_layer, n_kv_head, head_dim, length: 8 * n_layer * n_kv_head * head_dim * length, "Four bytes"),
        (lambda n_layer, n_kv_head, head_dim, length: 4 * n_layer * n_kv_head * head_dim, "One token's"),
        (lambda n_layer, n_kv_head, head_dim, length: 2 * n_layer * n_kv_head * head_dim * length**2, "twice"),
        (lambda n_layer, n_kv_head, head_dim, length: n_layer * n_kv_head * head_dim * length / 2**18, "mebibytes"),
    ),
)

# ---- 2. the effect of a patch ----


def patch_effect(patched, clean, source, clean_answer, source_answer):
    def gap(logits):
        return logits[source_answer] - logits[clean_answer]

    return (gap(patched) - gap(clean)) / (gap(source) - gap(clean))


def check_patch_effect(answer):
    clean, source = torch.tensor([6.0, 0.0, 1.0]), torch.tensor([-1.0, 5.0, 2.0])  # gaps -6 and 6
    patched = torch.tensor([3.0, 0.5, 9.0])  # gap -2.5
    answer(patched, clean, source, 0, 1).should_be(
        3.5 / 12,
        (-2.5, "That is the gap after the patch. Where was it before, and how far could it go?"),
        (3.5, "That is how far the gap moved. Say it as a share of the way from the clean run's gap to the source's."),
        (-3.5 / 12, "Backwards: a patch that brings the source's answer closer must count as positive."),
        (8.5 / 12, "Measured from the source: an untouched run must have the effect 0, a wholly replaced one 1."),
        (0.5 / 5, "Only the source's answer was looked at. A patch may also lower the clean run's own answer."),
        (3 / 7, "Only the clean run's answer was looked at. It may fall while the source's comes no closer."),
        (-2.5 / 6, "Divided by the source's gap alone, so an untouched run would not have the effect 0."),
    )
    answer(clean, clean, source, 0, 1).should_be(0.0)
    answer(source, clean, source, 0, 1).should_be(1.0)


def gap(logits, clean_answer, source_answer):
    return logits[source_answer] - logits[clean_answer]


def moved(patched, clean, source, clean_answer, source_answer):
    answers = clean_answer, source_answer
    return gap(patched, *answers) - gap(clean, *answers)


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
        (lambda patched, clean, source, clean_answer, source_answer: gap(patched, clean_answer, source_answer),
         "gap after the patch"),
        (moved, "how far the gap moved"),
        (lambda patched, clean, source, clean_answer, source_answer:
         -patch_effect(patched, clean, source, clean_answer, source_answer), "Backwards"),
        (lambda patched, clean, source, clean_answer, source_answer:
         patch_effect(patched, source, clean, clean_answer, source_answer), "Measured from the source"),
        (lambda patched, clean, source, clean_answer, source_answer:
         (patched[source_answer] - clean[source_answer]) / (source[source_answer] - clean[source_answer]),
         "Only the source's answer"),
        (lambda patched, clean, source, clean_answer, source_answer:
         (patched[clean_answer] - clean[clean_answer]) / (source[clean_answer] - clean[clean_answer]),
         "Only the clean run's answer"),
        (lambda patched, clean, source, clean_answer, source_answer:
         gap(patched, clean_answer, source_answer) / gap(source, clean_answer, source_answer), "source's gap alone"),
    ),
)

# ---- 3. the lens ----


def lens(x, weight, eps, table):
    normed = x / (x.square().mean() + eps).sqrt() * weight
    return table @ normed


X, WEIGHT = torch.tensor([3.0, -1.0, 0.5, 1.5]), torch.tensor([1.0, 2.0, 0.5, 1.5])
TABLE = torch.tensor([[1.0, 0.0, 2.0, 0.5], [0.0, -1.0, 1.0, 1.0], [0.5, 0.5, 0.5, -1.0]])
EPS = 0.5


def centred(x, weight, eps, table):
    return lens(x - x.mean(), weight, eps, table)


def eps_outside(x, weight, eps, table):
    return table @ (x / (x.square().mean().sqrt() + eps) * weight)


def by_length(x, weight, eps, table):
    return table @ (x / (x.square().sum() + eps).sqrt() * weight)


def check_lens(answer):
    given = X, WEIGHT, EPS, TABLE
    answer(*given).should_be(
        lens(*given),
        (TABLE @ X,
         "The lens without the final norm. The head was trained on normed vectors, so its logits are off in scale, and "
         "with them every probability."),
        (TABLE @ (X * WEIGHT), "The norm's weight is there, but its division by the size of x is not."),
        (lens(X, torch.ones(4), EPS, TABLE),
         "The size of x is right, but the norm's weight is missing: it scales each of the C numbers."),
        (centred(*given), "That takes the mean out first, as LayerNorm does. This model's norm is RMSNorm: no mean."),
        (eps_outside(*given), "eps stands outside the root. RMSNorm adds it to the mean of the squares, inside."),
        (by_length(*given), "Divided by the length of x: the sum of squares. RMSNorm takes their mean."),
        (lens(*given).softmax(-1), "Those are probabilities. Asked for are the logits before the softmax."),
        (lens(X, 1 / WEIGHT, EPS, TABLE), "Divided by the norm's weight: it multiplies."),
    )
    answer(2 * X, WEIGHT, 0.0, TABLE).should_be(lens(X, WEIGHT, 0.0, TABLE))


LENS = Exercise(
    solution=lens,
    difficulty=2,
    statement="""
        The logit lens at one place: `x` (C,) is the residual stream there. Return the logits (V,) that the model would
        give if its last layer were this one: the final RMSNorm, with its `weight` (C,) and `eps`, and then the head,
        whose matrix `table` (V, C) has a row for each token.""",
    check=check_lens,
    hints=(
        "Two steps, in the order of the model's own last line: lm_head(norm_f(x)).",
        "RMSNorm divides x by the root of the mean of its squares, eps added inside, then multiplies by its weight.",
        "table @ (x / (x.square().mean() + eps).sqrt() * weight)",
    ),
    wrong=(
        (lambda x, weight, eps, table: table @ x, "without the final norm"),
        (lambda x, weight, eps, table: table @ (x * weight), "division by the size"),
        (lambda x, weight, eps, table: lens(x, torch.ones(4), eps, table), "weight is missing"),
        (centred, "LayerNorm"),
        (eps_outside, "outside the root"),
        (by_length, "length of x"),
        (lambda x, weight, eps, table: lens(x, weight, eps, table).softmax(-1), "probabilities"),
        (lambda x, weight, eps, table: lens(x, 1 / weight, eps, table), "Divided by the norm's weight"),
    ),
)

# ---- 4. who wrote a logit ----


def shares(parts, weight, eps, row):
    x = parts.sum(0)
    scale = (x.square().mean() + eps).rsqrt()
    return parts @ (row * weight) * scale


PARTS = torch.tensor([[2.0, 0.0, -1.0, 0.5], [0.5, -1.0, 1.0, 0.5], [0.5, 0.0, 0.5, 0.5]])  # their sum is X


def norm_each(parts, weight, eps, row):
    return torch.stack([shares(part[None], weight, eps, row)[0] for part in parts])


def check_shares(answer):
    row = TABLE[0]
    given = PARTS, WEIGHT, EPS, row
    right = shares(*given)
    answer(*given).should_be(
        right,
        (PARTS @ (row * WEIGHT),
         "The norm's scale was forgotten: these shares add up to a logit that the model never gave. Divide by the size "
         "of the whole stream."),
        (PARTS @ row, "Those are plain products with the head's row: the norm's scale and weight are both missing."),
        (shares(PARTS, torch.ones(4), EPS, row), "The norm's weight is missing: the head reads the stream through it."),
        (norm_each(*given),
         "Every part was normed by its own size. The model norms the sum, once: one scale for all parts, or they do "
         "not add up."),
        (right.sum(), "That is the logit itself, the sum. Asked for is each part's share of it."),
        (right / right.sum(), "Those are fractions of the logit. Return the shares themselves, which add up to it."),
        (right.softmax(0), "A softmax of the shares: they may be negative, and they add up to the logit, not to one."),
        (PARTS @ (row * WEIGHT) / X.norm(),
         "Divided by the length of the stream, the root of the sum of squares. RMSNorm takes their mean."),
    )


SHARES = Exercise(
    solution=shares,
    difficulty=3,
    statement="""
        `parts` (n, C) are what the embedding, each head and each MLP wrote to the stream at one place; their sum is
        the stream. The logit of a token is row · norm(stream), where `row` (C,) is the token's row of the head and norm
        is RMSNorm with `weight` (C,) and `eps`. Return each part's share (n,) of that logit, so that the shares add up
        to it exactly.""",
    check=check_shares,
    hints=(
        "All that is not linear here is the division by the size of the stream. That size is one number.",
        "Treat it as a constant, computed from the sum of all parts. What is left is a product with a vector.",
        "scale = 1 / root(mean of the squares of parts.sum(0), plus eps); shares = parts @ (row * weight) * scale.",
    ),
    wrong=(
        (lambda parts, weight, eps, row: parts @ (row * weight), "scale was forgotten"),
        (lambda parts, weight, eps, row: parts @ row, "both missing"),
        (lambda parts, weight, eps, row: shares(parts, torch.ones(4), eps, row), "weight is missing"),
        (norm_each, "by its own size"),
        (lambda parts, weight, eps, row: shares(parts, weight, eps, row).sum(), "the logit itself"),
        (lambda parts, weight, eps, row: shares(parts, weight, eps, row) / shares(parts, weight, eps, row).sum(),
         "fractions"),
        (lambda parts, weight, eps, row: shares(parts, weight, eps, row).softmax(0), "softmax"),
        (lambda parts, weight, eps, row: parts @ (row * weight) / parts.sum(0).norm(), "length of the stream"),
    ),
)

EXERCISES = (CACHE_BYTES, PATCH_EFFECT, LENS, SHARES)
