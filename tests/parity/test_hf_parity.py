"""Hugging Face's layout against transformers: each loads what the other writes, with equal logits and ids."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmkit import chat, hf
from llmkit.config import RopeScaling, preset
from llmkit.generate import generate
from llmkit.hf_tokenizer import HFTokenizer
from llmkit.model import Transformer
from llmkit.tokenizer import SPECIAL_TOKENS, Tokenizer

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers' own

COMMON = dict(vocab_size=97, bos_token_id=None, eos_token_id=None, pad_token_id=None)
LLAMA = COMMON | dict(
    max_position_embeddings=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    hidden_size=48,
    intermediate_size=80,
)
GPT2 = COMMON | dict(n_positions=64, n_layer=2, n_head=4, n_embd=48)
ROPE = dict(rope_theta=1000.0, factor=4.0)
LLAMA3 = ROPE | dict(rope_type="llama3", low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16)
YARN = ROPE | dict(rope_type="yarn", original_max_position_embeddings=16)
CASES = {
    "llama_gqa": ("Llama", LLAMA),
    "llama_mha_tied": ("Llama", LLAMA | dict(num_key_value_heads=4, tie_word_embeddings=True)),
    "llama_mqa_wide_heads": ("Llama", LLAMA | dict(num_key_value_heads=1, head_dim=16, rms_norm_eps=1e-5)),
    "llama_biases": ("Llama", LLAMA | dict(attention_bias=True, mlp_bias=True)),
    "llama_linear": ("Llama", LLAMA | dict(rope_parameters=ROPE | dict(rope_type="linear"))),
    "llama_3": ("Llama", LLAMA | dict(rope_parameters=LLAMA3)),
    "llama_yarn": ("Llama", LLAMA | dict(rope_parameters=YARN)),
    "qwen3": ("Qwen3", LLAMA | dict(head_dim=24)),
    "qwen3_tied": ("Qwen3", LLAMA | dict(head_dim=12, num_key_value_heads=4, tie_word_embeddings=True)),
    "qwen3_yarn": (
        "Qwen3",
        LLAMA | dict(head_dim=24, rope_parameters=YARN | dict(attention_factor=1.3, beta_fast=8.0)),
    ),
    "qwen3_window": (
        "Qwen3",
        LLAMA | dict(head_dim=12, use_sliding_window=True, sliding_window=8, max_window_layers=0),
    ),
    "gpt2": ("GPT2", GPT2),
    "gpt2_untied_wide": ("GPT2", GPT2 | dict(n_inner=100, tie_word_embeddings=False, layer_norm_epsilon=1e-3)),
}


def written(case, folder, **options):
    """A tiny random model that transformers wrote into the folder."""
    kind, sizes = CASES[case]
    net_class = getattr(transformers, "GPT2LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM")
    torch.manual_seed(0)
    net = net_class(getattr(transformers, f"{kind}Config")(**sizes)).eval()
    with torch.no_grad():
        for weight in net.parameters():  # norms and biases too, and large enough that every part matters
            weight.normal_(0.0, 0.2)
    net.save_pretrained(folder, **options)
    return net


def assert_same_model(ours, theirs):
    idx = torch.randint(0, 97, (2, 48), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = theirs(idx).logits
        torch.testing.assert_close(ours(idx), logits, atol=1e-4, rtol=1e-4)
    assert logits.std() > 0.1
    tokens = theirs.generate(idx[:, :8], max_new_tokens=24, do_sample=False, attention_mask=torch.ones(2, 8))
    assert torch.equal(generate(ours, idx[:, :8], 24, temperature=0), tokens)


@pytest.mark.parametrize("case", CASES)
def test_models_go_there_and_back(case, tmp_path):
    theirs = written(case, tmp_path / "theirs")
    ours, tokenizer = hf.load_hf(tmp_path / "theirs")
    assert tokenizer is None and not ours.training
    assert_same_model(ours, theirs)
    again = transformers.AutoModelForCausalLM.from_pretrained(hf.save_hf(tmp_path / "ours", ours, None))
    assert type(again) is type(theirs)
    assert_same_model(ours, again.eval())
    same, _ = hf.load_hf(str(tmp_path / "ours"))
    assert same.config == ours.config
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), same.parameters(), strict=True))


@pytest.mark.parametrize("case", ["llama_gqa", "gpt2"])
def test_sharded_weights(case, tmp_path):
    theirs = written(case, tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert_same_model(hf.load_hf(tmp_path)[0], theirs)


def test_half_precision_is_read_as_float32_and_kept_when_saved(tmp_path):
    written("qwen3", tmp_path / "theirs").to(torch.bfloat16).save_pretrained(tmp_path / "half")
    ours, _ = hf.load_hf(tmp_path / "half")
    assert ours.tok_emb.weight.dtype == torch.float32
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "half", dtype=torch.float32)
    assert_same_model(ours, theirs.eval())
    hf.save_hf(tmp_path / "ours", ours.to(torch.bfloat16), None)
    assert transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").dtype == torch.bfloat16


NTK = dict(qk_norm=False, rope_scaling=RopeScaling("ntk", 4.0))


@pytest.mark.parametrize("changes", [{}, NTK, dict(sliding_window=8), dict(n_kv_head=1, tie_embeddings=False)])
def test_what_is_trained_here_runs_there(changes, tmp_path):
    torch.manual_seed(0)
    ours = Transformer(preset("nano", vocab_size=97, **changes))
    for weight in ours.parameters():
        weight.data.normal_(0.0, 0.2)
    hf.save_hf(tmp_path / "ours", ours, None)
    assert_same_model(ours, transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval())


# ---- tokenizers ----

TEXTS = [
    "Mira lives in the old mill. It's 12 o'clock, isn't it?\n\n\tdef f(x):\n        return x + 1  \n",
    "Été à Zürich, 中文 and あ, 🙂🙂 and ½ of 1234567 — naïve  co\u0301te",
    "",
    " ",
    "WE'LL SEE, she'd said; they've gone.   ",
]
ANY_TEXT = st.text(st.characters(max_codepoint=0x52F, exclude_categories=["Cs", "Cn"]) | st.sampled_from("中文，あ🙂"))
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_PATTERN = LLAMA3_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")


def byte_level(**options):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, **options)


def split(pattern):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), byte_level(use_regex=False)])


SPECIALS = ["<|endoftext|>", "<|im_start|>"]
KINDS = {  # pre-tokenizer, special tokens before the bytes, NFC, whole words
    "gpt2": (byte_level(), False, False, False),
    "smollm": (
        pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level()]),
        True,
        False,
        False,
    ),
    "llama3": (split(LLAMA3_PATTERN), False, False, True),
    "qwen": (split(QWEN_PATTERN), False, True, False),
}


def rust(kind):
    pre_tokenizer, first, nfc, whole_words = KINDS[kind]
    tokenizer = tokenizers.Tokenizer(models.BPE(ignore_merges=whole_words))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizer, decoders.ByteLevel()
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=SPECIALS if first else [],
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    tokenizer.add_special_tokens(SPECIALS)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")


@pytest.fixture(scope="module", params=KINDS)
def pair(request, tmp_path_factory):
    """A tokenizer of the kind, and what we read of what transformers wrote."""
    folder = tmp_path_factory.mktemp(request.param)
    theirs = rust(request.param)
    theirs.save_pretrained(folder)
    return theirs, hf.read_tokenizer(folder)


def theirs_of(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False)


@pytest.mark.parametrize("text", TEXTS)
def test_others_tokenizers_give_equal_ids(pair, text):
    theirs, ours = pair
    assert isinstance(ours, HFTokenizer) and ours.vocab_size == len(theirs)
    ids = ours.encode(text)
    assert ids == theirs_of(theirs, text)
    assert ours.decode(ids) == theirs.decode(ids)
    assert ours.eos_id == theirs.eos_token_id
    assert ours.special_tokens == {name: theirs.convert_tokens_to_ids(name) for name in SPECIALS}


@given(ANY_TEXT)
@settings(max_examples=50)
def test_others_tokenizers_give_equal_ids_on_any_text(pair, text):
    theirs, ours = pair
    assert ours.encode(text) == theirs_of(theirs, text)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Our tokenizer, and AutoTokenizer's of the same model."""
    with warnings.catch_warnings(action="ignore"):
        ours = Tokenizer.train(TEXTS * 3, 400)
    folder = tmp_path_factory.mktemp("exported") / "model"
    torch.manual_seed(0)
    hf.save_hf(folder, Transformer(preset("nano", vocab_size=ours.vocab_size)), ours)
    return ours, transformers.AutoTokenizer.from_pretrained(folder), folder


@given(ANY_TEXT)
def test_our_tokenizer_gives_equal_ids_there(exported, text):
    ours, theirs, _ = exported
    ids = ours.encode(text)
    assert theirs(text)["input_ids"] == ids
    assert theirs.decode(ids) == text


def test_special_tokens_and_chats_are_the_same_there(exported):
    ours, theirs, folder = exported
    assert theirs.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(ours.special_tokens.values())
    assert theirs.eos_token_id == ours.eos_id and len(theirs) == ours.vocab_size
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": TEXTS[0]},
        {"role": "assistant", "content": TEXTS[1]},
    ]
    ids = theirs.apply_chat_template(messages, return_dict=False)
    assert ids == chat.render(messages, ours)[0]
    ids = theirs.apply_chat_template(messages[:2], add_generation_prompt=True, return_dict=False)
    assert ids == chat.prompt(messages[:2], ours)
    stops = transformers.GenerationConfig.from_pretrained(folder).eos_token_id
    assert stops == [ours.eos_id, ours.special_tokens["<|end|>"]]


def test_our_tokenizer_comes_back_also_from_their_hands(exported, tmp_path):
    ours, theirs, folder = exported
    assert hf.load_hf(folder)[1] == ours
    theirs.save_pretrained(tmp_path)
    again = hf.read_tokenizer(tmp_path)
    assert isinstance(again, Tokenizer) and again == ours
    assert again.encode(TEXTS[0]) == ours.encode(TEXTS[0])


def test_others_tokenizers_survive_being_saved_again(tmp_path):
    theirs = rust("qwen")
    written("qwen3", tmp_path / "a")
    theirs.save_pretrained(tmp_path / "a")
    torch.manual_seed(0)
    model = Transformer(preset("nano", vocab_size=len(theirs)))
    hf.save_hf(tmp_path / "b", model, hf.read_tokenizer(tmp_path / "a"))
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "b")
    assert all(theirs_of(again, text) == theirs_of(theirs, text) for text in TEXTS)
    assert hf.load_hf(tmp_path / "b")[1].eos_id == theirs.eos_token_id
