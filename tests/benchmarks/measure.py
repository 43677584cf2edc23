"""How the benchmarks measure: ways to do the same go in turns, so that a busy machine slows all alike."""

import statistics

from llmkit.device import Timer, best_device, matmul_peak_flops, memory_bandwidth_bytes


def in_turns(ways: dict, rounds: int, device="cpu") -> dict[object, list[float]]:
    """Seconds of each way, a number a round; one round more, before them, warms up. Who goes first alternates."""
    seconds = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in list(ways.items())[:: 1 if turn % 2 else -1]:
            with Timer(device) as timer:
                way()
            seconds[name].append(timer.elapsed_s)
    return {name: times[1:] for name, times in seconds.items()}


def ratio(times, others) -> float:
    """How many times as long as the others, the median of the rounds."""
    return statistics.median(a / b for a, b in zip(times, others, strict=True))


def limits() -> str:
    """What this machine can do at most, now: measured, a second or two."""
    device = best_device()
    return (
        f"{device}: matrix products {matmul_peak_flops(device.value) / 1e9:.0f} GFLOP/s in float32, "
        f"memory reads {memory_bandwidth_bytes(device.value) / 1e9:.0f} GB/s"
    )
