"""Which Pythons and platforms the course runs on, and the sentence for those it does not run on.

Every function takes facts and returns a sentence for the learner, or None when all is well. Old Pythons must be
able to parse this file: no f-strings, no annotations.
"""
OLDEST = (3, 11)
NEWEST = (3, 14)
COLAB = "Use the course in Google Colab instead, in the browser: see README.md."


def python_trouble(version, implementation="cpython"):
    """`version` is sys.version_info or a tuple (major, minor, ...)."""
    if implementation != "cpython":
        return "this Python is " + implementation + "; PyTorch needs CPython " + _range() + ", from python.org."
    if OLDEST <= tuple(version[:2]) <= NEWEST:
        return None
    found = str(version[0]) + "." + str(version[1])
    return (
        "this is Python " + found + ", and the course needs Python " + _range() + ". Install one of these from "
        "python.org and start again with it, for instance: python3.12 -m course (on Windows: py -3.12 -m course)"
    )


def platform_trouble(system, machine, bits=64, libc=""):
    """`system` as sys.platform, `machine` as platform.machine(), `libc` as sysconfig's HOST_GNU_TYPE."""
    machine = machine.lower()
    if system == "darwin" and machine == "x86_64":
        return (
            "PyTorch no longer supports Macs with an Intel processor. " + COLAB + " (If this is an Apple silicon "
            "Mac, its Python is an Intel one: install an arm64 Python from python.org.)"
        )
    if system == "win32" and machine in ("arm64", "aarch64"):
        return "PyTorch has no build for Windows on ARM. " + COLAB
    if bits != 64:
        return "this is a 32-bit Python; PyTorch needs a 64-bit one, from python.org."
    if "musl" in libc:
        return "PyTorch has no build for Linux with musl (Alpine). " + COLAB
    if system not in ("linux", "darwin", "win32") or machine not in ("x86_64", "amd64", "arm64", "aarch64"):
        return "PyTorch has no build for " + system + " on " + machine + ". " + COLAB
    return None


def venv_trouble(missing, version, debian):
    """`missing`: those of the modules venv and ensurepip that this Python lacks."""
    if not missing:
        return None
    what = "this Python lacks the module " + " and ".join(missing) + ", which makes the course's environment. "
    if debian:
        return what + "Install it with: sudo apt-get install python" + ".".join(map(str, version[:2])) + "-venv"
    return what + "Install your system's package for it, or a complete Python " + _range() + " from python.org."


def _range():
    return ".".join(map(str, OLDEST)) + " to " + ".".join(map(str, NEWEST))
