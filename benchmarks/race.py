"""Times several ways of doing one thing in turns, so that a drift of the machine hits all alike.

A round is one stretch of calls of every contender, in rotating order. The figures of each go to
pytest-benchmark as those of its own test; the ratio to `native` is taken round by round.
"""

import contextlib
import gc
import itertools
import os
import statistics
import time

import pytest

STRETCH = 0.01  # seconds of calls in one go: long beside the timer, short beside the drift
ROUNDS = (7, 60)
OURS = "native"

_results: dict = {}


def calls_per_stretch(run) -> int:
    """Warms up, and gives how many calls fill a stretch."""
    run()
    begin, calls = time.perf_counter(), 0
    while calls < 1 or (calls < 200 and time.perf_counter() - begin < 0.1):
        run()
        calls += 1
    each = (time.perf_counter() - begin) / calls
    return max(1, round(STRETCH / each))


def measure(contenders: dict, seconds: float, pause: float) -> dict[str, list[float]]:
    """Seconds of one call, a figure per round, for every contender.

    seconds: of timed calls per contender; at least ROUNDS[0] rounds are run.
    pause: between two contenders, until the threads of the first have stopped spinning.
    """
    calls = {kind: calls_per_stretch(run) for kind, run in contenders.items()}
    times: dict[str, list[float]] = {kind: [] for kind in contenders}
    order = list(contenders)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for turn in itertools.count():
            if turn >= ROUNDS[0] and (
                turn >= ROUNDS[1] or sum(map(sum_of(times, calls), order)) > seconds * len(order)
            ):
                return times
            for kind in order[turn % len(order) :] + order[: turn % len(order)]:
                run, n = contenders[kind], calls[kind]
                time.sleep(pause)
                if n > 1:
                    run()  # fetches the contender's own weights and code into the caches
                begin = time.perf_counter()
                for _ in range(n):
                    run()
                times[kind].append((time.perf_counter() - begin) / n)
            gc.collect()
    finally:
        if collecting:
            gc.enable()


def sum_of(times: dict, calls: dict):
    return lambda kind: sum(times[kind]) * calls[kind]


def ratios(times: dict[str, list[float]]) -> dict[str, list[float]]:
    """Quartiles over the rounds of (time of a peer / ours in the same round)."""
    if OURS not in times:
        return {}
    found = {}
    for kind, theirs in times.items():
        each = [a / b for a, b in zip(theirs, times[OURS], strict=True)]
        found[kind] = [round(q, 4) for q in statistics.quantiles(each, n=4, method="inclusive")]
    return found


class Race:
    """What a benchmark with a parameter `kind` calls: `race(group, make)`.

    make(kinds) builds the contenders of the kinds given, asserts that they agree, and returns
    kind -> callable, or -> text: why this one can't run here (its test is skipped with that).
    """

    def __init__(self, request, benchmark, threads: int):
        self.request, self.benchmark, self.threads = request, benchmark, threads

    def _problem(self, item) -> tuple:
        params = getattr(item, "callspec", None) and item.callspec.params
        rest = sorted((k, v) for k, v in (params or {}).items() if k != "kind")
        return item.path, item.originalname, tuple(rest)

    def __call__(self, group: str, make, scale: dict[str, float] | None = None) -> None:
        """scale: kind -> factor on its times, where only a part of the work is run."""
        node = self.request.node
        mine = self._problem(node)
        if mine not in _results:
            same = [i for i in self.request.session.items if self._problem(i) == mine]
            try:
                _results[mine] = self._run([i.callspec.params["kind"] for i in same], make)
            except Exception as error:
                _results[mine] = error
        found = _results[mine]
        if isinstance(found, Exception):
            raise found
        kind = node.callspec.params["kind"]
        if isinstance(found[kind], str):
            pytest.skip(found[kind])
        self._publish(group, kind, found, (scale or {}))

    def _run(self, kinds: list[str], make) -> dict:
        made = make(kinds)
        contenders = {k: run for k, run in made.items() if not isinstance(run, str)}
        if self.benchmark.enabled and contenders:
            pause = 0.005 if self.threads > 1 else 0.0
            times = measure(contenders, self.benchmark._max_time, pause)
        else:
            for run in contenders.values():
                run()
            times = {kind: [0.0] for kind in contenders}
        return made | times

    def _publish(self, group: str, kind: str, found: dict, scale: dict[str, float]) -> None:
        b = self.benchmark
        b.group = group
        if not b.enabled:
            b.pedantic(lambda: None)
            return
        times = {
            k: [t * scale.get(k, 1.0) for t in v] for k, v in found.items() if isinstance(v, list)
        }
        b.extra_info["ratio"] = ratios(times).get(kind)
        if kind in scale:
            b.extra_info["scaled"] = scale[kind]
        # pytest-benchmark has no public way to be given times; this is what its own runner does.
        stats = b._make_stats(iterations=1)
        for t in times[kind]:
            stats.update(t)


def pin(cpus: int) -> list[int]:
    """Keeps this process, with all its threads, on so many cores; gives those it had."""
    if not hasattr(os, "sched_setaffinity"):
        return []
    before = sorted(os.sched_getaffinity(0))
    unpin(before[:cpus])
    return before


def unpin(cpus: list[int]) -> None:
    """Lets all threads of this process run on the cores given."""
    if not cpus:
        return
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):  # one that has ended meanwhile
            os.sched_setaffinity(int(thread), cpus)
