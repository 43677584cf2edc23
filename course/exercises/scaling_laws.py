"""Lesson 07: a budget split by rule of thumb, what a fit minimises, break-even of two models, the best size."""

import math

from course.exercise import Exercise

# ---- 1. a rule of thumb ----


def split(flops, tokens_per_parameter):
    n = math.sqrt(flops / (6 * tokens_per_parameter))
    return n, tokens_per_parameter * n


def check_split(answer):
    n, d = 1e9, 2e10  # 20 tokens a parameter: 1.2e20 FLOPs
    answer(1.2e20, 20.0).should_be(
        (n, d),
        (
            (math.sqrt(1.2e20 / 20), 20 * math.sqrt(1.2e20 / 20)),
            "The 6 is missing: each token costs 6 FLOPs for every parameter, 2 forward and 4 backward.",
        ),
        (
            (math.sqrt(1.2e20 / 40), 20 * math.sqrt(1.2e20 / 40)),
            "2 FLOPs for a parameter and a token are the forward pass alone. Training costs 6.",
        ),
        (
            (1.2e20 / 120, 20 * 1.2e20 / 120),
            "The root is missing: with D = rN, the budget is 6 r N², so N grows as its square root.",
        ),
        ((d, n), "N and D changed places, or the ratio is upside down: it is D/N, and N comes first."),
        ((n, 20.0), "The second value is the number of tokens, not the ratio."),
    )
    answer(6e18, 1.0).should_be((1e9, 1e9))


def split_by(n_of, d_of):
    def answer(flops, tokens_per_parameter):
        n = n_of(flops, tokens_per_parameter)
        return n, d_of(n, tokens_per_parameter)

    return answer


SPLIT = Exercise(
    solution=split,
    difficulty=1,
    statement="""
        A rule of thumb gives every parameter a fixed number of tokens, `tokens_per_parameter` = D/N. Return (N, D) for
        a budget of `flops`, with training at 6 N D FLOPs.""",
    check=check_split,
    hints=(
        "Two equations, two unknowns: 6 N D is the budget, and D is the ratio times N.",
        "Put the second into the first: 6 · ratio · N² = budget.",
        "n = math.sqrt(flops / (6 * tokens_per_parameter)); d = tokens_per_parameter * n",
    ),
    wrong=(
        (split_by(lambda c, r: math.sqrt(c / r), lambda n, r: r * n), "6 is missing"),
        (split_by(lambda c, r: math.sqrt(c / (2 * r)), lambda n, r: r * n), "forward pass alone"),
        (split_by(lambda c, r: c / (6 * r), lambda n, r: r * n), "root is missing"),
        (lambda flops, tokens_per_parameter: split(flops, tokens_per_parameter)[::-1], "changed places"),
        (split_by(lambda c, r: math.sqrt(c / (6 * r)), lambda n, r: r), "not the ratio"),
    ),
)

# ---- 2. what a fit minimises ----


def log_huber(predicted, measured, delta):
    total = 0.0
    for p, m in zip(predicted, measured, strict=True):
        off = abs(math.log(p) - math.log(m))
        total += off**2 / 2 if off <= delta else delta * (off - delta / 2)
    return total


def pieces(off_of=lambda p, m: abs(math.log(p / m)), parabola=lambda off, delta: off**2 / 2,
           line=lambda off, delta: delta * (off - delta / 2)):  # fmt: skip
    """log_huber with another difference, or another piece of the loss."""

    def total(predicted, measured, delta):
        offs = [off_of(p, m) for p, m in zip(predicted, measured, strict=True)]
        return sum(parabola(off, delta) if off <= delta else line(off, delta) for off in offs)

    return total


WRONG_HUBERS = (
    (pieces(line=lambda off, delta: off**2 / 2),
     "Squares alone: one run that went wrong would bend the law. Beyond delta the loss grows as a straight line."),
    (pieces(off_of=lambda p, m: abs(p - m)),
     "The difference was taken without logarithms: small models, whose losses are large, would count for more."),
    (pieces(parabola=lambda off, delta: delta * off, line=lambda off, delta: delta * off),
     "Absolute values throughout. Within delta the loss is a parabola."),
    (pieces(line=lambda off, delta: delta * off),
     "There is a jump at delta: the line must start where the parabola ends, so it is delta (off - delta/2)."),
    (pieces(parabola=lambda off, delta: off**2, line=lambda off, delta: delta * (2 * off - delta)),
     "Twice too much: the parabola is off²/2, with the half."),
    (lambda p, m, delta: log_huber(p, m, delta) / len(p),
     "That is the mean. Here the sum over the runs is asked for."),
    (pieces(off_of=lambda p, m: math.log(p / m)),
     "The difference has kept its sign: where the law predicts too little it is negative, so never above delta. Take "
     "its absolute value first."),
    (pieces(line=lambda off, delta: delta * off - delta / 2),
     "The brackets are missing: delta * (off - delta/2), so that the line starts where the parabola ends."),
    (pieces(off_of=lambda p, m: abs(math.log10(p / m))),
     "Logarithms to the base 10. Natural ones are asked for: math.log, torch.log or np.log."),
    (pieces(off_of=lambda p, m: abs(p / m - 1)),
     "That is the relative difference, predicted/measured - 1. It is nearly the same near 0, but calls twice too much "
     "worse than half of it."),
)  # fmt: skip


def check_log_huber(answer):
    case = [2.0, 1.0, 0.5, 3.0], [2.1, 2.0, 0.5, 1.5], 0.1
    mistakes = [(wrong(*case), message) for wrong, message in WRONG_HUBERS]
    answer(*case).should_be(log_huber(*case), *mistakes)
    answer([3.0], [3.0], 0.001).should_be(0.0)


LOG_HUBER = Exercise(
    solution=log_huber,
    difficulty=2,
    statement="""
        What a law is fitted by: with off = |ln predicted - ln measured| of each run, sum up off²/2 where off is at most
        `delta`, and delta · (off - delta/2) where it is more. `predicted` and `measured` are lists of losses.""",
    check=check_log_huber,
    hints=(
        "Go through both lists together, and take the logarithms' difference first.",
        "math.log(p) - math.log(m) is off without its sign. Then one of two formulas, by its size.",
        "off ** 2 / 2 if off <= delta else delta * (off - delta / 2), summed over zip(predicted, measured)",
    ),
    wrong=WRONG_HUBERS,
)

# ---- 3. when does a small model pay? ----


def break_even(n_small, d_small, n_large, d_large):
    return 3 * (n_small * d_small - n_large * d_large) / (n_large - n_small)


def check_break_even(answer):
    case = 1e9, 8e10, 2e9, 2e10  # 80 and 40 times 1e18 parameters by tokens
    answer(*case).should_be(
        3 * 4e19 / 1e9,
        (4e19 / 1e9,
         "A token served and a token trained on were charged alike. Training costs 6 N a token; serving, which has no "
         "backward pass, 2 N."),
        (4e19 / 2e9, "The 6 is missing: each token trained on costs 6 FLOPs for every parameter."),
        (-3 * 4e19 / 1e9, "A negative number of tokens: the small model costs more to train and less to serve, so take "
                          "(its training minus the other's) over (the other's serving minus its own)."),
        (4e19 / 3e9, "The costs changed places: training is 6 N D, serving is 2 N a token, so their ratio is 3."),
        (3 * 8e19 / 1e9, "The large model's training is not free: only the difference has to be earned back."),
        (3 * 4e19 / 2e9, "The small model costs something to serve, too: what a token saves is the difference."),
        (2.4e20, "That is the extra training in FLOPs. How many tokens served save as much?"),
    )  # fmt: skip
    answer(1e6, 3e7, 3e6, 1e7).should_be(0.0)


BREAK_EVEN = Exercise(
    solution=break_even,
    difficulty=2,
    statement="""
        Two models have the same loss: a small one, `n_small` parameters trained on `d_small` tokens, and a large one,
        `n_large` and `d_large`. After how many served tokens has the small one cost no more than the large one, all in
        all? Training costs 6 N D, a served token 2 N.""",
    check=check_break_even,
    hints=(
        "Write down what each costs after S served tokens: 6 N D + 2 N S. At break-even both are equal.",
        "6 n_small d_small + 2 n_small S = 6 n_large d_large + 2 n_large S. Solve for S.",
        "S = 3 * (n_small * d_small - n_large * d_large) / (n_large - n_small)",
    ),
    wrong=(
        (lambda n, d, N, D: (n * d - N * D) / (N - n), "charged alike"),
        (lambda n, d, N, D: (n * d - N * D) / 2 / (N - n), "6 is missing"),
        (lambda n, d, N, D: 3 * (N * D - n * d) / (N - n), "negative number"),
        (lambda n, d, N, D: (n * d - N * D) / 3 / (N - n), "changed places"),
        (lambda n, d, N, D: 3 * n * d / (N - n), "not free"),
        (lambda n, d, N, D: 3 * (n * d - N * D) / N, "costs something to serve"),
        (lambda n, d, N, D: 6 * (n * d - N * D), "extra training in FLOPs"),
    ),
)

# ---- 4. the best size ----


def best_size(A, B, alpha, beta, flops):
    ratio = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
    return ratio * (flops / 6) ** (beta / (alpha + beta))


def check_best_size(answer):
    case = 400.0, 900.0, 0.5, 0.25, 6e12
    A, B, alpha, beta, flops = case
    ratio = alpha * A / (beta * B)
    answer(*case).should_be(
        best_size(*case),
        (
            (A / B) ** (1 / 0.75) * (flops / 6) ** (beta / 0.75),
            "The exponents did not come down in the derivative: alpha A and beta B, not A and B. This is where both "
            "terms are equal, not where their sum is least.",
        ),
        (
            ratio ** (1 / 0.75) * (flops / 6) ** (alpha / 0.75),
            "That budget's power is the one of D. What improves faster with N (a large alpha) needs less of it, so N "
            "grows as C^(beta / (alpha + beta)).",
        ),
        (ratio ** (1 / 0.75) * flops ** (beta / 0.75), "The 6 is missing: N times D is the budget over 6."),
        (ratio * (flops / 6) ** (beta / 0.75), "The first factor needs its root, too: 1 / (alpha + beta)."),
        (
            (beta * A / (alpha * B)) ** (1 / 0.75) * (flops / 6) ** (beta / 0.75),
            "Each term brings down its own exponent: alpha A and beta B, not beta A and alpha B.",
        ),
        (ratio * (flops / 6) ** beta, "That is N^(alpha + beta). Take the root of it."),
        (math.sqrt(flops / 6), "That is N = D. The best split depends on the law."),
        ((1 / ratio) ** (1 / 0.75) * (flops / 6) ** (alpha / 0.75), "That is the best D."),
        (
            (1 / ratio) ** (1 / 0.75) * (flops / 6) ** (beta / 0.75),
            "The first factor is upside down: the more a lack of parameters costs (A), the larger the best model.",
        ),
    )
    answer(400.0, 400.0, 0.5, 0.5, 6e10).should_be(1e5)


BEST_SIZE = Exercise(
    solution=best_size,
    difficulty=3,
    statement="""
        Return the N with the lowest loss E + `A`/N^`alpha` + `B`/D^`beta` among all that cost `flops` = 6 N D. (Put
        D = flops/(6 N) into the loss; where is its derivative by N zero?)""",
    check=check_best_size,
    hints=(
        "With K = flops/6 the loss is E + A N^(-alpha) + B K^(-beta) N^beta. E does not matter.",
        "The derivative is zero where alpha A N^(-alpha) = beta B K^(-beta) N^beta.",
        "N^(alpha + beta) = alpha A / (beta B) · K^beta; take the root.",
    ),
    wrong=(
        (lambda A, B, a, b, c: (A / B) ** (1 / (a + b)) * (c / 6) ** (b / (a + b)), "did not come down"),
        (lambda A, B, a, b, c: (a * A / (b * B)) ** (1 / (a + b)) * (c / 6) ** (a / (a + b)), "the one of D"),
        (lambda A, B, a, b, c: (a * A / (b * B)) ** (1 / (a + b)) * c ** (b / (a + b)), "6 is missing"),
        (lambda A, B, a, b, c: a * A / (b * B) * (c / 6) ** (b / (a + b)), "needs its root"),
        (lambda A, B, a, b, c: (b * A / (a * B)) ** (1 / (a + b)) * (c / 6) ** (b / (a + b)), "its own exponent"),
        (lambda A, B, a, b, c: a * A / (b * B) * (c / 6) ** b, "Take the root"),
        (lambda A, B, a, b, c: math.sqrt(c / 6), "N = D"),
        (lambda A, B, a, b, c: (b * B / (a * A)) ** (1 / (a + b)) * (c / 6) ** (a / (a + b)), "the best D"),
        (lambda A, B, a, b, c: (b * B / (a * A)) ** (1 / (a + b)) * (c / 6) ** (b / (a + b)), "upside down"),
    ),
)

EXERCISES = (SPLIT, LOG_HUBER, BREAK_EVEN, BEST_SIZE)
