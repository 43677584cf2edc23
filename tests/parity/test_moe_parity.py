"""Mixtures of experts against transformers' Qwen3-MoE: logits, greedy text, the balance loss, both ways."""

import pytest
import torch

from llmkit import hf, moe
from llmkit.config import MoEConfig, preset
from llmkit.generate import generate
from llmkit.model import Transformer

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers' own

SIZES = dict(
    vocab_size=97,
    max_position_embeddings=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    hidden_size=48,
    head_dim=24,
    intermediate_size=80,
    moe_intermediate_size=20,
    num_experts=6,
    num_experts_per_tok=2,
    norm_topk_prob=True,
    bos_token_id=None,
    eos_token_id=None,
    pad_token_id=None,
)
CASES = {
    "top_2_of_6": {},
    "weights_as_they_are": dict(norm_topk_prob=False, tie_word_embeddings=True),
    "one_of_6": dict(num_experts_per_tok=1, norm_topk_prob=False),
    "all_of_3": dict(num_experts=3, num_experts_per_tok=3),
    "many_small": dict(num_experts=32, num_experts_per_tok=8, moe_intermediate_size=8),
}
IDX = torch.randint(0, 97, (2, 48), generator=torch.Generator().manual_seed(1))


def written(case, folder):
    torch.manual_seed(0)
    net = transformers.Qwen3MoeForCausalLM(transformers.Qwen3MoeConfig(**SIZES | CASES[case])).eval()
    with torch.no_grad():
        for weight in net.parameters():  # norms too, and large enough that every part matters
            weight.normal_(0.0, 0.2)
    net.save_pretrained(folder)
    return net


def assert_same_model(ours, theirs):
    with torch.no_grad():
        logits = theirs(IDX).logits
        torch.testing.assert_close(ours(IDX), logits, atol=1e-4, rtol=1e-4)
    assert logits.std() > 0.1
    tokens = theirs.generate(IDX[:, :8], max_new_tokens=24, do_sample=False, attention_mask=torch.ones(2, 8))
    assert torch.equal(generate(ours, IDX[:, :8], 24, temperature=0), tokens)


@pytest.mark.parametrize("case", CASES)
def test_models_go_there_and_back(case, tmp_path):
    theirs = written(case, tmp_path / "theirs")
    ours, _ = hf.load_hf(tmp_path / "theirs")
    assert_same_model(ours, theirs)
    again = transformers.AutoModelForCausalLM.from_pretrained(hf.save_hf(tmp_path / "ours", ours, None))
    assert type(again) is transformers.Qwen3MoeForCausalLM
    assert_same_model(ours, again.eval())
    same, _ = hf.load_hf(tmp_path / "ours")
    assert same.config == ours.config
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), same.parameters(), strict=True))


def test_what_is_trained_here_runs_there(tmp_path):
    torch.manual_seed(0)
    ours = Transformer(preset("nano", vocab_size=97, moe=MoEConfig(8, 2, 24)))
    for weight in ours.parameters():
        weight.data.normal_(0.0, 0.2)
    hf.save_hf(tmp_path / "ours", ours, None)
    assert_same_model(ours, transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval())


@pytest.mark.parametrize("case", CASES)
def test_the_balance_loss_and_its_gradient(case, tmp_path):
    theirs = written(case, tmp_path)
    ours, _ = hf.load_hf(tmp_path)
    ours(IDX)
    value = moe.load_balance_loss(ours)
    value.backward()
    wanted = theirs(IDX, output_router_logits=True).aux_loss
    wanted.backward()
    torch.testing.assert_close(value, wanted, atol=1e-5, rtol=1e-5)
    for block, layer in zip(ours.blocks, theirs.model.layers, strict=True):
        torch.testing.assert_close(block.mlp.router.weight.grad, layer.mlp.gate.weight.grad, atol=1e-5, rtol=1e-3)
    assert case == "all_of_3" or value > 1.01 * ours.config.moe.n_active
