"""The README's pictures: the command still makes them, and those that are committed are small."""

import io

import pytest
from PIL import Image

from course.teach import pictures
from llmkit.widgets.lifecycle import lifecycle_strip

NAMES = ("bpe_movie", "sampling_laboratory", "training_scrubber")


def test_the_command_writes_every_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pictures, "FOLDER", tmp_path / "pictures")
    monkeypatch.setattr(pictures, "run", lambda tokenizer, world: lifecycle_strip(6))  # no training here
    pictures.main()
    assert sorted(path.stem for path in pictures.FOLDER.iterdir()) == list(NAMES)
    assert "9 tokens kept" in capsys.readouterr().out


@pytest.mark.parametrize("name", NAMES)
def test_a_committed_picture_is_a_small_png(name):
    data = (pictures.FOLDER / f"{name}.png").read_bytes()
    assert len(data) <= 60_000 and Image.open(io.BytesIO(data)).size[0] > 800
