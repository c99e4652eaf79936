"""A peer in a process of its own: one that crashes or takes the threads doesn't end the others.

    python benchmarks/worker.py KIND        (started by `remote.Remote`)

A line of JSON in, a line of JSON out: {"load": {...}} builds the work, {"time": n} runs it n times
and gives the seconds. An answer with "absent" says why this peer can't do it. Peers that read a
graph from a file ("onnx", "openvino") are loaded without torch.
"""

import json
import os
import sys
import time
import traceback


def graph(kind: str, load: dict):
    """An exported sampler: {"path", "feed" (npz file), "threads", "precision"} -> call, result."""
    import numpy as np

    with np.load(load["feed"]) as file:
        feed = {name: np.ascontiguousarray(file[name]) for name in file}
    if kind == "onnx":
        import peer_onnx

        return peer_onnx.session(load["path"], feed, load["threads"])
    import peer_openvino

    threads = load["threads"] if load["set_threads"] else None
    return peer_openvino.session(load["path"], feed, threads, load["precision"])


def problem(kind: str, load: dict):
    """A contender of one of the benchmarks, which asserts that it agrees with ours."""
    import torch

    torch.set_num_threads(load["threads"])
    if load["work"] == "update":
        import bench_update

        data = bench_update.random_data()
        return bench_update.contenders([kind], data, load["net"], load["batch"])[kind]
    import bench_denoise

    with torch.no_grad():
        return bench_denoise.contenders(
            [kind], load["net"], load["agents"], load["batch"], load["threads"]
        )[kind]


def answer(kind: str, request: dict, state: dict, clock) -> dict:
    if "time" in request:
        run = state["run"]
        begin = clock()
        for _ in range(request["time"]):
            run()
        return {"seconds": clock() - begin}
    load = request["load"]
    state.clear()
    if load["work"] != "graph":
        made = problem(kind, load)
        if isinstance(made, str):
            return {"absent": made}
        state["run"] = made
        return {}
    import numpy as np

    state["run"], result = graph(kind, load)
    np.save(load["result"], result)
    return {}


def main() -> None:
    kind = sys.argv[1]
    # What libraries print goes to the other end's log, not between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    clock = {"cpu": time.process_time, "wall": time.perf_counter}[sys.argv[2]]
    state: dict = {}
    for line in sys.stdin:
        try:
            reply = answer(kind, json.loads(line), state, clock)
        except ModuleNotFoundError as error:
            install = "pip install -e '.[peers]'"
            reply = {"absent": f"{error.name} is not installed: {install}"}
        except Exception as error:
            traceback.print_exc()
            told = " ".join(str(error).split())  # the last words of a chain say what failed
            reply = {"absent": f"{type(error).__name__}: {told[-160:]}"}
        answers.write(json.dumps(reply) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
