"""The sampler as an ONNX graph, all steps unrolled, run by ONNX Runtime."""

import tempfile
import warnings
from pathlib import Path

import onnxruntime
import torch


def sampler(module: torch.nn.Module, obs: torch.Tensor, x_T: torch.Tensor, threads: int):
    """(a call that samples, the actions as an array) of a `peer_torch.Sampler`.

    Exported for these shapes: everything that depends on t alone is then folded into constants.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Its threads stop with the call; otherwise they take the cores from whoever is timed next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = str(Path(folder) / "sampler.onnx")
        torch.onnx.export(
            module.eval(),
            (obs, x_T),
            path,
            input_names=["obs", "x_T"],
            output_names=["act"],
            dynamo=True,
            verbose=False,
        )
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {"obs": obs.numpy(), "x_T": x_T.numpy()}
    return lambda: session.run(None, feed), session.run(None, feed)[0]
