"""The package itself: importing it loads nothing, and submodules come when they are asked for."""

import subprocess
import sys


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_importing_loads_nothing_heavy():
    heavy = "{'torch', 'numpy', 'tiktoken', 'matplotlib', 'ipywidgets'}"
    assert run(f"import sys, llmkit; print(*({heavy} & set(sys.modules)))") == []


def test_a_submodule_loads_on_first_use():
    assert run("import llmkit; print(llmkit.config.preset('tiny').d_model)") == ["128"]
    code = "import llmkit\ntry: llmkit.nonsense\nexcept AttributeError as e: print('nonsense' in str(e))"
    assert run(code) == ["True"]
