"""llmkit: the life of one small language model, one idea a module (`llmkit.model`, `llmkit.train`, ...).

Submodules load on first use, so that `import llmkit` costs nothing, not even torch's import.
"""

from importlib import import_module
from importlib.util import find_spec

__version__ = "0.1.0"


def __getattr__(name):
    if not name.startswith("_") and find_spec(f"{__name__}.{name}") is not None:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
