"""hf: a folder there and back, old files, and what cannot be read or written said in a sentence."""

import json
import sys
import types

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmkit import hf
from llmkit.checkpoint import CheckpointError
from llmkit.config import preset
from llmkit.model import Transformer
from llmkit.tokenizer import Tokenizer

SIZES = dict(n_layer=2, vocab_size=290, d_model=48, head_dim=12, d_ff=80)
GPT2 = dict(norm="layer", mlp="gelu", positions="learned", bias=True, qk_norm=False, n_kv_head=4)


def model(**overrides):
    torch.manual_seed(0)
    net = Transformer(preset("nano", **{**SIZES, **overrides}))
    with torch.no_grad():
        for weight in net.parameters():
            weight.normal_(0.0, 0.2)
    return net.eval()


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["the miller's mill stands by the mill pond, said the baker to the miller"], 290)


def saved(tmp_path, tokenizer=None, **overrides):
    net = model(**overrides)
    return net, hf.save_hf(tmp_path / "model", net, tokenizer)


def edit(folder, name=hf.CONFIG, **changes):
    values = json.loads((folder / name).read_text(encoding="utf-8")) | changes
    values = {key: value for key, value in values.items() if value != "gone"}
    (folder / name).write_text(json.dumps(values), encoding="utf-8")


def edit_tensors(folder, **changes):
    tensors = load_file(folder / hf.WEIGHTS) | {name.replace("__", "."): x for name, x in changes.items()}
    save_file({name: x for name, x in tensors.items() if x is not None}, folder / hf.WEIGHTS)


def assert_equal(a, b):
    idx = torch.arange(40).view(2, 20)
    assert a.config == b.config and not b.training
    assert torch.equal(a(idx), b(idx))


@pytest.mark.parametrize(
    "variant", [{}, dict(qk_norm=False, tie_embeddings=False), GPT2, dict(qk_norm=False, bias=True)]
)
def test_there_and_back(tmp_path, tokenizer, variant):
    net, folder = saved(tmp_path, tokenizer, **variant)
    again, same_tokenizer = hf.load_hf(folder)
    assert_equal(net, again)
    assert same_tokenizer == tokenizer
    assert hf.save_hf(folder, again, None) == folder and hf.load_hf(folder)[1] is None  # replaced
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("variant", [{}, dict(tie_embeddings=False), GPT2])
def test_what_is_loaded_is_a_model_like_any_other(tmp_path, variant):
    net, folder = saved(tmp_path, **variant)
    again, _ = hf.load_hf(folder)
    assert [name for name, _ in again.named_parameters()] == [name for name, _ in net.named_parameters()]
    for a, b in zip([*net.parameters(), *net.buffers()], [*again.parameters(), *again.buffers()], strict=True):
        assert torch.equal(a, b) and a.stride() == b.stride() and a.requires_grad == b.requires_grad


def test_loading_leaves_the_seed_alone(tmp_path):
    _, folder = saved(tmp_path)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    hf.load_hf(folder)
    assert torch.equal(torch.rand(1), expected)


def test_the_first_gpt2_files(tmp_path):
    """Tensors without their prefix, and the causal mask among them."""
    net, folder = saved(tmp_path, **GPT2)
    tensors = {name.removeprefix("transformer."): x for name, x in load_file(folder / hf.WEIGHTS).items()}
    tensors |= {f"h.{i}.attn.bias": torch.ones(1, 1, 128, 128).tril() for i in range(2)}
    save_file(tensors, folder / hf.WEIGHTS)
    edit(folder, tie_word_embeddings="gone", n_inner=80, scale_attn_weights="gone")
    assert_equal(net, hf.load_hf(folder)[0])


def test_a_tied_head_that_was_written_all_the_same(tmp_path):
    net, folder = saved(tmp_path)
    edit_tensors(folder, lm_head__weight=net.lm_head.weight.detach().contiguous())
    assert_equal(net, hf.load_hf(folder)[0])


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda f: edit_tensors(f, model__norm__weight=None), "model.norm.weight is missing"),
        (lambda f: edit_tensors(f, model__extra=torch.ones(2)), "model.extra has no place"),
        (lambda f: edit_tensors(f, model__norm__weight=torch.ones(47)), r"model.norm.weight is \(47,\).*\(48,\)"),
        (lambda f: edit_tensors(f, model__norm__weight=torch.ones(48, dtype=torch.int8)), "I8, not plain"),
        (lambda f: (f / hf.WEIGHTS).write_bytes(b"no tensors"), "damaged"),
        (lambda f: (f / hf.WEIGHTS).unlink(), "holds no weights"),
        (lambda f: (f / hf.WEIGHTS).rename(f / "pytorch_model.bin"), "pickled.*could run any code"),
        (lambda f: (f / hf.CONFIG).unlink(), "config.json is missing"),
        (lambda f: (f / hf.CONFIG).write_text("{"), "config.json is missing or damaged"),
        (lambda f: (f / hf.CONFIG).write_text("[]"), "must hold a JSON object"),
        (lambda f: edit(f, vocab_size=280), "280"),
        (lambda f: edit(f, architectures=["MambaForCausalLM"]), "MambaForCausalLM"),
    ],
)
def test_what_is_wrong_with_a_folder_is_named(tmp_path, tokenizer, spoil, message):
    _, folder = saved(tmp_path, tokenizer)
    spoil(folder)
    with pytest.raises(CheckpointError, match=message) as error:
        hf.load_hf(folder)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize(
    "weight_map", [{"model.norm.weight": "gone.safetensors"}, {"model.norm.weight": "../model.safetensors"}, {}, ["x"]]
)
def test_an_index_that_leads_nowhere(tmp_path, weight_map):
    _, folder = saved(tmp_path)
    (folder / hf.WEIGHTS).unlink()
    (folder / hf.INDEX).write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match=r"gone.safetensors is missing|does not name the files beside it"):
        hf.load_hf(folder)


def test_a_model_that_was_taken_apart_is_not_written(tmp_path):
    net = model()
    net.blocks[0].mlp.down = torch.nn.Sequential(net.blocks[0].mlp.down)
    with pytest.raises(CheckpointError, match="merge adapters, undo quantization"):
        hf.save_hf(tmp_path / "model", net, None)
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_of_another_model_is_not_written(tmp_path, tokenizer):
    with pytest.raises(CheckpointError, match="290 ids.*vocabulary 280"):
        hf.save_hf(tmp_path / "model", model(vocab_size=280), tokenizer)


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right that Windows gives to few")
def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "drive").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "drive")
    hf.save_hf(tmp_path / "link", model(), None)
    assert (tmp_path / "link").is_symlink() and hf.WEIGHTS in [path.name for path in (tmp_path / "drive").iterdir()]


def test_other_files_are_not_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(CheckpointError, match="folder of its own"):
        hf.save_hf(tmp_path, model(), None)
    assert (tmp_path / "thesis.txt").exists()


# ---- the hub ----


def test_without_the_hub_s_library_a_name_gets_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"huggingface_hub is needed: pip install \"llmkit\[hf\]\""):
        hf.load_hf("somebody/some-model")


def hub(monkeypatch, snapshot_download):
    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=snapshot_download))


def test_offline_a_name_gets_a_sentence(monkeypatch):
    def unreachable(repo, allow_patterns):
        raise ConnectionError("no route to host\nand a long story")

    hub(monkeypatch, unreachable)
    with pytest.raises(
        CheckpointError, match=r"ConnectionError: no route to host\): check the name and the connection"
    ):
        hf.load_hf("gpt2")


def test_online_a_name_is_downloaded(monkeypatch, tmp_path):
    net, folder = saved(tmp_path)

    def download(repo, allow_patterns):
        assert repo == "somebody/some-model" and {"config.json", "tokenizer.json"} < set(allow_patterns)
        assert not any(pattern.endswith((".bin", ".py")) or pattern == "*" for pattern in allow_patterns)
        return str(folder)

    hub(monkeypatch, download)
    assert_equal(net, hf.load_hf("somebody/some-model")[0])


@pytest.mark.parametrize("path", ["./gone", "/gone/away", "a/b/c"])
def test_a_path_is_never_looked_up_in_the_hub(path):
    with pytest.raises(CheckpointError, match="there is no folder"):
        hf.load_hf(path)
