"""Call a learner's function and always come back: with its value, its exception, or the news that its time was up.

In the main thread of Linux and macOS an interval timer's signal raises TimeUp inside the function. A bare `except` in a
loop swallows that. So each later alarm also traces the function and raises once more n lines on, where n grows from
alarm to alarm: sooner or later it strikes outside of every `try`. The first one does not, so that `with` blocks close.
None is raised in a callback of the garbage collector, which happens to run inside the function: it would be lost there.
Where one is lost all the same, in a `__del__` or a weak reference's callback, Python's notice is left out: the next one
is due soon.

Elsewhere (Windows, other threads) the function runs in a thread of its own under sys.settrace. When its time is up, the
trace function never returns, which nothing can swallow: the thread sleeps for ever, at no cost, and the caller goes on.

Neither can stop a single call into C that never returns, such as sum(itertools.count()): the kernel's Restart can.
"""

import contextlib
import gc
import inspect
import io
import linecache
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

INTERVAL_S = 0.02  # between alarms, once time is up
MAX_PRINTED = 2000  # characters kept of what the function prints
Place = tuple[str, int]  # file name and line number


@dataclass(frozen=True)
class Outcome:
    """What became of a call: a value, or an error, or neither when its time was up."""

    value: Any
    error: BaseException | None
    timed_out: bool
    line: str  # the learner's own line at which it failed or was stopped, "line 3: return a / b", or ""
    printed: str


class TimeUp(BaseException):
    """Raised inside the learner's function; not an Exception, so that `except Exception` lets it pass."""


class _Paper(io.TextIOBase):
    """What a function prints, up to MAX_PRINTED characters: an endless loop that prints does not fill the notebook."""

    def __init__(self):
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text[: MAX_PRINTED - len(self.text)]
        return len(text)


def run(fn: Callable, args: tuple, seconds: float) -> Outcome:
    """Call fn(*args) for at most `seconds`. Timers, signal handlers, tracing and sys.stdout are as before afterwards.

    Only KeyboardInterrupt, the learner's own "stop", passes through."""
    paper = _Paper()
    in_main_thread = threading.current_thread() is threading.main_thread()
    call = _with_alarm if hasattr(signal, "setitimer") and in_main_thread else _in_a_thread
    with contextlib.redirect_stdout(paper):
        value, error, places = call(fn, args, seconds)
    timed_out = isinstance(error, TimeUp)
    line = _own_line(fn, places)
    return Outcome(value, None if timed_out else error, timed_out, line, paper.text)


# ---- with a signal ----


def _with_alarm(fn, args, seconds) -> tuple[Any, BaseException | None, list[Place]]:
    alarms, skip, done = 0, 0, False
    value, error, places = None, None, []

    def trace(frame, event, arg):
        nonlocal skip
        if event == "line" and not done:
            if skip == 0 and not _collecting(frame):
                raise TimeUp
            skip = max(skip - 1, 0)
        return trace

    def on_alarm(number, frame):
        nonlocal alarms, skip, places
        inside = list(_frames(frame, until=_with_alarm))
        if done or not inside or _collecting(frame):  # the function has just ended, or not begun
            return
        alarms += 1
        if alarms == 1:
            places = [(f.f_code.co_filename, f.f_lineno) for f in inside]
        else:
            skip = alarms - 2
            for f in inside:
                f.f_trace = trace
            sys.settrace(trace)
        raise TimeUp

    def on_lost(unraisable):
        if not issubclass(unraisable.exc_type, TimeUp):
            old_hook(unraisable)

    old_delay, old_interval = signal.setitimer(signal.ITIMER_REAL, 0)
    old_handler, old_trace, began = signal.signal(signal.SIGALRM, on_alarm), sys.gettrace(), time.monotonic()
    old_hook, sys.unraisablehook = sys.unraisablehook, on_lost
    try:
        signal.setitimer(signal.ITIMER_REAL, max(seconds, INTERVAL_S), INTERVAL_S)
        value = fn(*args)
    except KeyboardInterrupt:
        raise
    except BaseException as raised:  # SystemExit too: exit() in an exercise must not end the notebook
        error = raised
    finally:
        done = True
        signal.setitimer(signal.ITIMER_REAL, 0)  # this and the next line are C: nothing of theirs can be traced
        sys.settrace(old_trace)
        sys.unraisablehook = old_hook
        signal.signal(signal.SIGALRM, old_handler or signal.SIG_DFL)
        if old_delay:
            left = max(old_delay - (time.monotonic() - began), 1e-3)
            signal.setitimer(signal.ITIMER_REAL, left, old_interval)
    if alarms:  # also when the function swallowed TimeUp and returned something
        return None, TimeUp(), places
    return value, error, _traceback_places(error)


def _frames(frame: FrameType | None, until: Callable) -> Iterator[FrameType]:
    """The frames of the learner's call, innermost first; nothing when `until` itself is running."""
    while frame is not None and frame.f_code is not until.__code__:
        yield frame
        frame = frame.f_back


def _collecting(frame: FrameType | None) -> bool:
    """Whether `frame` belongs to a callback of the garbage collector."""
    callbacks = {getattr(callback, "__code__", None) for callback in gc.callbacks}
    return any(f.f_code in callbacks for f in _frames(frame, until=_with_alarm))


# ---- with a trace function ----


def _in_a_thread(fn, args, seconds) -> tuple[Any, BaseException | None, list[Place]]:
    time_is_up = threading.Event()
    value = error = None

    def trace(frame, event, arg):
        importing = (f for f in _frames(frame, until=work) if "importlib" in f.f_code.co_filename)
        if time_is_up.is_set() and not any(importing) and not _collecting(frame):
            threading.Event().wait()  # for ever, but not while holding the lock of an import or of the collector
        return trace

    def work():
        nonlocal value, error
        sys.settrace(trace)
        try:
            value = fn(*args)
        except BaseException as raised:
            error = raised
        finally:
            sys.settrace(None)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        thread.join(seconds)
        frame = sys._current_frames().get(thread.ident) if thread.is_alive() else None
    finally:
        time_is_up.set()
    if frame is not None:
        return None, TimeUp(), [(f.f_code.co_filename, f.f_lineno) for f in _frames(frame, until=work)]
    return value, error, _traceback_places(error)


# ---- where it was ----


def _traceback_places(error: BaseException | None) -> list[Place]:
    places, tb = [], error.__traceback__ if error else None
    while tb:
        places.append((tb.tb_frame.f_code.co_filename, tb.tb_lineno))
        tb = tb.tb_next
    return places[::-1]


def _own_line(fn: Callable, places: list[Place]) -> str:
    """The innermost of the places that lies in the learner's own cell or file, as text."""
    code = getattr(inspect.unwrap(fn), "__code__", None)
    number = next((line for file, line in places if code and file == code.co_filename), None)
    if number is None:
        return ""
    source = linecache.getline(code.co_filename, number).strip()
    return f"line {number}: {source}" if source else f"line {number}"
