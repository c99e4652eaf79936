"""The headline table, in three minutes on two cores: `python benchmarks/run.py --quick`.

A row per kind of work, printed as soon as it is there; Ctrl-C prints what there is. All contenders
of a row are timed in turns, each with equal results asserted before; peers in processes of their
own (worker.py), so that one which crashes, hangs or isn't installed is left out, with the reason.
`--clock cpu` counts the processors' time: for machines that others use, too. `--save NAME` keeps
the rows as benchmarks/results/NAME.json, in the form that table.py keeps (quick_save.py).
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time

from quick_save import facts, keep, versions
from quick_table import COLUMNS, OURS, Result, lines
from remote import Absent

STRETCH = 0.01  # seconds of calls in one go
ROUNDS = (5, 40)
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
TWO_THREADS = (64, 256, 1024)
COMPILED = ("compile", "aoti")


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="run.py --quick", description="The headline table, one thread."
    )
    parser.add_argument("--budget", type=float, default=170.0, help="seconds for all of it")
    parser.add_argument("--rows", default="", help="only rows whose name matches this pattern")
    parser.add_argument("--peers", help="only these, as in eager,jax; nothing for none")
    parser.add_argument("--seconds", type=float, default=0.2, help="timed per contender and row")
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall")
    parser.add_argument("--no-threads", action="store_true", help="leave out two threads")
    parser.add_argument("--save", metavar="NAME", help="keep as benchmarks/results/NAME.json")
    args = parser.parse_args(argv)
    if args.save is not None and not re.fullmatch(r"[\w.-]*\w", args.save):
        parser.error(f"--save {args.save!r} is no name: letters, digits, '.', '_' and '-'")
    args.peers = None if args.peers is None else set(filter(None, args.peers.split(",")))
    try:
        re.compile(args.rows)
    except re.error as error:
        parser.error(f"--rows {args.rows!r} is no pattern: {error}")
    return args


def race(contenders: dict, absent: dict, seconds: float, left=lambda: 1e9) -> dict:
    """Seconds of one call, a figure per round. A contender that ends moves to `absent`.

    contenders: kind -> seconds of n calls. seconds: of timed calls per contender.
    """
    counts, times = {}, {kind: [] for kind in contenders}

    def attempt(kind, n):
        try:
            return contenders[kind](n)
        except Absent as reason:
            absent[kind] = str(reason)
            times.pop(kind)
            return None

    for kind in list(contenders):
        attempt(kind, 1)
        if kind in times and (each := attempt(kind, 1)) is not None:
            counts[kind] = max(1, round(STRETCH / max(each, 1e-7)))
    spent, turn = 0.0, 0
    while turn < ROUNDS[0] or (turn < ROUNDS[1] and spent < seconds * len(times)):
        if turn and left() <= 0:
            break
        order = list(times)
        for kind in order[turn % len(order) :] + order[: turn % len(order)]:
            if counts[kind] > 1:
                attempt(kind, 1)  # fetches its own weights and code into the caches
            if kind in times and (took := attempt(kind, counts[kind])) is not None:
                times[kind].append(took / counts[kind])
                spent += took
        turn += 1
    return times


class Quick:
    """The run: what is left of its budget, and the results so far."""

    def __init__(self, args):
        self.args, self.begin = args, time.monotonic()
        self.results: list[Result] = []
        self.peaks: dict[bool, float] = {}
        self.notes: list[str] = []
        self.failed = False
        self.clock = CLOCKS[args.clock]

    def left(self) -> float:
        return self.args.budget - (time.monotonic() - self.begin)

    def say(self, text: str) -> None:
        took = time.monotonic() - self.begin
        print(f"[{took:4.0f} s] {text}", file=sys.stderr, flush=True)

    def wanted(self, kind: str) -> bool:
        return self.args.peers is None or kind in self.args.peers

    def measure_peaks(self) -> None:
        from floor import NoCompiler, Peak

        from dom2_fast.ops import backend

        isa = backend.isa_active()
        for bf16 in (False, True) if isa == "avx512_bf16" else (False,):
            try:
                rate = Peak(isa, bf16).rate(clock=self.clock)
            except NoCompiler as reason:
                self.notes.append(f"left out: share of the FMA peak: {reason}")
                return
            self.peaks[bf16] = max(rate, self.peaks.get(bf16, 0.0))

    def run(self) -> None:
        self.say("importing")
        import torch
        from quick_work import WORKS, Peers, contenders
        from race import pin, unpin

        from dom2_fast.ops import backend

        torch.set_num_threads(1)
        cores = pin(1)
        peers = Peers(1, self.args.clock)
        self.notes.append(about(backend.isa_active(), self.args.clock))
        works = [w for w in WORKS if re.search(self.args.rows, w.name)]
        if backend.isa_active() != "avx512_bf16":
            skipped = [w.name for w in works if w.bf16]
            works = [w for w in works if not w.bf16]
            if skipped:
                self.notes.append(f"left out: {'; '.join(skipped)}: no AVX512-BF16 in use")
        try:
            self.measure_peaks()
            for number, work in enumerate(works, 1):
                if self.left() <= 0:
                    names = "; ".join(w.name for w in works[number - 1 :])
                    self.notes.append(f"not reached in {self.args.budget:g} s: {names}")
                    break
                self.say(f"{number}/{len(works)} {work.name}")
                try:
                    with torch.no_grad():
                        made = contenders(work, peers, self.wanted, self.clock, self.left)
                        self.row(work, *made)
                except Exception as error:  # ours, or PyTorch's loop: the other rows go on
                    self.failed = True
                    told = " ".join(str(error).split())[:200]
                    self.notes.append(f"failed: {work.name}: {type(error).__name__}: {told}")
            unpin(cores)
            if not self.args.no_threads:
                self.two_threads(cores)
            pin(1)
            for kind in COMPILED:
                for work in works:
                    if work.later and self.wanted(kind):
                        self.compiled(kind, work, peers)
            self.measure_peaks()
        finally:
            unpin(cores)
            peers.close()

    def row(self, work, found: dict, absent: dict, operations: float) -> None:
        result = Result(work.name, absent=absent, operations=operations, bf16=work.bf16)
        result.seconds = race(found, absent, self.args.seconds, self.left)
        self.results.append(result)

    def compiled(self, kind: str, work, peers) -> None:
        """A compiled peer, timed beside ours once more: it takes long to get ready."""
        import torch
        from quick_work import calls, policy_and_inputs

        result = next((r for r in self.results if r.name == work.name), None)
        if result is None:
            return
        if self.left() < 20:
            result.absent[kind] = "no time left for compiling"
            return
        self.say(f"{COLUMNS[kind]}, {work.name}")
        policy, obs, x_T = policy_and_inputs(work.net, work.agents, work.batch)
        try:
            with torch.no_grad():
                peer = peers.problem(kind, work, self.left())
                ours = calls(lambda: policy.sample(obs, x_T), self.clock)
                times = race({OURS: ours, kind: peer.time}, result.absent, 0.1)
        except Absent as reason:
            result.absent[kind] = str(reason)
            return
        if kind in times:
            result.seconds[kind] = times[kind]
            pairs = zip(times[OURS], times[kind], strict=False)
            result.later[kind] = [b / a for a, b in pairs]

    def two_threads(self, cores: list[int]) -> None:
        """Ours alone, one thread and two in turns."""
        import statistics

        import torch
        from quick_work import calls, policy_and_inputs

        if len(cores) < 2:
            self.notes.append("left out: two threads: one core")
            return
        found = []
        for rows in TWO_THREADS:
            if self.left() <= 0:
                break
            self.say(f"two threads, {rows} rows")
            policy, obs, x_T = policy_and_inputs("mlp", 1, rows)
            run = calls(lambda p=policy, o=obs, x=x_T: p.sample(o, x), time.perf_counter)

            def with_threads(count, run=run):
                def timed(n):
                    torch.set_num_threads(count)
                    return run(n)

                return timed

            with torch.no_grad():
                times = race({"one": with_threads(1), "two": with_threads(2)}, {}, 0.3)
            torch.set_num_threads(1)
            ratios = [a / b for a, b in zip(times["one"], times["two"], strict=True)]
            found.append(f"{rows} rows {statistics.median(ratios):.2f}")
        if found:
            self.notes.append(f"one thread over two (wall clock): {', '.join(found)}")

    def print(self) -> None:
        print("\n".join([*lines(self.results, self.peaks), "", *self.summary()]), flush=True)

    def summary(self) -> list[str]:
        out = [
            f"FMA peak{' in bf16' if bf16 else ''}: {rate / 1e9:.0f} GFLOP/s"
            for bf16, rate in self.peaks.items()
        ]
        found = {r.name: r for r in self.results if r.seconds.get(OURS)}
        one, three = (found.get(f"sample, mlp, {n} x 1 row{'s' * (n > 1)}") for n in (1, 3))
        if one and three:
            import statistics

            ratio = statistics.median(three.seconds[OURS]) / statistics.median(one.seconds[OURS])
            out.append(f"three agents, one row each, over one agent: {ratio:.2f}")
        return out + self.notes


def about(isa: str, clock: str) -> str:
    import platform

    found = (f"{name} {version or 'not installed'}" for name, version in versions().items())
    return f"{isa}, one thread, {clock} clock, Python {platform.python_version()}, " + ", ".join(
        found
    )


def environment() -> None:
    """What libraries read when they start, here and in the peers' processes."""
    for name, value in (
        ("OMP_NUM_THREADS", "1"), ("NPROC", "1"), ("JAX_PLATFORMS", "cpu"),
        ("TORCHINDUCTOR_COMPILE_THREADS", "1"),
    ):  # fmt: skip
        os.environ.setdefault(name, value)
    if os.environ.get("DOM2_FAST_ISA") == "avx2":  # peers as well; ONNX Runtime has no such switch
        os.environ.setdefault("ATEN_CPU_CAPABILITY", "avx2")
        os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")
        os.environ.setdefault("MKL_ENABLE_INSTRUCTIONS", "AVX2")
        os.environ.setdefault("XLA_FLAGS", "--xla_cpu_max_isa=AVX2")


def main(argv: list[str]) -> int:
    quick = Quick(parse(argv))
    environment()
    code = 0
    try:
        quick.run()
    except KeyboardInterrupt:
        quick.notes.append("interrupted: this is what there was")
        code = 130
    quick.print()
    if quick.args.save and any(r.seconds.get(OURS) for r in quick.results):
        from dom2_fast.ops import backend

        machine = facts(backend.isa_active(), quick.args.clock)
        print(f"kept: {keep(quick.args.save, machine, quick.results, quick.peaks, quick.notes)}")
    return code or int(quick.failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
