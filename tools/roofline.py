"""What a card can do at best for the CUDA executors: bytes, operations and microseconds, computed.

    python tools/roofline.py [--sms 132 --clock 1.755 ...]

Nothing here is measured. Per multiprocessor and clock a card moves so many bytes from shared memory
and from L2, and does so many multiply-adds; the kernels' tiles say how many of each a launch needs
(csrc/cuda/gemm.h, run.cpp). "bound" is the busiest of the four resources, as if all overlapped
perfectly; "sum" adds them up, as if nothing did. A kernel should end up between the two, plus the
launch. docs/cuda.md explains the table.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import torch

from dom2_fast import lowering, networks
from dom2_fast.ops.program import Act, Op

# (features, depth, bytes of a weight) of a packet's tile: csrc/cuda/exec.h
PACKING = {"bf16": (16, 16, 2), "fp32": (32, 4, 4)}
# Instructions of one activation with its division and exponential, read off the SASS, roughly.
ACTIVATION = 40
WARPS, HELD = 8, (256, 256)


@dataclass
class Card:
    sms: int  # multiprocessors
    clock: float  # GHz
    shared: float  # bytes per clock and multiprocessor
    l2: float  # the same, from L2, when all read at once
    tensor: float  # bf16 multiply-adds per clock and multiprocessor, mma.sync
    fma: float  # float32 multiply-adds, the same
    launch: float  # microseconds of an empty launch


def padded(n: int, unit: int) -> int:
    return -(-n // unit) * unit


def tile_clocks(program, precision: str, rows: int, resident: bool, card: Card, once: bool) -> dict:
    """Clocks that one block needs of each resource for its tile, in one pass of one phase."""
    features, depth, size = PACKING[precision]
    clocks = dict.fromkeys(("l2", "shared", "multiply", "other"), 0.0)
    linears = [i for i in program.instrs if i.op is Op.LINEAR]
    held = max(
        (i for i in linears if not i.once and i.out.width <= HELD[0] and i.a.width <= HELD[1]),
        key=lambda i: i.out.width * i.a.width,
        default=None,
    )
    for i in program.instrs:
        if i.once != once:
            continue
        elements = rows * i.out.width
        if i.op is not Op.LINEAR:
            clocks["shared"] += elements * 12 / card.shared
            clocks["other"] += elements * (ACTIVATION if i.op is Op.LAYER_NORM else 4) / card.fma
            continue
        n, k = padded(i.out.width, features), padded(i.a.width, depth)
        weights = n * k * size
        if resident and precision == "bf16" and i is held:
            pass  # in registers
        elif resident and not once:
            clocks["shared"] += weights / card.shared
        else:  # through L2 into the ring and out of it
            clocks["l2"] += weights / card.l2
            clocks["shared"] += 2 * weights / card.shared
        if precision == "bf16":  # each warp with a tile reads all rows
            readers = min(WARPS, n // features) * -(-n // features // (2 * WARPS))
            clocks["shared"] += readers * rows * k * 4 / card.shared
            clocks["multiply"] += rows * n * k / card.tensor
        else:  # one 16-byte broadcast serves four multiply-adds of 32 lanes
            clocks["shared"] += n / features * rows * k / 4
            clocks["multiply"] += rows * n * k / card.fma
        clocks["shared"] += elements * 8 / card.shared
        clocks["other"] += elements * (ACTIVATION if i.act is not Act.NONE else 4) / card.fma
    return clocks


def launch_row(program, precision, rows, resident, batch, groups, steps, card) -> tuple:
    """(waves, clocks of each resource in one block's life) of a forward launch."""
    tiles = -(-batch // rows) * groups
    waves = -(-tiles // card.sms)
    total = dict.fromkeys(("l2", "shared", "multiply", "other"), 0.0)
    for once, passes in ((True, 1), (False, steps)):
        for name, c in tile_clocks(program, precision, rows, resident, card, once).items():
            total[name] += waves * passes * c
    if resident:  # loaded once per block
        _, _, size = PACKING[precision]
        total["l2"] += sum(n * k for n, k in program.weights) * size / card.l2
    return waves, total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, default, text in (
        ("sms", 132, "multiprocessors (H100 SXM)"),
        ("clock", 1.755, "GHz, sustained"),
        ("shared", 128, "bytes per clock of shared memory, per multiprocessor"),
        ("l2", 40, "bytes per clock from L2, per multiprocessor with all of them reading"),
        ("tensor", 1024, "bf16 multiply-adds per clock with mma.sync"),
        ("fma", 128, "float32 lanes"),
        ("launch", 3, "microseconds of a launch"),
    ):
        parser.add_argument(f"--{name}", type=float, default=default, help=text)
    card = Card(**vars(parser.parse_args()))
    torch.manual_seed(0)
    nets = {
        "MLP 256": networks.MLPNoiseNet(18, 2, hidden=256),
        "U-Net": networks.UNetNoiseNet(18, 2),
    }
    print(
        "| network | precision | rows x steps | rows per tile | weights | GFLOP | L2 | shared |"
        " multiply | other | bound us | sum us |"
    )
    print("| --- " * 12 + "|")
    for name, net in nets.items():
        program = lowering.lower(net, "table", x_dim=2, obs_dim=18).program
        for precision in ("bf16", "fp32"):
            for batch, rows in ((1, 8), (256, 8), (1024, 8), (4096, 32)):
                resident = name.startswith("MLP") and precision == "bf16"
                rows = min(rows, 16) if resident else rows
                _, total = launch_row(program, precision, rows, resident, batch, 1, 5, card)
                us = {k: v / card.clock / 1000 for k, v in total.items()}
                gflop = program.flops * batch * 5 / 1e9
                print(
                    f"| {name} | {precision} | {batch} x 5 | {rows} | "
                    f"{'on chip' if resident else 'L2'} | {gflop:.3g} | "
                    + " | ".join(f"{us[k]:.1f}" for k in us)
                    + f" | {max(us.values()) + card.launch:.0f} | "
                    f"{sum(us.values()) + card.launch:.0f} |"
                )


if __name__ == "__main__":
    main()
