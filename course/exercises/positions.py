"""Lesson 05: a bias that grows with distance, the rotation, a stretched base, and where a cached text goes on."""

import math

import torch

from course.exercise import Exercise

# ---- 1. ALiBi ----


def alibi_bias(slope, t):
    distance = torch.arange(t)[:, None] - torch.arange(t)[None, :]  # (T, T)
    return (-slope * distance.float()).masked_fill(distance < 0, -math.inf)


def check_alibi_bias(answer):
    right, future = alibi_bias(0.5, 3), torch.ones(3, 3).triu(1).bool()
    distance = (torch.arange(3.0)[:, None] - torch.arange(3.0)).abs()
    answer(0.5, 3).should_be(
        right,
        ((0.5 * distance).masked_fill(future, -math.inf),
         "The slope has the wrong sign: this rewards distance. Far keys would win every softmax."),
        (-0.5 * distance, "The future is not hidden: with a finite bias a query sees keys that come after it."),
        (-0.5 * (torch.arange(3.0)[:, None] - torch.arange(3.0)),
         "Keys after the query get a bonus, and are not hidden. Where n > m the bias is -inf."),
        ((-0.5 * distance).masked_fill(future.T, -math.inf),
         "Turned on its side: row m is the query's. Row 0 may see column 0 only."),
        ((-0.5 * distance).masked_fill(future, 0.0), "The future got a bias of 0, the best there is. It takes -inf."),
        (torch.zeros(3, 3).masked_fill(future, -math.inf), "That is the causal mask alone: where is the distance?"),
        ((-distance / 0.5).masked_fill(future, -math.inf), "Divided by the slope. It multiplies the distance."),
        ((-(0.5**distance)).masked_fill(future, -math.inf),
         "The slope was raised to the distance. The bias is linear: slope times distance."),
    )
    answer(0.25, 1).should_be(torch.zeros(1, 1))


def with_bias(bias):
    def answer(slope, t):
        distance = torch.arange(t)[:, None] - torch.arange(t)[None, :]
        return bias(slope, distance.float(), distance < 0)

    return answer


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
    wrong=(
        (with_bias(lambda slope, d, future: (slope * d.abs()).masked_fill(future, -math.inf)), "wrong sign"),
        (with_bias(lambda slope, d, future: -slope * d.abs()), "not hidden: with a finite"),
        (with_bias(lambda slope, d, future: -slope * d), "get a bonus"),
        (with_bias(lambda slope, d, future: (-slope * d.abs()).masked_fill(future.T, -math.inf)), "on its side"),
        (with_bias(lambda slope, d, future: (-slope * d).masked_fill(future, 0.0)), "bias of 0"),
        (with_bias(lambda slope, d, future: torch.zeros_like(d).masked_fill(future, -math.inf)), "mask alone"),
        (with_bias(lambda slope, d, future: (-d / slope).masked_fill(future, -math.inf)), "Divided by the slope"),
        (with_bias(lambda slope, d, future: (-(slope**d)).masked_fill(future, -math.inf)), "raised to"),
    ),
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


TURNS = {  # what other angles give, with their sentence
    "wrong sign": (lambda m, theta, i, D: -m * theta ** (-2 * i / D),
                   "The angle has the wrong sign: every pair turns backwards. Alone it would still work; with weights "
                   "that were trained the other way it does not."),
    "without the 2": (lambda m, theta, i, D: m * theta ** (-i / D),
                      "The exponent is without the 2: the slowest pair must come near 1/theta, not its root."),
    "one step on": (lambda m, theta, i, D: (m + 1) * theta ** (-2 * i / D),
                    "Every angle is one step on: the first position is 0, and there nothing turns."),
    "grow instead": (lambda m, theta, i, D: m * theta ** (2 * i / D),
                     "The angles grow instead of shrinking: the exponent is negative."),
    "starts at 1": (lambda m, theta, i, D: m * theta ** (-2 * (i + 1) / D),
                    "The pairs are counted from 1: pair 0 turns by one radian a token."),
    "all pairs": (lambda m, theta, i, D: m * torch.ones(len(i)),
                  "All pairs turn equally fast. Pair i turns by theta^(-2i/D) a token."),
    "degrees": (lambda m, theta, i, D: torch.deg2rad(m * theta ** (-2 * i / D)),
                "The angles were taken as degrees. They are radians already."),
}  # fmt: skip


def check_turn(answer):
    x = torch.tensor([1.0, 2.0, -1.0, 0.5])
    answer(x, 0, 100.0).should_be(
        x, (by_angle(TURNS["one step on"][0])(x, 0, 100.0), TURNS["one step on"][1]))
    answer(x, 3, 100.0).should_be(
        turn(x, 3, 100.0),
        (interleaved(x, 3, 100.0),
         "The wrong pairs: neighbours (x_0, x_1) were turned together, as in the paper. In this model's weights, as in "
         "Llama's, pair i is (x_i, x_{i + D/2})."),
        (both_minus(x, 3, 100.0), "One sine has the wrong sign: lengths change, so that is no rotation."),
        *((by_angle(angle)(x, 3, 100.0), message) for angle, message in TURNS.values()),
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
    wrong=(
        (interleaved, "wrong pairs"),
        (both_minus, "no rotation"),
        (by_angle(TURNS["wrong sign"][0]), "backwards"),
        (by_angle(TURNS["without the 2"][0]), "without the 2"),
        (by_angle(TURNS["one step on"][0]), "one step on"),
        (by_angle(TURNS["grow instead"][0]), "grow instead"),
        (by_angle(TURNS["starts at 1"][0]), "counted from 1"),
        (by_angle(TURNS["all pairs"][0]), "equally fast"),
        (by_angle(TURNS["degrees"][0]), "degrees"),
    ),
)

# ---- 3. a stretched base ----


def ntk_theta(theta, factor, head_dim):
    return theta * factor ** (head_dim / (head_dim - 2))


def check_ntk_theta(answer):
    right = 10_000 * 8 ** (16 / 14)
    answer(10_000.0, 8.0, 16).should_be(
        right,
        (80_000.0, "The base times the factor: the slowest pair would be slowed by less, 8^(14/16). Its exponent is "
                   "(D - 2)/D, so the base needs the inverse power."),
        (10_000 * 8 ** (14 / 16), "The exponent is upside down: what theta is raised to is (D - 2)/D; undo that."),
        (10_000 * 8 ** (2 / 14), "That is by how much pair 1 is slowed. Here the whole base is asked for."),
        (1250.0, "The base became smaller: then every pair turns faster, and the text looks longer still."),
        (10_000 * 8 ** (-16 / 14), "The sign of the exponent: longer texts need slower turns, so a larger base."),
        (10_000.0 ** (16 / 14), "The factor is missing: with a factor of 1 nothing may change."),
        (10_000 * 8 ** (8 / 7) * 8, "The factor came in twice."),
    )
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
    wrong=(
        (lambda theta, factor, head_dim: theta * factor, "The base times the factor"),
        (lambda theta, factor, head_dim: theta * factor ** ((head_dim - 2) / head_dim), "upside down"),
        (lambda theta, factor, head_dim: theta * factor ** (2 / (head_dim - 2)), "pair 1 is slowed"),
        (lambda theta, factor, head_dim: theta / factor, "became smaller"),
        (lambda theta, factor, head_dim: theta * factor ** (-head_dim / (head_dim - 2)), "sign of the exponent"),
        (lambda theta, factor, head_dim: theta ** (head_dim / (head_dim - 2)), "factor is missing"),
        (lambda theta, factor, head_dim: ntk_theta(theta, factor, head_dim) * factor, "came in twice"),
    ),
)

# ---- 4. with a cache ----


def cached_scores(q, cached, theta):
    S, T = len(cached), len(q)
    positions = range(S - T, S)
    return torch.stack([turn(row, m, theta) for row, m in zip(q, positions, strict=True)]) @ cached.T


def turned(q, positions, theta):
    return torch.stack([turn(row, m, theta) for row, m in zip(q, positions, strict=True)])


def check_cached_scores(answer):
    draw = torch.Generator().manual_seed(0)
    q, cached = torch.randn(2, 4, generator=draw), torch.randn(5, 4, generator=draw)
    S, T = 5, 2
    answer(q, cached, 100.0).should_be(
        cached_scores(q, cached, 100.0),
        (turned(q, range(T), 100.0) @ cached.T,
         "The position is not offset by what the cache holds: the new tokens were turned as if the text began with "
         "them. Three tokens stand before."),
        (q @ cached.T, "The queries were not turned at all. The keys in the cache are."),
        (turned(q, range(S, S + T), 100.0) @ cached.T,
         "Offset by all that is in the cache, the new tokens' own keys included. The last query stands where the last "
         "key stands."),
        (turned(q, [S - 1] * T, 100.0) @ cached.T, "Every query was put at the last position. They follow each other."),
        (turned(q, range(S - T, S), 100.0) @ turned(cached, range(S), 100.0).T,
         "The keys were turned a second time. They went into the cache turned."),
        (turned(q, range(S - T + 1, S + 1), 100.0) @ cached.T,
         "One too far: the last of five tokens stands at position 4."),
    )
    answer(q[:1], cached[:1], 100.0).should_be(cached_scores(q[:1], cached[:1], 100.0))


CACHED_SCORES = Exercise(
    solution=cached_scores,
    difficulty=3,
    statement="""
        Decoding with a cache: `cached` (S, D) are the keys of all S tokens of a text, already turned by RoPE at their
        positions 0 … S - 1; `q` (T, D) are the queries of its last T tokens, not turned yet. Return the scores (T, S),
        the products of turned queries and keys (no √D, no mask), with the base `theta`. The `turn` of the exercise
        before may help.""",
    check=check_cached_scores,
    hints=(
        "At which position does the last query stand? And the first of the T?",
        "The T new tokens are the last of S, so they stand at S - T … S - 1. The keys are ready as they are.",
        "torch.stack([turn(row, m, theta) for row, m in zip(q, range(S - T, S))]) @ cached.T",
    ),
    wrong=(
        (lambda q, cached, theta: turned(q, range(len(q)), theta) @ cached.T, "not offset"),
        (lambda q, cached, theta: q @ cached.T, "not turned at all"),
        (lambda q, cached, theta: turned(q, range(len(cached), len(cached) + len(q)), theta) @ cached.T,
         "all that is in"),
        (lambda q, cached, theta: turned(q, [len(cached) - 1] * len(q), theta) @ cached.T, "Every query"),
        (lambda q, cached, theta: turned(q, range(len(cached) - len(q), len(cached)), theta)
         @ turned(cached, range(len(cached)), theta).T, "second time"),
        (lambda q, cached, theta: turned(q, range(len(cached) - len(q) + 1, len(cached) + 1), theta) @ cached.T,
         "One too far"),
    ),
)

EXERCISES = (ALIBI_BIAS, TURN, NTK_THETA, CACHED_SCORES)
