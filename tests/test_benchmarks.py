"""The benchmarks still run, each at a tiny size, one round: what they print is looked at, but never how fast it was."""

import re
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from llmkit.config import MoEConfig, preset
from tests.benchmarks import __main__ as command
from tests.benchmarks import gpu, lessons, measure, moe, recipes

ROOT = Path(__file__).resolve().parent.parent
SIZES = dict(vocab_size=64, context_length=32, n_layer=1, n_head=2, n_kv_head=2, d_model=32, head_dim=16, d_ff=64)
CONFIG = preset("small", **SIZES)


@pytest.fixture(autouse=True)
def known_machine(monkeypatch):
    """Every measurement of the machine itself takes "one second": the true ones take seconds."""
    monkeypatch.setattr("llmkit.device._median_s", lambda run, device, repeats: 1.0)


def lines(capsys):
    out = capsys.readouterr().out
    assert "nan" not in out.replace("nan GB", "")  # a CPU does not tell the memory of one model
    return out.splitlines()


def test_the_command_knows_every_benchmark_and_refuses_others(capsys, monkeypatch):
    files = {path.stem for path in (ROOT / "tests/benchmarks").glob("*.py")} - {"__init__", "__main__", "measure"}
    assert set(command.MINUTES) == files
    with pytest.raises(SystemExit, match="no benchmark speed; there are tokenizer, moe"):
        command.main("speed")
    asked = []

    def run(line, **where):
        asked.append(line[-1])
        return SimpleNamespace(returncode=int("training" in line[-1]))

    monkeypatch.setattr(command.subprocess, "run", run)
    assert command.main("moe", "training", "gpu") == 1
    assert asked == ["tests.benchmarks.moe", "tests.benchmarks.training", "tests.benchmarks.gpu"]
    out = lines(capsys)
    assert sum("matrix products 17 GFLOP/s in float32, memory reads 0 GB/s" in line for line in out) == 3
    assert out[-1] == "2 done, failed: training"


def test_ways_go_in_turns_and_the_first_round_does_not_count():
    order = []
    seconds = measure.in_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2)
    assert "".join(order) == "baabba" and [len(times) for times in seconds.values()] == [2, 2]
    assert measure.ratio([2, 4, 9], [1, 2, 3]) == 2


def test_experts(capsys):
    case = (16, 32, MoEConfig(4, 2, 16))
    ways = moe.layer(*case, device="cpu")
    torch.testing.assert_close(ways["grouped"](), ways["naive"]())
    moe.main(1, [case])
    assert re.search(r"16 tokens of  32, 2 of  4 experts of  16: grouped .* times as fast as dense", lines(capsys)[-1])


def test_decoding(capsys):
    pytest.importorskip("transformers").logging.set_verbosity_error()
    from tests.benchmarks import decoding

    decoding.main(1, CONFIG, new=8)
    assert all("100% of the ids equal" in line for line in lines(capsys)[1:])


def test_training(capsys):
    pytest.importorskip("transformers")
    from tests.benchmarks import training

    configs = {name: preset("small", **SIZES | same) for name, same in (
        ("tiny", {}), ("small", {}), ("small as Llama", dict(qk_norm=False)),
        ("small as GPT-2", training.GPT2 | dict(n_kv_head=2, d_ff=64)),
    )}  # fmt: skip
    training.main(1, configs)
    out = lines(capsys)
    assert sum("utilisation" in line for line in out) == 8 and "times transformers' tokens/s" in out[-1]
    for name in training.PEERS:
        ours = sum(p.numel() for p in training.Transformer(training.CONFIGS[name]).parameters())
        assert ours == sum(p.numel() for p in training.peer(name, training.CONFIGS[name]).parameters())


def test_tokenizer(capsys):
    pytest.importorskip("tokenizers")
    from tests.benchmarks import tokenizer

    tokenizer.main(1, "the quick brown fox and the lazy dog\n" * 20, 280)
    assert [line.split()[0] for line in lines(capsys)[1:]] == ["training", "encoding"]


def test_recipes(capsys, monkeypatch):
    monkeypatch.setattr(recipes, "preset", lambda name, **switches: preset("nano", n_layer=1, **switches))
    monkeypatch.setattr(recipes, "LENGTH", 64)
    monkeypatch.setattr(recipes, "RATES", recipes.RATES[:1])
    monkeypatch.setattr(recipes, "GPT", recipes.GPT[:1])
    monkeypatch.setattr(recipes, "SHARES", (1.5, 1.0))
    recipes.main(4, "float32", rounds=1)
    first, *_, last = lines(capsys)
    assert first.startswith("torch.float32 for both, 8 x 64 tokens a step: GPT-2, AdamW")
    assert re.search("reaches .* times as fast as GPT-2, AdamW|does not reach .* in 150% of the steps", last)


def test_gpu(capsys):
    scale = gpu.SCALES["tiny"]
    for name in ("gpt2", "medium"):
        assert "cached = naive" in gpu.check_cache(name, scale, "cpu")
        assert "close to float32" in gpu.check_dtype(name, scale, "cpu")
        assert "nan GB" in gpu.report_training(name, scale, torch.device("cpu"), ways=["eager"])
        assert gpu.report_generation(name, scale, torch.device("cpu")).count("decoding") == 2
    assert "one by one" in gpu.check_experts(scale, "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_a_sentence_says_so(capsys):
    assert gpu.main() == 0
    assert "no NVIDIA or AMD GPU" in lines(capsys)[-1]


def test_a_part_that_fails_on_a_gpu_leaves_the_others(capsys, monkeypatch):
    for part in ("check_cache", "check_dtype", "report_generation", "report_training"):
        monkeypatch.setattr(gpu, part, lambda name, scale, device: f"{name} measured")
    monkeypatch.setattr(gpu, "check_experts", lambda scale, device: 1 / 0)
    assert gpu.main("tiny") == 1
    assert lines(capsys)[-2:] == ["medium measured", "8 parts done, 1 failed"]


def test_lessons_are_run_twice_and_their_errors_told(tmp_path, capsys):
    cells = ["n = globals().get('n', 0) + 1", "assert n < 2, f'run {n} times'", "import socket, pathlib",
             "socket.create_connection(('192.0.2.1', 80), timeout=2)", "pathlib.Path('made').touch()"]  # fmt: skip
    path = tmp_path / "01_a.ipynb"
    nbformat.write(new_notebook(cells=[new_markdown_cell("# A"), *map(new_code_cell, cells)]), path)
    before = path.read_text(encoding="utf-8")
    assert lessons.main("01", folder=tmp_path) == 1
    head, row, *errors = lines(capsys)
    assert re.fullmatch(r"01_a( +[\d.]+){3} +3", row)
    assert [line.strip().split(": ")[0] for line in errors] == ["pass 1, cell 4", "pass 2, cell 2", "pass 2, cell 4"]
    assert "network block" in errors[0] and "run 2 times" in errors[1]
    assert [file.name for file in tmp_path.iterdir()] == [path.name] and path.read_text(encoding="utf-8") == before
