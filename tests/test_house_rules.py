"""House rules for code. A rule is a function from source to complaints, run on the repository and on bad samples."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAX_LINES = 300
LAYERS = (  # a module imports from lower rows, or from the left in its own
    "config device sandbox",
    "tokenizer unigram chat world corpora data tasks",
    "kernels positions flash attention moe model cache decode cost",
    "checkpoint hf_tokenizer hf_config hf activations logprobs optim sampling",
    "generate engine distributed run train",
    "scaling evaluate sft quantize lora adapters reward ppo dpo grpo speculative merge",
    "rag agent pipeline",
    "plots widgets",
)
PLACE = {name: (row, column) for row, names in enumerate(LAYERS) for column, name in enumerate(names.split())}
EYES = {"matplotlib", "plotly", "ipywidgets", "anywidget", "IPython", "resvg_py"}
UNSAFE_MODULES = {"pickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}


def files(*patterns):
    return sorted(path.relative_to(ROOT) for pattern in patterns for path in ROOT.glob(pattern))


LIBRARY = files("llmkit/**/*.py")
SOURCES = LIBRARY + files("course/**/*.py")
TESTS = files("tests/**/test_*.py", "tests/**/bench_*.py", "tests/conftest.py")
DOCUMENTS = files("*.md", "course/**/*.md", "tests/**/*.md")


def each(paths):
    return pytest.mark.parametrize("path", paths, ids=str)


def imports(path, source):
    """Absolute dotted names of all that a file imports, relative imports and those inside functions included."""
    package = path.parts[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            yield from (".".join([*base, *filter(None, [node.module]), alias.name]) for alias in node.names)


# ---- layers ----


def layer_breaches(path, source):
    own = path.parts[1].removesuffix(".py")
    if own not in PLACE and own != "__init__":
        yield f"{own} has no place in LAYERS"
    for name in imports(path, source):
        top, _, rest = name.partition(".")
        other = rest.split(".")[0]
        if top in ("course", "lessons", "tests"):
            yield f"imports {name}: llmkit stands on its own"
        elif top in EYES and own not in ("plots", "widgets"):
            yield f"imports {name}: only plots and widgets draw"
        elif top == "llmkit" and other != own:
            if other not in PLACE:
                yield f"imports {name}, which has no place in LAYERS"
            elif own == "__init__" or PLACE[other] >= PLACE.get(own, (0, 0)):
                yield f"imports {name} from a higher row, or from the right in its own"


@each(LIBRARY)
def test_imports_follow_the_layers(path):
    assert list(layer_breaches(path, (ROOT / path).read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("llmkit/model.py", "from .cache import Cache"),  # to the right in the same row
        ("llmkit/config.py", "def f():\n    from llmkit import train"),
        ("llmkit/world/grammar.py", "from ..data import Batch"),
        ("llmkit/data.py", "import course.clean"),
        ("llmkit/train.py", "import matplotlib.pyplot as plt"),
        ("llmkit/helpers.py", ""),
        ("llmkit/__init__.py", "from . import config"),
    ],
)
def test_the_layer_rule_sees(path, source):
    assert len(list(layer_breaches(Path(path), source))) == 1


def test_the_layer_rule_allows_what_design_allows():
    source = "import torch\nfrom . import attention\nfrom .config import ModelConfig\nimport llmkit.positions"
    assert list(layer_breaches(Path("llmkit/model.py"), source)) == []
    assert list(layer_breaches(Path("llmkit/world/town.py"), "from .grammar import Rule\nfrom .. import chat")) == []
    assert list(layer_breaches(Path("llmkit/widgets/bpe.py"), "import ipywidgets\nfrom ..plots import bars")) == []


# ---- safety and size ----


def unsafe_uses(path, source):
    for name in imports(path, source):
        if name.split(".")[0] in UNSAFE_MODULES:
            yield f"imports {name}: loading it can run any code; use safetensors or JSON"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in ("eval", "exec", "torch.load", "torch.save", "yaml.load"):
                yield f"line {node.lineno} calls {called}"
            if any(keyword.arg == "allow_pickle" for keyword in node.keywords):
                yield f"line {node.lineno} allows pickle"


@each(SOURCES)
def test_no_pickle_and_no_eval(path):
    assert list(unsafe_uses(path, (ROOT / path).read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "source", ["from pickle import loads", "torch.load(path)", "eval(text)", "np.load(path, allow_pickle=True)"]
)
def test_the_safety_rule_sees(source):
    assert len(list(unsafe_uses(Path("llmkit/data.py"), source))) == 1


def test_the_safety_rule_allows_evaluation_mode():
    assert list(unsafe_uses(Path("llmkit/data.py"), "model.eval()\nself.exec(x)")) == []


def machine_encodings(source):
    """Calls that read or write text in whatever encoding this machine is set to, which on Windows is seldom UTF-8."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and "encoding" not in (given := {word.arg for word in node.keywords}):
            called, mode = ast.unparse(node.func), [*map(ast.unparse, node.args), "", ""][1]
            if (called == "open" and "b" not in mode) or called.endswith((".read_text", ".write_text")):
                yield f"line {node.lineno}: {called} needs encoding="
            if "text" in given and called.startswith("subprocess."):
                yield f"line {node.lineno}: text=True needs encoding="


@each(SOURCES)
def test_texts_are_utf8_everywhere(path):
    assert list(machine_encodings((ROOT / path).read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("source", ["open(path)", "open(path, 'w')", "p.read_text()", "subprocess.run(c, text=True)"])
def test_the_encoding_rule_sees(source):
    assert len(list(machine_encodings(source))) == 1


@each(SOURCES)
def test_a_file_tells_one_story(path):
    lines = (ROOT / path).read_text(encoding="utf-8").count("\n")
    assert lines <= MAX_LINES, f"{lines} lines: split it where the story changes"
    assert path.name != "utils.py", "name the idea"


@pytest.mark.parametrize("module", sorted({path.parts[1] for path in LIBRARY} - {"__init__.py"}))
def test_every_module_has_its_tests(module):
    pattern = f"test_{module}" if module.endswith(".py") else f"test_{module}*.py"  # a package may have several
    assert list((ROOT / "tests").glob(pattern))


# ---- tests ----


def proves(node, helpers):
    """Whether a function's own body can fail: an assertion, pytest.raises and the like, or a helper that asserts."""
    for child in ast.walk(node):
        if isinstance(child, ast.Assert) and not isinstance(child.test, ast.Constant):
            return True
        if isinstance(child, ast.Call):
            name = ast.unparse(child.func).split(".")[-1]
            if name.startswith("assert_") or name in ("raises", "warns", "fail") or name in helpers:
                return True
    return False


def assertion_free(source):
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    helpers = {node.name for node in functions if proves(node, ())}
    for node in functions:
        if node.name.startswith("test") and not proves(node, helpers):
            yield node.name


@each(TESTS)
def test_every_test_can_fail(path):
    assert list(assertion_free((ROOT / path).read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("body", ["x == 1", "assert True", "print(helper())"])
def test_the_assertion_rule_sees(body):
    assert list(assertion_free(f"def helper():\n    return 1\ndef test_x():\n    {body}")) == ["test_x"]


def test_the_assertion_rule_follows_helpers():
    source = (
        "def check(x):\n    assert x > 0\n\ndef test_a():\n    check(1)\n\n"
        "def test_b():\n    torch.testing.assert_close(1, 1)\n\n"
        "def test_c():\n    with pytest.raises(ValueError):\n        int('x')"
    )
    assert list(assertion_free(source)) == []


# ---- documents ----


def broken_links(path, text):
    """Relative targets of Markdown links and HTML src/href that do not exist; code blocks are not read."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)|(?:src|href)=\"([^\"]+)\"", text):
        target = "".join(target).split("#")[0]
        if target and not re.match(r"[a-z]+:", target) and not (path.parent / target).exists():
            yield target


@each(DOCUMENTS)
def test_relative_links_lead_somewhere(path):
    assert list(broken_links(ROOT / path, (ROOT / path).read_text(encoding="utf-8"))) == []


def test_the_link_rule_sees(tmp_path):
    text = '[a](gone.md) [b](https://example.org) [c](#here) <img src="no.png"> `[d](code.md)`'
    assert list(broken_links(tmp_path / "README.md", text)) == ["gone.md", "no.png"]
