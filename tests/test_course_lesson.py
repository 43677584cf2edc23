"""Claims hold, fail, or report: never anything else."""

import pytest

from course import lesson


def test_a_claim_in_its_band_says_so(capsys):
    lesson.claim("loss", 0.5, between=(0.4, 0.6))
    assert "✓ loss: 0.5" in capsys.readouterr().out


@pytest.mark.parametrize("value", [0.3, 0.7, float("nan")])
def test_a_claim_outside_its_band_fails(value):
    with pytest.raises(lesson.ClaimError, match="outside the claimed band of 0.4 to 0.6"):
        lesson.claim("loss", value, between=(0.4, 0.6))


def test_with_the_learners_own_checkpoints_claims_report(capsys, monkeypatch):
    monkeypatch.setattr(lesson, "_mine", False)
    lesson.begin("06", mine=True)
    lesson.claim("loss", 0.9, between=(0.4, 0.6))
    assert "– loss: 0.9; the course's own checkpoints give 0.4 to 0.6" in capsys.readouterr().out
