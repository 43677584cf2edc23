"""Claims hold, fail, or report: never anything else."""

import os

import pytest

from course import lesson


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_PROGRESS", str(tmp_path / "progress.json"))
    monkeypatch.setenv("LLMKIT_CHECKPOINTS", "elsewhere")
    monkeypatch.setattr(lesson, "_mine", False)


def test_a_claim_in_its_band_says_so(capsys):
    lesson.claim("loss", 0.5, between=(0.4, 0.6))
    assert "✓ loss: 0.5" in capsys.readouterr().out


@pytest.mark.parametrize("value", [0.3, 0.7, float("nan")])
def test_a_claim_outside_its_band_fails(value):
    with pytest.raises(lesson.ClaimError, match="outside the claimed band of 0.4 to 0.6"):
        lesson.claim("loss", value, between=(0.4, 0.6))


def test_with_the_learners_own_checkpoints_claims_report(capsys):
    lesson.begin("06", mine=True)
    lesson.claim("loss", 0.9, between=(0.4, 0.6))
    assert "– loss: 0.9; the course's own checkpoints give 0.4 to 0.6" in capsys.readouterr().out


def test_the_learners_own_checkpoints_come_first_only_when_asked_for(tmp_path):
    lesson.begin("06")
    assert os.environ["LLMKIT_CHECKPOINTS"] == "elsewhere"
    lesson.begin("06", mine=True)
    assert os.environ["LLMKIT_CHECKPOINTS"] == str(tmp_path / "checkpoints") == str(lesson.work("checkpoints"))
    lesson.begin("06")
    assert "LLMKIT_CHECKPOINTS" not in os.environ
    lesson.claim("still a claim", 0.5, between=(0, 1))
    with pytest.raises(lesson.ClaimError):
        lesson.claim("and it fails", 2, between=(0, 1))
