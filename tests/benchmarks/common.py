"""Shared by the benchmarks: interleaved timing, and the measured speeds that lower bounds are computed from."""
import os
import platform
import statistics
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def hardware():
    """Name of the GPU, or of the CPU with its threads, and torch version, for the table."""
    if DEVICE.type == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    name = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        name = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), name)
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def seconds(call):
    """Seconds of one call, including its work on the GPU."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def rate(dtype, size=2048, device=DEVICE):
    """Measured FLOP/s of a square matrix product, best of 7."""
    a = torch.ones(size, size, dtype=dtype, device=device)
    return 2 * size ** 3 / min(seconds(lambda: a @ a) for _ in range(7))


def bandwidth(size=2 ** 26):
    """Measured bytes/s of a copy, reads plus writes, best of 7."""
    a = torch.ones(size // 4, device=DEVICE)
    b = torch.empty_like(a)
    return 2 * size / min(seconds(lambda: b.copy_(a)) for _ in range(7))


def compare(title, contenders, repeats=7, floor=None, unit=1e3):
    """Times `contenders` {name: call}, ours first, and prints a table: median, range, and time relative to ours.

    Each contender is called once to warm up, then once in each of `repeats` rounds. floor: (seconds of a lower bound, its name).
    Returns {name: median seconds}."""
    for call in contenders.values():
        call()
    times = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, call in contenders.items():
            times[name].append(seconds(call))
    medians = {name: statistics.median(values) for name, values in times.items()}
    ours = next(iter(medians.values()))
    print(f"\n{title}\n{hardware()}\n\n| | median, ms | range, ms | time / ours |\n|---|---|---|---|")
    for name, values in times.items():
        low, high = min(values) * unit, max(values) * unit
        print(f"| {name} | {medians[name] * unit:.1f} | {low:.1f} - {high:.1f} | {medians[name] / ours:.2f} |")
    if floor:
        print(f"| floor: {floor[1]} | {floor[0] * unit:.1f} | | {floor[0] / ours:.2f} |")
    return medians
