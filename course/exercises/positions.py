"""Lesson 05: a bias that grows with distance, the rotation, a stretched base, and where a cached text goes on."""

import math

import torch

from course.exercise import Exercise

# ---- 1. ALiBi ----


def alibi_bias(slope, t):
    distance = torch.arange(t)[:, None] - torch.arange(t)[None, :]  # (T, T)
    return (-slope * distance.float()).masked_fill(distance < 0, -math.inf)


def with_bias(bias, hidden=lambda d: d < 0, filled=-math.inf):
    """An answer with another bias made of (slope, distances), with other places hidden, or filled otherwise."""

    def answer(slope, t):
        distance = torch.arange(t)[:, None] - torch.arange(t)[None, :]
        return bias(slope, distance.float()).masked_fill(hidden(distance), filled)

    return answer


WRONG_BIASES = (
    (with_bias(lambda slope, d: slope * d),
     "The slope has the wrong sign: this rewards distance. Far keys would win every softmax."),
    (with_bias(lambda slope, d: -slope * d.abs(), hidden=lambda d: d != d),
     "The future is not hidden: with a finite bias a query sees keys that come after it."),
    (with_bias(lambda slope, d: -slope * d, hidden=lambda d: d != d),
     "Keys after the query get a bonus, and are not hidden. Where n > m the bias is -inf."),
    (with_bias(lambda slope, d: -slope * d, hidden=lambda d: d <= 0),
     "The query's own key is hidden too. It stands at distance 0, and row 0 would see nothing at all."),
    (with_bias(lambda slope, d: -slope * d.abs(), hidden=lambda d: d > 0),
     "Turned on its side: row m is the query's. Row 0 may see column 0 only."),
    (with_bias(lambda slope, d: -slope * d, filled=0.0), "The future got a bias of 0, the best of all. It takes -inf."),
    (with_bias(lambda slope, d: -slope * d, filled=-1e9), "The future got -1e9. That would do, but -inf is asked for."),
    (with_bias(lambda slope, d: torch.zeros_like(d)), "That is the causal mask alone: where is the distance?"),
    (with_bias(lambda slope, d: -slope * (d + 1)),
     "Distances were counted from 1. A softmax would not notice, but a token's distance from itself is 0."),
    (with_bias(lambda slope, d: slope * torch.arange(len(d)).expand_as(d)),
     "That is slope · n, which a softmax cannot tell from -slope · (m - n). The distance itself is asked for."),
    (with_bias(lambda slope, d: -d / slope), "Divided by the slope. It multiplies the distance."),
    (with_bias(lambda slope, d: -(slope**d)),
     "The slope was raised to the distance. The bias is linear: slope times distance."),
)  # fmt: skip


def check_alibi_bias(answer):
    answer(0.5, 3).should_be(alibi_bias(0.5, 3), *((fn(0.5, 3), sentence) for fn, sentence in WRONG_BIASES))
    answer(0.25, 1).should_be(torch.zeros(1, 1))


ALIBI_BIAS = Exercise(
    solution=alibi_bias,
    difficulty=1,
    statement="""
        What ALiBi adds to one head's scores: return a tensor (T, T), T = `t`, whose row m, column n holds -`slope`
        times the distance m - n, and -inf where the key n comes after the query m.""",
    check=check_alibi_bias,
    hints=(
        "Make the distances first: a column of m minus a row of n.",
        "torch.arange(t)[:, None] - torch.arange(t)[None, :] is m - n at row m, column n. Where is it negative?",
        "(-slope * distance.float()).masked_fill(distance < 0, -math.inf)",
    ),
    wrong=WRONG_BIASES,
)

# ---- 2. RoPE ----


def turn(x, position, theta):
    pair = torch.arange(len(x) // 2)
    angle = position * theta ** (-2 * pair / len(x))  # (D/2,)
    a, b = x.chunk(2)
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()])


def interleaved(x, position, theta):
    pair = torch.arange(len(x) // 2)
    angle = position * theta ** (-2 * pair / len(x))
    a, b = x[::2], x[1::2]
    return torch.stack([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], dim=-1).flatten()


def by_angle(angle):
    """A rotation of the right pairs by another angle."""

    def answer(x, position, theta):
        by = angle(position, theta, torch.arange(len(x) // 2), len(x))
        a, b = x.chunk(2)
        return torch.cat([a * by.cos() - b * by.sin(), b * by.cos() + a * by.sin()])

    return answer


def both_minus(x, position, theta):
    angle = position * theta ** (-2 * torch.arange(len(x) // 2) / len(x))
    a, b = x.chunk(2)
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() - a * angle.sin()])


def neighbours_at_the_end(x, position, theta):
    a, b = turn(x, position, theta).chunk(2)
    return torch.stack([a, b], dim=-1).flatten()


WRONG_TURNS = (
    (by_angle(lambda m, theta, i, D: (m + 1) * theta ** (-2 * i / D)),
     "Every angle is one step on: the first position is 0, and there nothing turns."),
    (interleaved,
     "The wrong pairs: neighbours (x_0, x_1) were turned together, as in the paper. In this model's weights, as in "
     "Llama's, pair i is (x_i, x_{i + D/2})."),
    (neighbours_at_the_end,
     "The right pairs, but put down as neighbours. Every number goes back to its own place: torch.cat, not stack."),
    (both_minus, "One sine has the wrong sign: lengths change, so that is no rotation."),
    (by_angle(lambda m, theta, i, D: -m * theta ** (-2 * i / D)),
     "The angle has the wrong sign: every pair turns backwards. Alone it would still work; with weights that were "
     "trained the other way it does not."),
    (by_angle(lambda m, theta, i, D: m * theta ** (-i / D)),
     "The exponent is without the 2: the slowest pair must come near 1/theta, not its root."),
    (by_angle(lambda m, theta, i, D: m * theta ** (-4 * i / D)),
     "The exponent was divided by D/2, the number of pairs. D is the length of all of x."),
    (by_angle(lambda m, theta, i, D: m * theta ** (2 * i / D)),
     "The angles grow instead of shrinking: the exponent is negative."),
    (by_angle(lambda m, theta, i, D: m * theta ** (-2 * (i + 1) / D)),
     "The pairs are counted from 1: pair 0 turns by one radian a token."),
    (by_angle(lambda m, theta, i, D: m * torch.ones(len(i))),
     "All pairs turn equally fast. Pair i turns by theta^(-2i/D) a token."),
    (by_angle(lambda m, theta, i, D: torch.deg2rad(m * theta ** (-2 * i / D))),
     "The angles were taken as degrees. They are radians already."),
)  # fmt: skip
TOO_MANY = (
    "If sizes do not fit: there are D/2 pairs, so D/2 angles, torch.arange(D // 2), and a and b have D/2 numbers."
)


def check_turn(answer):
    x = torch.tensor([1.0, 2.0, -1.0, 0.5, 3.0, -2.0])
    for given in (x, 0, 100.0), (x, 3, 100.0):
        answer(*given, errors={RuntimeError: TOO_MANY}).should_be(
            turn(*given), *((fn(*given), sentence) for fn, sentence in WRONG_TURNS)
        )


TURN = Exercise(
    solution=turn,
    difficulty=2,
    statement="""
        Turn one head's query or key `x` (D,) as RoPE does at `position` m: pair i, (a, b) = (x_i, x_{i + D/2}), becomes
        (a cos φ - b sin φ, b cos φ + a sin φ) with the angle φ = m · theta^(-2i/D), `theta` being the base.""",
    check=check_turn,
    hints=(
        "There are D/2 pairs and so D/2 angles. The first half of x holds all the a, the second all the b.",
        "angle = position * theta ** (-2 * torch.arange(D // 2) / D), and a, b = x.chunk(2).",
        "torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()])",
    ),
    wrong=(*WRONG_TURNS, (by_angle(lambda m, theta, i, D: m * theta ** (-2 * torch.arange(D) / D)), TOO_MANY)),
)

# ---- 3. a stretched base ----


def ntk_theta(theta, factor, head_dim):
    return theta * factor ** (head_dim / (head_dim - 2))


WRONG_BASES = (
    (lambda theta, s, D: theta * s,
     "The base times the factor: the slowest pair would be slowed by less, 8^(14/16). Its exponent is (D - 2)/D, so "
     "the base needs the inverse power."),
    (lambda theta, s, D: theta * s ** ((D - 2) / D),
     "The exponent is upside down: what theta is raised to is (D - 2)/D; undo that."),
    (lambda theta, s, D: s ** (D / (D - 2)), "That is by how much the base grows. Times theta, it is the new base."),
    (lambda theta, s, D: (theta * s) ** (D / (D - 2)), "The power is of the factor alone: theta stays outside of it."),
    (lambda theta, s, D: theta * s ** (2 / (D - 2)),
     "That is by how much pair 1 is slowed. Here the whole base is asked for."),
    (lambda theta, s, D: theta / s, "The base became smaller: every pair turns faster, and texts look longer still."),
    (lambda theta, s, D: theta * s ** (-D / (D - 2)),
     "The sign of the exponent: longer texts need slower turns, so a larger base."),
    (lambda theta, s, D: theta ** (D / (D - 2)), "The factor is missing: with a factor of 1 nothing may change."),
    (lambda theta, s, D: ntk_theta(theta, s, D) * s, "The factor came in twice."),
)  # fmt: skip


def check_ntk_theta(answer):
    given = 10_000.0, 8.0, 16
    answer(*given).should_be(ntk_theta(*given), *((fn(*given), sentence) for fn, sentence in WRONG_BASES))
    answer(500_000.0, 1.0, 128).should_be(500_000.0)


NTK_THETA = Exercise(
    solution=ntk_theta,
    difficulty=3,
    statement="""
        NTK-aware scaling changes nothing but RoPE's base. Return the base that takes the place of `theta` so that the
        slowest pair, i = D/2 - 1 with D = `head_dim`, turns `factor` times more slowly than before (its speed is
        base^(-2i/D)), while pair 0 turns as ever.""",
    check=check_ntk_theta,
    hints=(
        "Write down the slowest pair's speed with the old base and with the new one. Their ratio is known.",
        "-2i/D at i = D/2 - 1 is -(D - 2)/D. So (new / theta) to the power (D - 2)/D must be the factor.",
        "Raise both sides to D/(D - 2): new = theta * factor ** (D / (D - 2)).",
    ),
    wrong=WRONG_BASES,
)

# ---- 4. with a cache ----


def cached_scores(q, cached, theta):
    S, T = len(cached), len(q)
    positions = range(S - T, S)
    return torch.stack([turn(row, m, theta) for row, m in zip(q, positions, strict=True)]) @ cached.T


def turned(x, positions, theta):
    return torch.stack([turn(row, m, theta) for row, m in zip(x, positions, strict=True)])


def at(positions):
    """An answer whose T queries stand at the positions made of (S, T)."""
    return lambda q, cached, theta: turned(q, positions(len(cached), len(q)), theta) @ cached.T


WRONG_SCORES = (
    (at(lambda S, T: range(T)),
     "The position is not offset by what the cache holds: the new tokens were turned as if the text began with them. "
     "Three tokens stand before."),
    (lambda q, cached, theta: q @ cached.T, "The queries were not turned at all. The keys in the cache are."),
    (at(lambda S, T: range(S, S + T)),
     "Offset by all that is in the cache, the new tokens' own keys included. The last query stands where the last key "
     "stands."),
    (at(lambda S, T: [S - 1] * T), "Every query was put at the last position. They follow each other."),
    (at(lambda S, T: [S - T] * T), "Every query was put at the first new position. They follow each other."),
    (lambda q, cached, theta: turn(q, len(cached) - len(q), theta) @ cached.T,
     "`turn` was given all queries at once, and took rows for halves. It turns one vector: call it for each row."),
    (lambda q, cached, theta: at(lambda S, T: range(S - T, S))(q, turned(cached, range(len(cached)), theta), theta),
     "The keys were turned a second time. They went into the cache turned."),
    (at(lambda S, T: range(S - T + 1, S + 1)), "One too far: the last of five tokens stands at position 4."),
    (lambda q, cached, theta: cached_scores(q, cached, theta) / q.shape[1] ** 0.5,
     "Divided by √D, as attention does next. Here the products alone are asked for."),
)  # fmt: skip


def check_cached_scores(answer):
    draw = torch.Generator().manual_seed(0)
    given = torch.randn(2, 4, generator=draw), torch.randn(5, 4, generator=draw), 100.0
    answer(*given).should_be(cached_scores(*given), *((fn(*given), sentence) for fn, sentence in WRONG_SCORES))
    one = given[0][:1], given[1][:1], 100.0
    answer(*one).should_be(cached_scores(*one))


CACHED_SCORES = Exercise(
    solution=cached_scores,
    difficulty=3,
    statement="""
        Decoding with a cache: `cached` (S, D) are the keys of all S tokens of a text, already turned by RoPE at their
        positions 0 … S - 1; `q` (T, D) are the queries of its last T tokens, not turned yet. Return the scores (T, S),
        the products of turned queries and keys (no √D, no mask), with the base `theta`. Your `turn` of this lesson's
        second exercise may help.""",
    check=check_cached_scores,
    hints=(
        "At which position does the last query stand? And the first of the T?",
        "The T new tokens are the last of S, so they stand at S - T … S - 1. The keys are ready as they are.",
        "torch.stack([turn(row, m, theta) for row, m in zip(q, range(S - T, S))]) @ cached.T",
    ),
    wrong=WRONG_SCORES,
)

EXERCISES = (ALIBI_BIAS, TURN, NTK_THETA, CACHED_SCORES)
