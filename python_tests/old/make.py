"""Made the files beside it, with dom2_fast at commit e039787, the last one before the layout moved:

    PYTHONPATH=<checkout of e039787>:python_tests python python_tests/old/make.py python_tests/old

Two runs' checkpoints, a policy file of version 1, and what they act on given noise. Kept as they
are: they show that what users have on disk still loads. Don't run it with newer code.
"""

import gzip
import json
import sys
from pathlib import Path

import torch
from small_data import dataset

import dom2_fast as d2

SMALL = {"weights": "uniform", "batch_size": 64, "hidden": 8, "depth": 1, "steps": 2}
out = Path(sys.argv[1])
data = dataset(trajectories=6, meta={"task": "simple_spread", "quality": "medium"})
g = torch.Generator().manual_seed(0)
obs, x_T = torch.rand(2, 4, 3, generator=g), torch.randn(2, 4, 2, generator=g)
acts = {"obs": obs.tolist(), "x_T": x_T.tolist()}
for name, cls, config in (
    (
        "dom2",
        d2.DOM2,
        d2.DOM2Config(**SMALL, critic_hidden=8, critic_depth=1, q_warmup=100, eta=0.01),
    ),
    ("bc", d2.BC, d2.BCConfig(**SMALL)),
):
    agents = cls(config, data)
    agents.fit(300)
    agents.save(out / f"{name}.pt")
    with torch.no_grad():
        acts[name] = agents.policies.policy.sample(obs, x_T=x_T).tolist()
    acts[f"{name}_next"] = {k: float(v) for k, v in agents.fit(2).items()}  # going on after loading
agents = d2.BC.load(out / "bc.pt")
agents.policies.policy.export(out / "bc.safetensors")
for name in ("dom2", "bc"):
    (out / f"{name}.pt.gz").write_bytes(gzip.compress((out / f"{name}.pt").read_bytes(), mtime=0))
    (out / f"{name}.pt").unlink()
(out / "acts.json").write_text(json.dumps(acts, indent=1) + "\n")
