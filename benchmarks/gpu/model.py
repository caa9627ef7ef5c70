"""Predict the microseconds of `select` on an H200, from counted instructions and guessed latencies.

python -m gpu.model
"""

from __future__ import annotations

from math import ceil, log2

from rho_ext import _C

PROCESSORS, SCHEDULERS, HERTZ = 132, 4, 1.90e9
BYTES_PER_SECOND = 4.4e12  # a guess, as all that follows but the instructions; a copy takes 4.3
LAUNCH_US, TICKET_US, SYNC_US = 2.2, 1.0, 2.0
# Cycles of a load from memory and from L2, of a barrier, of a shuffle and of a load from shared
# memory, each with what depends on it.
DRAM, L2, BARRIER, SHUFFLE, SHARED = 800, 330, 45, 50, 170

# Instructions of a warp: four packs a lane, by bytes of a logit; a row; the inputs and results of
# a lane's rows, of which it has one of each; the last pack of a row that is not whole.
PACKS, ROW, INPUTS, LAST_PACK = {2: 236, 4: 117}, 100, 205, 110
# More for rows that are not aligned, on average over the rows of an odd number of classes.
UNALIGNED = {2: 45, 4: 16}
# A slice of a row in each of the warps of its block.
SLICE = 255
# Of 8 keys a lane: counting a digit, collecting the winners.
COUNT, COLLECT = 136, 226
# Of a step of the sort, by keys that a thread holds: between its own keys, lanes and warps.
SORT = {1: (0, 13, 16), 8: (44, 56, 60)}

# Rows, classes and bytes of a logit.
SIZES = (
    (16384, 128256, 2),
    (8192, 32000, 2),
    (8192, 32000, 4),
    (8192, 50257, 2),
    (8192, 50256, 2),
    (8192, 50257, 4),
    (320, 50257, 2),
    (16384, 5000, 2),
    (16384, 4096, 2),
    (65536, 1000, 2),
    (65536, 1000, 4),
    (65536, 1001, 2),
    (4096, 1000, 2),
    (320, 1000, 2),
    (1 << 20, 100, 2),
    (65536, 10, 4),
    (320, 10, 4),
)


def us(cycles: float) -> float:
    return cycles / HERTZ * 1e6


def rows_us(n: int, classes: int, size: int) -> float:
    """Return the microseconds of scoring all rows."""
    plan = _C.launch_plan(n, classes, size, n // 10, PROCESSORS)
    warps = plan["blocks"] * plan["threads"] // 32
    packs, lanes = ceil(classes * size / 16), plan["lanes"]
    loop = PACKS[size] + (UNALIGNED[size] if classes % 2 else 0)
    end = LAST_PACK if classes * size % 16 else 0
    if plan["regime"] == "lane_groups":
        loops, groups = ceil(packs / (4 * lanes)), warps * 32 // lanes
        group_rows = min(lanes, ceil(n / groups))
        # A loop that no lane can fill tests each of its loads.
        one = loops * (loop + 25 * (loops == 1)) + ROW + end
        slots = ceil(n * lanes / 32) * (one + INPUTS / group_rows)
        waits = ceil(n / groups) * (loops * DRAM + 300 + (1.2 * DRAM + 300) / group_rows)
    else:
        loops = ceil(packs / plan["slices"] / (4 * plan["threads"]))
        tiles = n * plan["slices"]
        slots = tiles * plan["threads"] / 32 * (loops * loop + SLICE)
        waits = ceil(tiles / plan["blocks"]) * (loops * DRAM + 0.6 * DRAM + 900)
    memory = n * (classes * size + 28) / BYTES_PER_SECOND * 1e6
    parts = sorted([memory, us(slots / (PROCESSORS * SCHEDULERS)), us(waits)])
    return parts[2] + 0.25 * parts[1]  # they overlap, but not wholly


def sort_us(tile: int, threads: int) -> float:
    held = 1 if tile <= threads else 8
    warps = ceil(tile / held / 32 / SCHEDULERS)
    own, lanes, others = SORT[held]
    cycles = 0
    for size in range(1, int(log2(tile)) + 1):
        inside = min(size, int(log2(held)))
        near = min(size - inside, 5)
        cycles += inside * warps * own + near * max(SHUFFLE, warps * lanes)
        cycles += (size - inside - near) * max(SHARED, warps * others)
    return us(cycles)


def top_k_us(n: int, classes: int, size: int, k: int) -> float:
    """Return the microseconds of the top-k stage."""
    plan = _C.launch_plan(n, classes, size, k, PROCESSORS)
    blocks = plan["blocks"] if plan["top_k_stage"] == "grid" else 1
    threads, keys = plan["threads"], n / blocks
    tile = min(4096, 8 * threads, 1 << (k - 1).bit_length())
    merges = ceil(log2(max(1, k / tile)) / 2)
    while merges and tile * 4**merges // 2 >= k:
        tile //= 2
    loads = ceil(keys / (8 * threads)) * (L2 + 150)
    passes = 3 * (700 + loads + keys / 256 / SCHEDULERS * COUNT)
    collect = loads + keys / 256 / SCHEDULERS * COLLECT
    total = us(passes + collect) + sort_us(tile, threads)
    if blocks == 1:
        return TICKET_US + total
    searched = sum(log2(tile) + 2 * merge + 1 for merge in range(merges))
    exchange = 3 * 1.5 + 1.5  # the histograms of all blocks, and the places of the winners
    return (5 + merges) * SYNC_US + exchange + total + us(1.3 * L2 * searched)


def select_us(n: int, classes: int, size: int, k: int) -> float:
    return LAUNCH_US + rows_us(n, classes, size) + top_k_us(n, classes, size, k)


if __name__ == "__main__":
    print(f"{'n':>8} {'classes':>8} bytes {'rows':>8} {'top k':>6} {'select':>8}  us")
    for n, classes, size in SIZES:
        parts = rows_us(n, classes, size), top_k_us(n, classes, size, n // 10)
        total = LAUNCH_US + sum(parts)
        print(f"{n:>8} {classes:>8} {size:>5} {parts[0]:>8.1f} {parts[1]:>6.1f} {total:>8.1f}")
