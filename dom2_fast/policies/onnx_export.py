"""A policy as an ONNX file, checked against our own numbers; the graph is made by `onnx_graph`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dom2_fast.errors import Dom2Error
from dom2_fast.files import atomic_write
from dom2_fast.ops import reference
from dom2_fast.policies import onnx_graph

OPSET = 18
# A run's error may be twice PyTorch's own in float32, or where that is tiny a few roundings.
FACTOR, FLOOR = 2.0, 16 * torch.finfo(torch.float32).eps
_ROWS = 64


@dataclass(frozen=True)
class Checked:
    """What ONNX Runtime made of a graph, on `rows` random observations.

    Attributes:
        error: relative error of its actions against our reference in float64.
        own: that of PyTorch in float32.
        version: ONNX Runtime's.
    """

    error: float
    own: float
    version: str
    rows: int = _ROWS


def export_onnx(
    policy,
    path: str | os.PathLike,
    opset: int = OPSET,
    notes: dict[str, str] | None = None,
) -> Checked | None:
    """Writes a policy as an ONNX graph: the whole sampler, with its noise as an input.

    Inputs and output are told in `policies.onnx_graph`; the batch is free. Numbers are float32. The
    graph is run by ONNX Runtime, where that is installed, before anything is written.

    Args:
        policy: a policy, a stack of them, a run's `policies` or a `FrozenPolicy`; of a stack,
            `frozen()[i]` is one agent's. Of several candidates the first is taken: the critic
            isn't exported.
        path: a new file, or one that this function wrote.
        opset: version of ONNX's operators, from 13. Mish is an operator from 18, and written
            as three before.
        notes: more of what the file says about itself, in its metadata.
    Returns: how it was checked; None where ONNX Runtime isn't installed.
    Raises:
        Dom2Error: onnx isn't installed; an opset out of range; a network that can't be lowered;
            another file is there; ONNX Runtime can't run the graph, or gives other numbers
            (then nothing is written).
    """
    onnx = _need_onnx()
    newest = onnx.defs.onnx_opset_version()
    known = not isinstance(opset, bool) and isinstance(opset, int)
    if not known or not onnx_graph.LEAST_OPSET <= opset <= newest:
        raise Dom2Error(
            f"opset is from {onnx_graph.LEAST_OPSET} to {newest} (what onnx {onnx.__version__} "
            f"has), got {opset!r}"
        )
    path = Path(path)
    _check_free(onnx, path)
    frozen = policy.frozen()
    frozen = getattr(frozen, "policy", frozen)  # without the critic of several candidates
    model = onnx_graph.model_of(frozen, opset, notes)
    onnx.checker.check_model(model, full_check=True)
    data = model.SerializeToString()
    checked = check(frozen, data)
    with atomic_write(path) as file:
        file.write(data)
    return checked


def check(policy, data: bytes, seed: int = 0) -> Checked | None:
    """Compares what ONNX Runtime makes of a model with a FrozenPolicy's own actions.

    The rule is that of the package's kernels: the error against float64 is at most twice that of
    PyTorch in float32. None where ONNX Runtime isn't installed.

    Raises:
        Dom2Error: it can't run the model, or the error is larger.
    """
    try:
        import onnxruntime
    except ImportError:
        return None
    feed = example(policy, _ROWS, seed)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {name: t.numpy() for name, t in feed.items()})
    except Exception as error:  # its exceptions have no common class
        first = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise Dom2Error(
            f"ONNX Runtime {onnxruntime.__version__} can't run the graph: {first}; try another "
            "opset, or a newer onnxruntime"
        ) from error
    exact, plain = (_by_reference(policy, feed, dtype) for dtype in (torch.float64, torch.float32))
    error, own = (_relative(t, exact) for t in (torch.from_numpy(np.array(found)), plain))
    limit = FACTOR * own + FLOOR
    if not error <= limit:
        raise Dom2Error(
            f"ONNX Runtime {onnxruntime.__version__} gives other actions than the policy: relative "
            f"error {error:.1e}, PyTorch's own is {own:.1e}; nothing was written"
        )
    return Checked(error, own, onnxruntime.__version__)


def example(policy, rows: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random inputs of a FrozenPolicy's graph by name: standard normal numbers, float32."""
    generator = torch.Generator().manual_seed(seed)
    agents = () if policy.groups is None else (policy.groups,)
    acts = (*agents, rows, *(policy.act_shape or (policy.act_dim,)))
    shapes = {"obs": (*agents, rows, policy.obs_dim)}
    if policy.steps:
        shapes["x_T"] = acts
    if policy._needs_noise:
        shapes["noise"] = (policy.steps, *acts)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def _by_reference(policy, feed: dict[str, torch.Tensor], dtype) -> torch.Tensor:
    """The policy's actions by `reference.denoise`, in the shape of the graph's output."""
    G, B, A, S = policy.num_agents, feed["obs"].size(-2), policy.act_dim, policy.steps
    x_T, noise = feed.get("x_T"), feed.get("noise")
    out = reference.denoise(
        None if x_T is None else x_T.reshape(G, B, A).to(dtype),
        feed["obs"].reshape(G, B, policy.obs_dim).to(dtype),
        [w.to("cpu", dtype) for w in policy._weights],
        policy._table.to("cpu", dtype),
        policy._program,
        policy._solver,
        None if noise is None else noise.reshape(S, G, B, A).to(dtype),
        batch=B,
        out_low=policy.act_low,
        out_high=policy.act_high,
    )
    return out.reshape(*feed["obs"].shape[:-1], *(policy.act_shape or (A,)))


def _relative(value: torch.Tensor, exact: torch.Tensor) -> float:
    size = exact.norm().item()
    return ((value.double() - exact.double()).norm().item()) / (size if size > 0 else 1.0)


def _need_onnx():
    try:
        import onnx
    except ImportError:
        raise Dom2Error("ONNX files are made with onnx: pip install 'dom2-fast[onnx]'") from None
    return onnx


def _check_free(onnx, path: Path) -> None:
    """A file that is there is one that was exported before."""
    if path.is_dir():
        raise Dom2Error(f"{path} is a folder, a file was to be written there: choose another name")
    if not path.exists() or path.stat().st_size == 0:
        return
    try:
        ours = onnx.load(path).producer_name == onnx_graph.PRODUCER
    except Exception:  # whatever protobuf says of a file that is none of its own
        ours = False
    if not ours:
        raise Dom2Error(
            f"{path} holds something else than a graph exported here; nothing was overwritten: "
            "choose another name, or move this file away"
        )
