"""positions: RoPE against its complex-number definition and its defining property."""

import torch

from llmkit.positions import RoPE, rotate


def test_rotate_is_multiplication_by_unit_complex_numbers():
    rope = RoPE(head_dim=8, context_length=32, theta=100.0)
    x = torch.randn(1, 32, 3, 8, generator=torch.Generator().manual_seed(0))
    pairs = torch.complex(x[..., :4], x[..., 4:]).to(torch.complex128)  # (1, 32, 3, 4)
    frequencies = 100.0 ** (-2 * torch.arange(4, dtype=torch.float64) / 8)
    angle = torch.outer(torch.arange(32, dtype=torch.float64), frequencies)[None, :, None]
    expected = pairs * torch.polar(torch.ones_like(angle), angle)
    got = rotate(x, *rope.angles(slice(0, 32), 3))
    torch.testing.assert_close(got, torch.cat((expected.real, expected.imag), -1).float())


def test_the_gradient_of_rotate():
    angles = RoPE(head_dim=6, context_length=4).double().angles(slice(0, 4), 2)
    x = torch.randn(2, 4, 2, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: rotate(x, *angles), x)


def test_scores_depend_on_distance_only():
    rope = RoPE(head_dim=16, context_length=100)
    g = torch.Generator().manual_seed(1)
    q, k = torch.randn(1, 1, 1, 16, generator=g), torch.randn(1, 1, 1, 16, generator=g)

    def score(m, n):
        at_m, at_n = rope.angles(torch.tensor([[m]]), 1), rope.angles(torch.tensor([[n]]), 1)
        return (rotate(q, *at_m) * rotate(k, *at_n)).sum()

    torch.testing.assert_close(score(10, 3), score(97, 90))
    assert abs(score(10, 3) - score(10, 4)) > 1e-3


def test_positions_may_differ_between_rows():
    rope = RoPE(head_dim=4, context_length=10)
    x = torch.randn(2, 3, 1, 4, generator=torch.Generator().manual_seed(2))
    ragged = rotate(x, *rope.angles(torch.tensor([[0, 1, 2], [5, 6, 7]]), 1))
    torch.testing.assert_close(ragged[:1], rotate(x[:1], *rope.angles(slice(0, 3), 1)))
    torch.testing.assert_close(ragged[1:], rotate(x[1:], *rope.angles(slice(5, 8), 1)))


def test_the_tables_are_no_part_of_the_weights():
    rope = RoPE(head_dim=4, context_length=10)
    assert not rope.state_dict() and not list(rope.parameters())
