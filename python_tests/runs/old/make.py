"""Made the run beside it, with dom2_fast at commit e039787, the last one before the layout moved:

    cd python_tests && PYTHONPATH=<checkout of e039787>:. python runs/old/make.py runs/old

It is kept as it is, and shows that a user's run from before can be resumed, evaluated and reported.
Don't run it with newer code.
"""

import gzip
import sys
from pathlib import Path

from small_data import dataset

from dom2_fast import train
from dom2_fast.algos.bc import BCConfig

out = Path(sys.argv[1])
meta = {"task": "simple_spread", "quality": "medium"}
dataset(trajectories=8, obs_dims=(18,) * 3, meta=meta).write("data")
config = BCConfig(weights="uniform", batch_size=4, hidden=4, depth=1, steps=2, seed=5)
often = {"progress": False, "tensorboard": False, "log_every": 2, "save_every": 3}
train.train(config, "data", "run", 4, eval_every=2, eval_episodes=3, **often)
for name in ("config.yaml", "metrics.jsonl"):
    (out / name).write_bytes((Path("run") / name).read_bytes())
(out / "checkpoint.pt.gz").write_bytes(
    gzip.compress(Path("run/checkpoint.pt").read_bytes(), mtime=0)
)
