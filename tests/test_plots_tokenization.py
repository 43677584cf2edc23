"""Figures of vocabularies show what they are given."""
from llmkit.plots import tokenization


def test_vocabulary_size_draws_gain_and_cost_by_size():
    gain, cost = tokenization.vocabulary_size(
        [256, 512], {"prose": [1.0, 2.0], "code": [1.0, 1.5]}, {"tiny": [0.1, 0.2]}
    ).axes
    assert [list(line.get_ydata()) for line in gain.lines] == [[1.0, 2.0], [1.0, 1.5]]
    assert [list(line.get_ydata()) for line in cost.lines] == [[0.1, 0.2]]
    assert [label.get_text() for label in cost.get_xticklabels()] == ["256", "512"]
    assert cost.get_ylim() == (0, 1)


def test_embedding_rows_tells_read_from_unread():
    axes = tokenization.embedding_rows([5, 0, 0], [0.2, 1.0, 0.9]).axes[0]
    read, unread = axes.collections
    assert read.get_offsets().tolist() == [[5, 0.2]] and unread.get_offsets().tolist() == [[0, 1.0], [0, 0.9]]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["read: 1 ids", "never read: 2 ids"]
