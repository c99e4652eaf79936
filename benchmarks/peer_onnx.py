"""The sampler as an ONNX graph, all steps unrolled, run by ONNX Runtime with bound tensors."""

import logging
import tempfile
import warnings
from pathlib import Path


def export(module, obs, x_T, path) -> None:
    """Writes a `peer_torch.Sampler` for these shapes.

    Everything that depends on t alone is then folded into constants.
    """
    import torch

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # of operators of absent packages
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            (obs, x_T),
            str(path),
            input_names=["obs", "x_T"],
            output_names=["act"],
            dynamo=True,
            verbose=False,
            external_data=False,
        )


def session(path, feed: dict, threads: int):
    """(a call that samples, the actions as an array) of a written sampler.

    Inputs and output are bound to memory once, so that a call hands over nothing.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Its threads stop with the call; otherwise they take the cores from whoever is timed next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    made = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    kept = {k: onnxruntime.OrtValue.ortvalue_from_numpy(v) for k, v in feed.items()}
    out = onnxruntime.OrtValue.ortvalue_from_shape_and_type(feed["x_T"].shape, feed["x_T"].dtype)
    binding = made.io_binding()
    for name, value in kept.items():
        binding.bind_ortvalue_input(name, value)
    binding.bind_ortvalue_output("act", out)

    def run():
        made.run_with_iobinding(binding)

    run()
    return run, out.numpy().copy()


def sampler(module, obs, x_T, threads: int):
    """`export` and `session` in one."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sampler.onnx"
        export(module, obs, x_T, path)
        return session(path, {"obs": obs.numpy(), "x_T": x_T.numpy()}, threads)
