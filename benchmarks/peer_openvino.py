"""The sampler as an ONNX graph, run by OpenVINO on tensors bound once.

Only for a process of its own (worker.py): with other libraries loaded before it, or asked for one
thread, it has been seen to end the process in `compile_model`. Imports neither torch nor ours.
"""

import time

import openvino as ov


def session(path, feed: dict, threads: int | None, precision: str):
    """(a call that samples, the actions as an array). precision: "f32" or "bf16", for its hint.

    threads: None leaves the number to OpenVINO, which takes the cores that the process may use.
    Compiled with its own code generator for elementwise operations ("snippets") and without; the
    faster one is taken. 2026.4 has none for a Mish of one row: compiling fails then.
    """
    core = ov.Core()
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_PRECISION_HINT": precision,
    }
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = str(threads)
    found, failure = [], None
    for more in ({}, {"SNIPPETS_MODE": "DISABLE"}):
        try:
            run, request = bound(core, path, feed, options | more)
        except RuntimeError as error:
            failure = error
            continue
        found.append((min(seconds(run) for _ in range(5)), len(found), run, request))
    if not found:
        raise failure
    _, _, run, request = min(found)
    return run, request.get_output_tensor(0).data.copy()


def bound(core, path, feed: dict, options: dict):
    """(a call that samples, its request), after a first call."""
    model = core.compile_model(core.read_model(str(path)), "CPU", options)
    request = model.create_infer_request()
    kept = {name: ov.Tensor(value, shared_memory=True) for name, value in feed.items()}
    for name, tensor in kept.items():
        request.set_tensor(name, tensor)
    request.infer()

    def run(infer=request.infer, kept=(model, kept)):
        infer()

    return run, request


def seconds(run, calls: int = 3) -> float:
    begin = time.perf_counter()
    for _ in range(calls):
        run()
    return time.perf_counter() - begin
