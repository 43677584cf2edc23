"""A learner's function always comes back, in both ways of stopping one, and leaves nothing behind."""

import contextlib
import gc
import io
import signal
import sys
import threading
import time

import pytest

from course import guard

SECONDS, AMPLE = 0.1, 30  # for what never ends; for what ends by itself, however busy the machine is


def with_alarm(fn, *args, seconds=SECONDS):
    return guard.run(fn, args, seconds)


def in_a_thread(fn, *args, seconds=SECONDS):
    """guard.run as it goes outside of the main thread."""
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.append(guard.run(fn, args, seconds)))
    thread.start()
    thread.join(20)
    return outcomes[0]


both = pytest.mark.parametrize("run", [
    pytest.param(with_alarm, marks=pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no setitimer here")),
    in_a_thread,
])


def spin():
    while True:
        pass


def spin_and_swallow():
    while True:
        try:
            sum(range(10))
        except:  # noqa: E722
            pass


def spin_and_swallow_twice():
    while True:
        try:
            try:
                sum(range(10))
            except:  # noqa: E722
                sum(range(10))
        except:  # noqa: E722
            pass


def swallow_in_a_callee():
    def inner():
        try:
            time.sleep(5)
        except BaseException:
            return None

    while True:
        inner()


def sleep_and_swallow():
    while True:
        try:
            time.sleep(5)
        except:  # noqa: E722
            continue


def swallow_and_return():
    try:
        spin()
    except BaseException:
        return "escaped"


def convert():
    try:
        spin()
    except BaseException as error:
        raise ValueError("mine") from error


def print_for_ever():
    while True:
        print("again")


def grow():
    items = [1]
    for item in items:
        items.append(item)


@both
@pytest.mark.parametrize("fn", [
    spin, spin_and_swallow, spin_and_swallow_twice, swallow_in_a_callee, sleep_and_swallow, swallow_and_return, convert,
    print_for_ever, grow, lambda: time.sleep(5),
])
def test_what_never_ends_is_stopped(run, fn):
    outcome = run(fn)
    assert outcome.timed_out and outcome.value is None and outcome.error is None
    assert outcome.line.startswith("line ")
    assert len(outcome.printed) <= guard.MAX_PRINTED


@both
def test_a_stopped_function_does_not_go_on(run):
    beats = []

    def count():
        while True:
            beats.append(1)
            with contextlib.suppress(BaseException):
                time.sleep(0.001)

    assert run(count).timed_out
    time.sleep(0.05)
    before = len(beats)
    time.sleep(0.05)
    assert len(beats) == before > 0


@both
def test_a_callback_of_the_garbage_collector_is_left_alone(run):
    interrupted, collections = [], []

    def slow(phase, info):
        collections.append(phase)
        try:
            for _ in range(1000):
                pass
        except BaseException as error:
            interrupted.append(error)

    def collect_for_ever():
        while True:
            with contextlib.suppress(BaseException):
                gc.collect(0)

    gc.callbacks.append(slow)
    try:
        assert run(collect_for_ever).timed_out
        for _ in range(500):  # a thread may be in the middle of one collection, and ends it
            time.sleep(0.01)
            before = len(collections)
            gc.collect(0)
            if len(collections) == before + 2:
                break
        assert len(collections) == before + 2  # the collector is free again
    finally:
        gc.callbacks.remove(slow)
    assert not interrupted


@both
def test_what_is_lost_in_a_destructor_is_tried_again_and_nobody_is_told(run, monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)

    class Slow:
        def __del__(self):
            for _ in range(100_000):
                pass

    class Broken:
        def __del__(self):
            raise ValueError("the learner's own")

    def drop_for_ever():
        Broken()
        while True:
            Slow()

    assert run(drop_for_ever).timed_out
    assert [lost.exc_type for lost in told] == [ValueError]


@both
def test_values_errors_and_prints_come_through(run):
    def divide(a, b):
        print("dividing", a)
        return a / b

    outcome = run(divide, 6, 3, seconds=AMPLE)
    assert (outcome.value, outcome.error, outcome.timed_out, outcome.printed) == (2, None, False, "dividing 6\n")
    outcome = run(divide, 6, 0, seconds=AMPLE)
    assert isinstance(outcome.error, ZeroDivisionError) and outcome.line.endswith(": return a / b")
    assert isinstance(run(sys.exit, seconds=AMPLE).error, SystemExit)


@both
def test_the_line_is_the_learners_own(run):
    def ask():
        return io.StringIO(3)

    assert run(ask, seconds=AMPLE).line.endswith("return io.StringIO(3)")
    assert run(int, "x", seconds=AMPLE).line == ""  # a function written in C has no lines


@both
def test_nothing_is_left_behind(run):
    def state():
        signals = [signal.getsignal(getattr(signal, name, signal.SIGINT)) for name in ("SIGINT", "SIGALRM")]
        timer = signal.getitimer(signal.ITIMER_REAL)[0] > 0 if hasattr(signal, "getitimer") else None
        return sys.stdout, sys.gettrace(), threading.gettrace(), sys.unraisablehook, signals, timer

    before = state()
    for fn in (spin_and_swallow, len, lambda: 1):
        run(fn)
        assert state() == before


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no setitimer here")
def test_another_timer_goes_on_after_the_call():
    rang = []
    old_handler = signal.signal(signal.SIGALRM, lambda number, frame: rang.append(number))
    old_timer = signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        assert with_alarm(spin).timed_out and not rang
        time.sleep(0.4)
        assert rang == [signal.SIGALRM]
    finally:
        signal.signal(signal.SIGALRM, old_handler)
        signal.setitimer(signal.ITIMER_REAL, *old_timer)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no setitimer here")
def test_a_debuggers_trace_function_stays():
    def trace(frame, event, arg):
        return None

    old = sys.gettrace()
    sys.settrace(trace)
    try:
        outcome = with_alarm(spin_and_swallow)
        found = sys.gettrace()
    finally:
        sys.settrace(old)
    assert outcome.timed_out and found is trace


def test_the_learners_own_stop_passes_through():
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        with_alarm(interrupted)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no setitimer here")
def test_with_blocks_close_when_a_function_is_stopped():
    torch = pytest.importorskip("torch")

    def endless():
        with torch.no_grad():
            while True:
                torch.ones(3).sum()

    assert with_alarm(endless).timed_out
    assert torch.is_grad_enabled()
