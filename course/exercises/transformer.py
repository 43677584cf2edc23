"""Lesson 03: a norm, a block around its residual stream, parameters counted by hand, and FLOPs."""

import torch

from course.exercise import Exercise

# ---- 1. the norm ----


def rms_norm(x, weight, eps):
    mean_square = x.pow(2).mean(dim=-1, keepdim=True)
    return x / (mean_square + eps).sqrt() * weight


def normed(scale, centre=lambda x: x, by_weight=True):
    """rms_norm with another number to divide by, another middle, or without its weight."""

    def norm(x, weight, eps):
        x = centre(x)
        return x / scale(x, eps) * (weight if by_weight else 1)

    return norm


def mean_square(x, dim=-1):
    return x.pow(2).mean(dim=dim, keepdim=True)


def summed(x, eps):
    return (x.pow(2).sum(dim=-1, keepdim=True) + eps).sqrt()


def minus_mean(x):
    return x - x.mean(dim=-1, keepdim=True)


NOT_NORMED = (
    (normed(lambda x, eps: mean_square(x).sqrt() + eps),
     "eps stands outside the root. Inside: √(mean of squares + eps). With small x the two differ a thousandfold."),
    (normed(lambda x, eps: mean_square(x).sqrt()), "eps is not used: a vector of zeros would be divided by 0."),
    (normed(lambda x, eps: (mean_square(x) + eps).sqrt(), centre=minus_mean),
     "The mean was taken out first. That is LayerNorm; RMSNorm only divides."),
    (normed(lambda x, eps: x.std(dim=-1, keepdim=True)),
     "That is the standard deviation, which looks at x minus its mean. RMSNorm takes the squares of x as it is."),
    (normed(lambda x, eps: (x.var(dim=-1, keepdim=True) + eps).sqrt()),
     "That is the variance, which looks at x minus its mean. RMSNorm takes the squares of x as it is."),
    (normed(lambda x, eps: (x.mean(dim=-1, keepdim=True).pow(2) + eps).sqrt()),
     "The mean was squared. First the squares, then their mean: x.pow(2).mean(…)."),
    (normed(lambda x, eps: mean_square(x) + eps), "Divided by the mean of the squares. The root is missing."),
    (normed(summed), "That is the length of the vector, not its root mean square: take the mean, not the sum."),
    (normed(lambda x, eps: summed(x, 0.0)),
     "That is the length of the vector, and eps is not used: take the mean of the squares, plus eps."),
    (normed(lambda x, eps: (mean_square(x, dim=0) + eps).sqrt()),
     "The mean runs over the tokens. Each token is normed by its own numbers: dim=-1."),
    (normed(lambda x, eps: (x.pow(2).mean() + eps).sqrt()),
     "All tokens are divided by one number. Each has its own: dim=-1, keepdim=True."),
    (normed(lambda x, eps: (mean_square(x) + eps).sqrt(), by_weight=False),
     "The weight is missing: after the norm each of the C numbers has a factor of its own."),
)  # fmt: skip
NO_DIMENSION = "One number a token, (T,), does not fit under (T, C): the mean needs keepdim=True to be (T, 1)."


def check_rms_norm(answer):
    x, weight = torch.tensor([[3.0, 4.0, 0.0], [1.0, -2.0, 2.0]]), torch.tensor([1.0, 2.0, 0.5])
    given = (x, weight, 0.5)
    answer(*given, errors={RuntimeError: NO_DIMENSION}).should_be(
        rms_norm(*given), *((fn(*given), sentence) for fn, sentence in NOT_NORMED)
    )
    small = (x * 1e-4, torch.ones(3), 1e-6)
    answer(*small).should_be(rms_norm(*small))
    batch = torch.arange(24.0).view(2, 3, 4) - 7
    answer(batch, torch.ones(4), 1e-6).should_be(rms_norm(batch, torch.ones(4), 1e-6))


RMS_NORM = Exercise(
    solution=rms_norm,
    difficulty=1,
    statement="""
        Return RMSNorm of `x`, a tensor (…, C): each vector of C numbers divided by the root of the mean of its squares,
        and then multiplied by `weight` (C,). `eps` is added to the mean of the squares before the root is taken.""",
    check=check_rms_norm,
    hints=(
        "Squares, mean over the last dimension, plus eps, root: in this order.",
        "mean(dim=-1, keepdim=True) keeps a dimension of size 1, so that x can be divided by it.",
        "x / (x.pow(2).mean(dim=-1, keepdim=True) + eps).sqrt() * weight",
    ),
    wrong=(*NOT_NORMED, (lambda x, weight, eps: x / (x.pow(2).mean(dim=-1) + eps).sqrt() * weight, NO_DIMENSION)),
)

# ---- 2. a block ----


def block(x, norm1, attn, norm2, mlp):
    x = x + attn(norm1(x))
    return x + mlp(norm2(x))


def normed_stream(x, norm1, attn, norm2, mlp):
    x = norm1(x)
    x = x + attn(x)
    x = norm2(x)
    return x + mlp(x)


NOT_BLOCKS = (
    (lambda x, n1, attn, n2, mlp: n2((y := n1(x + attn(x))) + mlp(y)),
     "The norms come after the sums. That is post-norm: the stream itself is normed. Norm what a part reads."),
    (lambda x, n1, attn, n2, mlp: (y := x + n1(attn(x))) + n2(mlp(y)),
     "What the parts write is normed. Norm what they read: attn(norm1(x)), not norm1(attn(x))."),
    (normed_stream,
     "The stream itself was replaced by its norm. Only what attn and mlp read is normed; x goes on as it is."),
    (lambda x, n1, attn, n2, mlp: (y := x + attn(x)) + mlp(y), "The norms are not used: each part reads a normed x."),
    (lambda x, n1, attn, n2, mlp: (y := x + attn(n1(x))) + mlp(y), "norm2 is not used: the mlp reads norm2(x)."),
    (lambda x, n1, attn, n2, mlp: (y := attn(n1(x))) + mlp(n2(y)),
     "attn's result takes the place of x. Add it, or else what the token was is lost."),
    (lambda x, n1, attn, n2, mlp: mlp(n2(x + attn(n1(x)))), "mlp's result takes the place of x. Add it: x + mlp(…)."),
    (lambda x, n1, attn, n2, mlp: mlp(n2(attn(n1(x)))), "Nothing was added to x: both results take its place."),
    (lambda x, n1, attn, n2, mlp: x + attn(n1(x)), "The mlp is missing."),
    (lambda x, n1, attn, n2, mlp: x + attn(n1(x)) + mlp(n2(x)),
     "The mlp reads what attn read. It comes second, and reads what attn has written."),
    (lambda x, n1, attn, n2, mlp: x + (y := attn(n1(x))) + mlp(n2(y)),
     "The mlp reads only what attn wrote. It reads the stream, x and what was added to it."),
    (lambda x, n1, attn, n2, mlp: x + mlp(n2(x + attn(n1(x)))),
     "The mlp's result was added to the old x, so what attn wrote is lost."),
    (lambda x, n1, attn, n2, mlp: block(x, n2, attn, n1, mlp), "norm1 and norm2 are exchanged: norm1 belongs to attn."),
    (lambda x, n1, attn, n2, mlp: block(x, n1, attn, n1, mlp), "norm1 is used twice. The mlp reads norm2(x)."),
    (lambda x, n1, attn, n2, mlp: block(x, n1, mlp, n2, attn), "attn and mlp are exchanged: attn comes first."),
)  # fmt: skip


def check_block(answer):
    x = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    matrix = torch.tensor([[0.5, 1.0], [-1.0, 0.25]])
    given = (x, lambda x: x.clamp(-1, 1), lambda x: x @ matrix, lambda x: 2 * x + 1, lambda x: x.pow(2))
    answer(*given).should_be(block(*given), *((fn(*given), sentence) for fn, sentence in NOT_BLOCKS))


BLOCK = Exercise(
    solution=block,
    difficulty=2,
    statement="""
        Put a block together from its parts, which are given as functions: `norm1` and `attn`, `norm2` and `mlp`. `x`
        (T, C) is the residual stream. Each part reads the normed stream and adds its result to the stream; attention
        comes first. Return the stream after both.""",
    check=check_block,
    hints=(
        "Two lines of the same form: the stream, plus a part of the normed stream.",
        "The second line must read what the first has left in x.",
        "x = x + attn(norm1(x)), and then x + mlp(norm2(x)).",
    ),
    wrong=NOT_BLOCKS,
)

# ---- 3. parameters ----


def n_parameters(vocab_size, n_layer, n_head, n_kv_head, d_model, head_dim, d_ff):
    attention = (2 * n_head + 2 * n_kv_head) * head_dim * d_model  # queries and out; keys and values
    mlp = 3 * d_ff * d_model  # gate, up, down
    norms = 2 * d_model
    return vocab_size * d_model + n_layer * (attention + mlp + norms) + d_model


def counted(heads=lambda h, k, d, c: (2 * h + 2 * k) * d * c, mlps=3, norms=lambda c, d: 2 * c, last=1, embeddings=1,
            layers=lambda n: n):  # fmt: skip
    """n_parameters with something counted otherwise."""

    def count(vocab_size, n_layer, n_head, n_kv_head, d_model, head_dim, d_ff):
        attention = heads(n_head, n_kv_head, head_dim, d_model)
        layer = attention + mlps * d_ff * d_model + norms(d_model, head_dim)
        return embeddings * vocab_size * d_model + layers(n_layer) * layer + last * d_model

    return count


MISCOUNTS = (
    (counted(embeddings=2), "The vocabulary's matrix was counted twice. lm_head is tied: it is the embedding."),
    (counted(embeddings=0), "The embedding is missing: a row of d_model numbers for each id."),
    (counted(heads=lambda h, k, d, c: 4 * h * d * c),
     "Keys and values were counted for every query head: there are n_kv_head."),
    (counted(heads=lambda h, k, d, c: (h + 2 * k) * d * c),
     "W_o is missing, which brings the heads' values back to d_model numbers."),
    (counted(heads=lambda h, k, d, c: 2 * c * c + 2 * k * d * c),
     "W_q and W_o were counted as d_model × d_model. One side is n_head · head_dim, which may be another number."),
    (counted(mlps=2), "The MLP has three matrices: gate and up to d_ff numbers, down back to d_model."),
    (counted(norms=lambda c, d: 0, last=0),
     "The norms are missing: d_model weights each, two a layer and one at the end."),
    (counted(norms=lambda c, d: 0), "The layers' norms are missing: two each, of d_model weights."),
    (counted(norms=lambda c, d: 2 * c + 2 * d), "Those of QK-norm were counted too. Here there is none."),
    (counted(last=0), "The norm at the end is missing, before lm_head."),
    (counted(norms=lambda c, d: c), "A layer has two norms, one before each part."),
    (counted(layers=lambda n: 1), "That is one layer. There are n_layer of them."),
)  # fmt: skip


def check_n_parameters(answer):
    for sizes in ((100, 3, 6, 2, 16, 8, 40), (1024, 6, 4, 2, 256, 64, 704)):
        answer(*sizes).should_be(n_parameters(*sizes), *((count(*sizes), message) for count, message in MISCOUNTS))


N_PARAMETERS = Exercise(
    solution=n_parameters,
    difficulty=2,
    statement="""
        Count the parameters of a model from its sizes: `vocab_size`, `n_layer`, `n_head`, `n_kv_head`, `d_model`,
        `head_dim`, `d_ff`. Each layer has W_q and W_o (n_head · head_dim rows or columns), W_k and W_v (n_kv_head ·
        head_dim), a SwiGLU with three matrices between d_model and d_ff, and two RMSNorms. One more norm stands at the
        end. lm_head is tied to the embedding. There are no biases, and here no QK-norm.""",
    check=check_n_parameters,
    hints=(
        "Begin with one layer: how many numbers has each matrix? Rows times columns.",
        "Attention: (2 n_head + 2 n_kv_head) · head_dim · d_model. MLP: 3 · d_ff · d_model. Norms: 2 · d_model.",
        "n_layer times that, plus vocab_size · d_model for the embedding, plus d_model for the last norm.",
    ),
    wrong=MISCOUNTS,
)

# ---- 4. FLOPs ----


def n_flops(n_matmul, n_layer, n_head, head_dim, t):
    pairs = t * (t + 1) // 2  # a query sees itself and what is before
    return 2 * n_matmul * t + 4 * n_layer * n_head * head_dim * pairs


def operations(
    multiply_add=2, scores=4, pairs=lambda t: t * (t + 1) // 2, tokens=lambda t: t, heads=lambda L, h: L * h
):
    """n_flops with something counted otherwise."""

    def count(n_matmul, n_layer, n_head, head_dim, t):
        return multiply_add * n_matmul * tokens(t) + scores * heads(n_layer, n_head) * head_dim * pairs(t)

    return count


MISRECKONED = (
    (operations(multiply_add=1, scores=2), "A multiply-add is two operations: one product, one sum."),
    (operations(multiply_add=1), "In the matrices, a multiply-add was counted as one operation. It is two."),
    (operations(scores=2), "Only half of attention: 2 D for q · k, and 2 D more for the weight times v."),
    (operations(pairs=lambda t: t * t), "Every query was counted with every key. Pairs: t (t + 1) / 2."),
    (operations(pairs=lambda t: t * (t - 1) // 2), "A token sees itself too: t (t + 1) / 2 pairs."),
    (operations(pairs=lambda t: t * t / 2), "A little too few pairs: a token sees itself too, t (t + 1) / 2."),
    (operations(pairs=lambda t: t), "Attention was counted once a token. It is once for every key seen."),
    (operations(scores=0), "Attention's own work is missing: scores, and sums of values."),
    (operations(heads=lambda L, h: L), "Attention was counted for one head a layer. There are n_head."),
    (operations(heads=lambda L, h: h), "Attention was counted for one layer. There are n_layer."),
    (operations(tokens=lambda t: 1), "The matrices work on every token, not once a text: times t."),
    (operations(multiply_add=6, scores=12), "That is training. The forward pass alone is a third of it."),
)  # fmt: skip


def check_n_flops(answer):
    for sizes in ((1000, 3, 4, 8, 6), (4_718_592, 6, 4, 64, 512)):
        answer(*sizes).should_be(n_flops(*sizes), *((count(*sizes), message) for count, message in MISRECKONED))


N_FLOPS = Exercise(
    solution=n_flops,
    difficulty=3,
    statement="""
        How many floating-point operations is the forward pass over one text of `t` tokens? `n_matmul` weights stand in
        matrices that multiply each token; and in each of `n_layer` layers, each of `n_head` heads computes for every
        key that a query sees (itself and all before it) one q · k and one weight times v, with vectors of `head_dim`
        numbers. A multiply-add counts as two. Norms, softmax and the like are left out.""",
    check=check_n_flops,
    hints=(
        "Two parts. A matrix of n weights takes one multiply-add a weight for each token.",
        "Token number i (from 1) sees i keys. How many pairs of query and key are there in a text of t tokens?",
        "2 · n_matmul · t, plus 4 · n_layer · n_head · head_dim · t (t + 1) / 2.",
    ),
    wrong=MISRECKONED,
)

EXERCISES = (RMS_NORM, BLOCK, N_PARAMETERS, N_FLOPS)
