"""Checkpoints: what is saved comes back; what is broken, in every way, is one sentence; a failed save costs nothing."""

import json
import os
import re
import shutil
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmkit import checkpoint
from llmkit.checkpoint import CheckpointError, load, read_tensors, save, write_tensors
from llmkit.config import ModelConfig
from llmkit.model import Transformer
from llmkit.tokenizer import Tokenizer
from llmkit.unigram import Unigram
from llmkit.world import World

TEXTS = ["the cat sat on the mat and the dog sat on the cat", "a town where the baker bakes bread"]
TOKENIZER = Tokenizer.train(TEXTS, 280)
CONFIG = ModelConfig(
    vocab_size=280, context_length=16, n_layer=1, n_head=2, n_kv_head=1, d_model=16, head_dim=8, d_ff=24
)


def make_model(seed=0, config=CONFIG):
    torch.manual_seed(seed)
    return Transformer(config)


@pytest.fixture
def saved(tmp_path):
    return save(tmp_path / "base", make_model(), TOKENIZER, {"steps": 3})


def snapshot(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def says(error):
    """The message, after checking that it is one readable sentence or two, not a wrapped traceback."""
    message = str(error.value)
    assert "\n" not in message and len(message) < 700
    return message


@pytest.fixture(autouse=True)
def own_shelf(tmp_path, monkeypatch):
    """No test sees the checkpoints that this machine or the course has."""
    monkeypatch.setenv("LLMKIT_CHECKPOINTS", str(tmp_path / "shelf"))
    monkeypatch.setattr(checkpoint, "SHIPPED", tmp_path / "shipped")
    monkeypatch.chdir(tmp_path)


# --- Saved and loaded ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tie", [True, False])
def test_float32_comes_back_bit_for_bit(tmp_path, tie):
    config = replace(CONFIG, tie_embeddings=tie)
    model = make_model(config=config)
    save(tmp_path / "m", model, TOKENIZER, {})
    loaded, tokenizer = load(tmp_path / "m")
    assert loaded.config == config and tokenizer == TOKENIZER and not loaded.training
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, loaded.state_dict()[name])
    assert (loaded.lm_head.weight is loaded.tok_emb.weight) == tie
    idx = torch.arange(10)[None]
    assert torch.equal(model(idx), loaded(idx))


def test_tied_weights_are_stored_once(tmp_path, saved):
    assert "lm_head.weight" not in load_file(saved / "model.safetensors")
    untied = save(tmp_path / "untied", make_model(config=replace(CONFIG, tie_embeddings=False)), TOKENIZER, {})
    assert "lm_head.weight" in load_file(untied / "model.safetensors")


def test_bfloat16_halves_the_file_and_loads_as_float32(tmp_path, saved):
    half = save(tmp_path / "half", make_model(), TOKENIZER, {}, dtype=torch.bfloat16)
    stored = load_file(half / "model.safetensors")
    assert {t.dtype for t in stored.values()} == {torch.bfloat16}
    model, _ = load(half)
    for name, weight in model.state_dict().items():
        assert weight.dtype == torch.float32
        assert torch.equal(weight, make_model().state_dict()[name].bfloat16().float())
    with pytest.raises(ValueError, match="dtype"):
        save(tmp_path / "x", make_model(), TOKENIZER, {}, dtype=torch.int8)


def test_the_card_is_kept_and_sealed(saved):
    about = checkpoint.card(saved)
    assert about["steps"] == 3
    assert about["tokenizer"] == TOKENIZER.fingerprint and re.fullmatch("[0-9a-f]{64}", about["weights_sha256"])


def test_loading_leaves_the_seed_and_the_caller_alone(saved):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    model, _ = load(saved)
    assert torch.equal(torch.rand(3), expected)
    assert all(p.requires_grad for p in model.parameters())


def test_names_are_paths_then_shelf_then_shipped(tmp_path, monkeypatch):
    for steps, folder in enumerate((tmp_path / "shipped" / "sft", tmp_path / "shelf" / "sft", tmp_path / "sft")):
        save(folder, make_model(), TOKENIZER, {"steps": steps})
        assert checkpoint.card("sft")["steps"] == steps
    monkeypatch.delenv("LLMKIT_CHECKPOINTS")
    shutil.rmtree(tmp_path / "sft")
    assert checkpoint.card("sft")["steps"] == 0


def test_an_unrelated_folder_does_not_hide_a_shipped_name(tmp_path):
    save(tmp_path / "shipped" / "sft", make_model(), TOKENIZER, {})
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "notes.txt").write_text("mine")
    assert load("sft")[0].config == CONFIG


# --- Missing, foreign, mismatched ----------------------------------------------------------------------------------


def test_a_missing_checkpoint_lists_the_names(tmp_path):
    save(tmp_path / "shelf" / "draft", make_model(), TOKENIZER, {})
    save(tmp_path / "shipped" / "base", make_model(), TOKENIZER, {})
    for name in ("bsae", tmp_path / "nowhere" / "base"):
        with pytest.raises(CheckpointError, match="base, draft") as error:
            load(name)
        assert str(name) in says(error)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="no checkpoint folder"):
        load(tmp_path / "empty")


@pytest.mark.parametrize("name", checkpoint.FILES)
def test_each_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(CheckpointError, match=re.escape(name)) as error:
        load(saved)
    assert "missing" in says(error)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "card.json"])
def test_wrong_json_is_one_sentence(saved, name):
    contents = [b"", b"{", b"[]", b"3", b"null", b"\xff\xfe", b"[" * 100_000]
    if name != "card.json":  # which may say anything
        contents.append(b'{"vocab_size": 280}')
    for content in contents:
        (saved / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=re.escape(name)) as error:
            load(saved)
        says(error)


def test_weights_truncated_anywhere_are_one_sentence(saved):
    whole = (saved / "model.safetensors").read_bytes()
    for seals in (True, False):  # the checksum finds it, and so does the format alone
        if not seals:
            (saved / "card.json").write_text("{}")
        for cut in [*range(0, 64), *range(64, len(whole), 211), len(whole) - 1]:
            (saved / "model.safetensors").write_bytes(whole[:cut])
            with pytest.raises(CheckpointError, match="model.safetensors") as error:
                load(saved)
            says(error)


def test_any_flipped_byte_is_noticed(saved):
    whole = (saved / "model.safetensors").read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for at in [*range(0, header, 5), *range(header, len(whole), 1499)]:
        (saved / "model.safetensors").write_bytes(whole[:at] + bytes([whole[at] ^ 0x21]) + whole[at + 1 :])
        with pytest.raises(CheckpointError) as error:
            load(saved)
        says(error)


def test_a_flipped_header_without_checksum_is_refused_or_harmless(saved):
    (saved / "card.json").write_text("{}")
    whole = (saved / "model.safetensors").read_bytes()
    header, refused = 8 + int.from_bytes(whole[:8], "little"), 0
    for at in range(0, header, 3):
        (saved / "model.safetensors").write_bytes(whole[:at] + bytes([whole[at] ^ 0x21]) + whole[at + 1 :])
        try:
            model, _ = load(saved)
        except CheckpointError:
            refused += 1
        else:
            assert all(torch.equal(a, b) for a, b in zip(model.parameters(), make_model().parameters(), strict=True))
    assert refused > header / 4


def refuse(saved, tensors, match):
    save_file(tensors, saved / "model.safetensors")
    (saved / "card.json").write_text("{}")
    with pytest.raises(CheckpointError, match=match) as error:
        load(saved)
    says(error)


def test_foreign_and_misshapen_tensors_are_named(saved):
    good = load_file(saved / "model.safetensors")
    refuse(saved, {"model.embed_tokens.weight": torch.zeros(2, 2)}, "is missing")
    refuse(saved, {**good, "extra.bias": torch.zeros(1)}, "extra.bias is no tensor")
    refuse(saved, {**good, "norm_f.weight": torch.ones(17)}, r"norm_f.weight is \(17,\) but must be \(16,\)")
    refuse(saved, {**good, "norm_f.weight": torch.ones(16, dtype=torch.int32)}, "int32 weights in norm_f.weight")
    refuse(saved, {}, "is missing")
    (saved / "model.safetensors").write_bytes(b"PK\x03\x04 a pickle in a zip file" * 9)
    with pytest.raises(CheckpointError, match="no safetensors file"):
        load(saved)


def test_config_of_another_model(saved):
    values = json.loads((saved / "config.json").read_text())
    for change, match in (({"n_layer": 2}, "do not fit"), ({"d_ff": 0}, "d_ff"), ({"colour": 1}, "colour")):
        (saved / "config.json").write_text(json.dumps({**values, **change}))
        with pytest.raises(CheckpointError, match=match) as error:
            load(saved)
        says(error)
    # An absurd size is refused by its shapes, before memory is asked for.
    (saved / "config.json").write_text(json.dumps({**values, "d_ff": 10**13}))
    with pytest.raises(CheckpointError, match="must be"):
        load(saved)


def test_tokenizer_of_another_vocabulary_or_training(saved, tmp_path):
    Tokenizer.train(TEXTS, 290).save(saved / "tokenizer.json")
    with pytest.raises(CheckpointError, match="290 tokens .* 280"):
        load(saved)
    Tokenizer.train(["completely other words in here, many of them otherwise"], 280).save(saved / "tokenizer.json")
    with pytest.raises(CheckpointError, match="not the tokenizer"):
        load(saved)
    with pytest.raises(CheckpointError, match="290 tokens"):
        save(tmp_path / "x", make_model(), Tokenizer.train(TEXTS, 290), {})


def test_another_world_is_refused(tmp_path):
    here = World().fingerprint
    save(tmp_path / "here", make_model(), TOKENIZER, {"world": here})
    save(tmp_path / "there", make_model(), TOKENIZER, {"world": "another town"})
    load(tmp_path / "here")
    with pytest.raises(CheckpointError, match=f"another town, here {here}.*train it again") as error:
        load(tmp_path / "there")
    says(error)


# --- Saving that fails, or is cut off ------------------------------------------------------------------------------


def refuse_flush(path):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("failing", ["save_file", "_flush", "_write_json", "_sha256"])
def test_a_full_disk_keeps_the_old_checkpoint(saved, monkeypatch, failing):
    before = snapshot(saved)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, failing, full)
    with pytest.raises(CheckpointError, match="No space left.*unchanged") as error:
        save(saved, make_model(1), TOKENIZER, {})
    says(error)
    monkeypatch.undo()
    assert snapshot(saved) == before and [p.name for p in saved.parent.iterdir()] == ["base"]


@pytest.mark.skipif(sys.platform == "win32", reason="uses POSIX's file-size limit as the full disk")
def test_a_write_that_the_system_cuts_short_keeps_the_old_checkpoint(saved):
    import resource

    before, (soft, hard) = snapshot(saved), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))  # Python ignores the signal, so that the write fails
    try:
        with pytest.raises(CheckpointError, match="unchanged") as error:
            save(saved, make_model(1), TOKENIZER, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    says(error)
    assert snapshot(saved) == before and [p.name for p in saved.parent.iterdir()] == ["base"]


@pytest.mark.parametrize("which", ["first", "second"])
def test_a_crash_between_the_renames_is_mended(saved, monkeypatch, which):
    before, real, calls = snapshot(saved), os.rename, []

    class Crash(BaseException):
        """As if the process were killed: nothing after it runs."""

    def rename(a, b):
        calls.append(a)
        if len(calls) == (1 if which == "first" else 2):
            monkeypatch.setattr(checkpoint, "_mend", lambda folder: None)
            monkeypatch.setattr(checkpoint.shutil, "rmtree", lambda *a, **k: None)
            raise Crash
        real(a, b)

    monkeypatch.setattr(checkpoint.os, "rename", rename)
    with pytest.raises(Crash):
        save(saved, make_model(1), TOKENIZER, {"steps": 4})
    monkeypatch.undo()
    assert saved.exists() == (which == "first")
    assert checkpoint.card(saved)["steps"] == 3 and snapshot(saved) == before
    save(saved, make_model(1), TOKENIZER, {"steps": 4})  # what the crash left behind is in nobody's way
    assert checkpoint.card(saved)["steps"] == 4 and [p.name for p in saved.parent.iterdir()] == ["base"]


def test_bad_input_never_touches_what_is_there(saved, tmp_path):
    before = snapshot(saved)
    diverged = make_model()
    diverged.norm_f.weight.data[3] = float("nan")
    with pytest.raises(CheckpointError, match="norm_f.weight holds NaN"):
        save(saved, diverged, TOKENIZER, {})
    adapted = make_model()
    adapted.blocks[0].mlp.down = torch.nn.Sequential(adapted.blocks[0].mlp.down)
    with pytest.raises(CheckpointError, match="merge adapters"):
        save(saved, adapted, TOKENIZER, {})
    for other in (None, Unigram([("the", -1.0)])):
        with pytest.raises(CheckpointError, match=r"not (None|<.*Unigram.*>): .* hf.save_hf"):
            save(saved, make_model(), other, {})
    for bad in ({"loss": float("nan")}, {"model": adapted}):
        with pytest.raises(CheckpointError, match="card.json"):
            save(saved, make_model(), TOKENIZER, bad)
    assert snapshot(saved) == before


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right that Windows gives to few")
def test_a_link_stays_and_what_it_leads_to_is_replaced(saved, tmp_path):
    drive = tmp_path / "drive" / "base"
    drive.parent.mkdir()
    (tmp_path / "link").symlink_to(drive)  # to nothing yet
    for steps in (1, 2):
        save(tmp_path / "link", make_model(steps), TOKENIZER, {"steps": steps})
        assert checkpoint.card(drive)["steps"] == checkpoint.card("link")["steps"] == steps
    assert (tmp_path / "link").is_symlink() and [path.name for path in drive.parent.iterdir()] == ["base"]


def test_a_folder_with_other_things_is_not_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("the only copy")
    with pytest.raises(CheckpointError, match="other things"):
        save(tmp_path, make_model(), TOKENIZER, {})
    with pytest.raises(CheckpointError, match="other things"):
        save(tmp_path / "thesis.txt", make_model(), TOKENIZER, {})
    assert (tmp_path / "thesis.txt").read_text() == "the only copy"


# --- The file layer ------------------------------------------------------------------------------------------------


def test_tensors_and_info_round_trip(tmp_path):
    tensors = {"a": torch.arange(6).view(2, 3).t(), "b": torch.tensor(1.5), "c": torch.zeros(0)}
    write_tensors(tmp_path / "deep" / "state.safetensors", tensors, {"step": 3, "x": [1.0, None]})
    read, info = read_tensors(tmp_path / "deep" / "state.safetensors")
    assert info == {"step": 3, "x": [1.0, None]} and read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) and read[name].dtype == tensors[name].dtype for name in tensors)


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "state.safetensors"
    write_tensors(path, {"a": torch.zeros(3)}, {"step": 1})
    monkeypatch.setattr(checkpoint, "_flush", refuse_flush)
    with pytest.raises(CheckpointError, match="unchanged"):
        write_tensors(path, {"a": torch.ones(3)}, {"step": 2})
    assert read_tensors(path)[1] == {"step": 1} and [p.name for p in tmp_path.iterdir()] == [path.name]
