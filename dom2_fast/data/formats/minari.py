"""Minari 0.5 (Farama): data sets by id, `minari:NAMESPACE/NAME-vN`, or the folder of one.

Several agents are `spaces.Dict` observations and actions with one `Box` per agent; each agent's own
rewards are in `infos["rewards"][agent]`, and where agents end apart their flags in
`infos["terminations"][agent]` and `infos["truncations"][agent]` ([T], or [T + 1] with the reset's
first). Without them all agents share the step's reward and flags. Plain `Box` spaces are one agent.
Minari itself reads and writes the files; what is written here its own loader opens.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np

from dom2_fast.data import checks
from dom2_fast.data.formats.base import Contents, folder, need
from dom2_fast.errors import Dom2Error
from dom2_fast.files import atomic_dir, refuse_used

name = "minari"
accepts = "minari:ID, such as minari:me/spread-v0, or the folder of a Minari data set"

PREFIX = "minari:"
OURS = "dom2_fast"  # our key in Minari's metadata.json: what Minari has no field for
_FIELDS = ("obs", "act", "reward", "next_obs", "done", "truncation")
_TOGETHER = 256  # episodes handed to Minari at once: bounds the memory


def sniff(source) -> bool:
    if isinstance(source, str) and source.startswith(PREFIX):
        return True
    return _data_folder(source) is not None


def open(source, agents: int | None = None) -> Contents:
    if isinstance(source, str) and source.startswith(PREFIX):
        path = _find(source[len(PREFIX) :])
    else:
        path = _data_folder(source)
        if path is None:
            raise Dom2Error(f"{source} is no Minari data set. Accepted is {accepts}")
    minari = need("minari", "minari")
    try:
        dataset = minari.MinariDataset(path)
        return _read(dataset, path, agents)
    except ImportError as error:  # Minari looks for h5py or pyarrow only when it opens a file
        raise Dom2Error(f"{error} (or 'dom2-fast[minari]')") from error
    except (ValueError, OSError, KeyError, AssertionError) as error:
        if isinstance(error, Dom2Error):
            raise
        raise Dom2Error(f"Minari can't read {path}: {error}") from error


def write(data, target) -> Path:
    minari = need("minari", "minari")
    dataset_id = str(target).removeprefix(PREFIX)
    namespace = _checked_id(dataset_id)
    path = _root() / dataset_id
    refuse_used(path)
    _refuse_gaps(data)
    from gymnasium import spaces
    from minari import namespace as namespaces
    from minari.dataset.minari_storage import MinariStorage

    names = _names_of(data)

    def space(tensors, bound):
        boxes = [spaces.Box(-bound, bound, (t.size(1),), t.numpy().dtype) for t in tensors]
        return spaces.Dict(dict(zip(names, boxes, strict=True)))

    with atomic_dir(path) as made:
        storage = MinariStorage.new(
            made / "data", space(data.obs, np.inf), space(data.act, 1.0), data_format="hdf5"
        )
        storage.update_metadata(
            {
                "dataset_id": dataset_id,
                "minari_version": minari.__version__,
                "description": f"Written by dom2-fast. Agents: {', '.join(names)}. Each agent's "
                "own rewards are in infos['rewards']; a step's reward is their mean.",
                OURS: {
                    "agents": names,
                    "meta": data.meta,
                    "truncation": data.truncation is not None,
                },
            }
        )
        for first in range(0, data.num_trajectories, _TOGETHER):
            last = min(first + _TOGETHER, data.num_trajectories)
            storage.update_episodes([_episode(data, names, j) for j in range(first, last)])
    if namespace is not None and namespace not in namespaces.list_local_namespaces():
        namespaces.create_namespace(namespace)
    return path


def _episode(data, names: list[str], j: int):
    from minari.data_collector import EpisodeBuffer

    rows = slice(int(data.starts[j]), int(data.starts[j + 1]))
    end = slice(rows.stop - 1, rows.stop)

    def each(arrays, lead=False):
        if lead:  # Minari's infos begin with those of the reset
            arrays = [np.concatenate([np.zeros(1, a.dtype), a]) for a in arrays]
        return dict(zip(names, arrays, strict=True))

    obs = [
        np.concatenate([o[rows].numpy(), after[end].numpy()])
        for o, after in zip(data.obs, data.next_obs, strict=True)
    ]
    flags = {"terminations": data.done}
    if data.truncation is not None:
        flags["truncations"] = data.truncation
    reward = [r[rows].numpy() for r in data.reward]
    infos = {"rewards": each(reward, lead=True)}
    shared = {}
    for flag, tensors in flags.items():
        own = np.stack([t[rows].numpy() != 0 for t in tensors])  # [G, T]
        shared[flag] = own.all(0)
        if (own != shared[flag]).any():
            infos[flag] = each(list(own), lead=True)
    truncated = shared.get("truncations", np.zeros(rows.stop - rows.start, bool))
    if not shared["terminations"][-1]:
        truncated[-1] = True  # in Minari every episode ends by one of the two
    return EpisodeBuffer(
        observations=each(obs),
        actions=each([a[rows].numpy() for a in data.act]),
        rewards=np.mean(reward, axis=0, dtype=np.float64),
        terminations=shared["terminations"],
        truncations=truncated,
        infos=infos,
    )


def _read(dataset, path: Path, agents: int | None) -> Contents:
    ours = dataset.storage.metadata.get(OURS, {})
    names = _agents(dataset, ours)
    total, episodes = dataset.total_steps, dataset.total_episodes
    if total == 0:
        raise Dom2Error(f"the Minari data set {dataset.id} is empty: it has no steps")
    used = names[: checks.positive_int(agents, "agents", len(names)) or len(names)]
    fields: dict[str, list] = {field: [None] * len(used) for field in _FIELDS}
    lengths = np.zeros(episodes, np.int64)
    row = 0
    for j, episode in enumerate(dataset):
        steps = len(episode.rewards)
        lengths[j] = steps
        for i, agent in enumerate(used):
            obs = _of(episode.observations, agent)
            values = {"obs": obs[:-1], "next_obs": obs[1:], "act": _of(episode.actions, agent)}
            values["reward"] = _own(episode, "rewards", agent)
            values["done"] = _own(episode, "terminations", agent).astype(np.float32)
            values["truncation"] = _own(episode, "truncations", agent).astype(np.float32)
            for field, value in values.items():
                if len(value) != steps:
                    raise Dom2Error(
                        f"episode {episode.id} of {dataset.id}: {field} of {agent or 'the agent'} "
                        f"has {len(value)} steps, its rewards have {steps}"
                    )
                if fields[field][i] is None:
                    fields[field][i] = np.empty((total, *value.shape[1:]), value.dtype)
                fields[field][i][row : row + steps] = value
        row += steps
    if not ours.get("truncation", True):
        del fields["truncation"]
    meta = dict(ours.get("meta", {})) or {"minari": dataset.id}
    if not ours and dataset.env_spec is not None:
        meta["task"] = dataset.env_spec.id
    if len(names) > 1 and "rewards" not in (episode.infos or {}):
        meta["reward"] = "one for all agents: the data set has no infos['rewards']"
    meta["agent_names"] = [agent or "agent_0" for agent in used]
    return Contents(fields, lengths, meta=meta, path=path)


def _agents(dataset, ours: dict) -> list[str | None]:
    """The agents' keys in their order; [None] for one agent without a key."""
    from gymnasium import spaces

    obs, act = dataset.observation_space, dataset.action_space
    for what, space in (("observations", obs), ("actions", act)):
        boxes = space.spaces if isinstance(space, spaces.Dict) else {"": space}
        bad = [b for b in boxes.values() if not isinstance(b, spaces.Box) or len(b.shape) != 1]
        if bad or not boxes:
            raise Dom2Error(
                f"the {what} of the Minari data set {dataset.id} are {space}; accepted are a flat "
                "Box, or a Dict with a flat Box per agent (continuous actions)"
            )
    keys = [list(s.spaces) if isinstance(s, spaces.Dict) else None for s in (obs, act)]
    if (keys[0] is None) != (keys[1] is None) or set(keys[0] or ()) != set(keys[1] or ()):
        raise Dom2Error(
            f"the Minari data set {dataset.id} has observations of {keys[0] or 'one agent'} and "
            f"actions of {keys[1] or 'one agent'}: accepted is one Box of each per agent"
        )
    if keys[0] is None:
        return [None]
    if set(ours.get("agents", ())) == set(keys[0]):
        return list(ours["agents"])
    # Minari sorts keys as texts, agent_10 before agent_2; numbers count as numbers here.
    return sorted(keys[0], key=lambda k: [int(p) if p.isdigit() else p for p in _NUMBER.split(k)])


_NUMBER = re.compile(r"(\d+)")


def _of(values, agent: str | None) -> np.ndarray:
    return np.asarray(values if agent is None else values[agent])


def _own(episode, kind: str, agent: str | None) -> np.ndarray:
    """[T] of an agent: its own from infos, else what all share."""
    shared = np.asarray(getattr(episode, kind))
    own = (episode.infos or {}).get(kind)
    if agent is None or not isinstance(own, dict):
        return shared
    if agent not in own:
        raise Dom2Error(
            f"infos[{kind!r}] of episode {episode.id} has {sorted(own)} and not {agent}"
        )
    value = np.asarray(own[agent])
    return value[1:] if len(value) == len(shared) + 1 else value


def _names_of(data) -> list[str]:
    names = data.meta.get("agent_names")
    usable = isinstance(names, list) and len(set(map(str, names))) == data.num_agents
    if usable and all(re.fullmatch(r"[\w-]+", str(n)) for n in names):
        return [str(n) for n in names]
    return [f"agent_{i}" for i in range(data.num_agents)]


def _refuse_gaps(data) -> None:
    obs, after = ([t.numpy() for t in tensors] for tensors in (data.obs, data.next_obs))
    try:
        checks.next_obs(obs, after, data.starts.numpy())
    except Dom2Error as error:
        raise Dom2Error(
            f"Minari keeps one row of observations more than steps and no next_obs, and {error}"
        ) from error


def _root() -> Path:
    """Where Minari keeps its data sets; asking Minari itself would make the folder."""
    given = os.environ.get("MINARI_DATASETS_PATH")
    return Path(given) if given is not None else Path.home() / ".minari" / "datasets"


def _find(dataset_id: str) -> Path:
    root = _root()
    path = root / dataset_id / "data"
    if dataset_id and path.is_dir():
        return path
    held = sorted(str(f.parents[1].relative_to(root)) for f in root.rglob("data/metadata.json"))
    shown = ", ".join(held[:8]) + (f" and {len(held) - 8} more" if len(held) > 8 else "")
    raise Dom2Error(
        f"no Minari data set {dataset_id!r} in {root} (MINARI_DATASETS_PATH chooses the folder), "
        f"which holds {shown or 'none'}. Public ones: minari download {dataset_id or 'ID'}"
    )


def _data_folder(source) -> Path | None:
    """The folder with Minari's metadata.json, for a data set's folder or its data/ inside."""
    path = folder(source)
    for candidate in () if path is None else (path, path / "data"):
        try:
            meta = json.loads((candidate / "metadata.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(meta, dict) and "data_format" in meta and "total_episodes" in meta:
            return candidate
    return None


def _checked_id(dataset_id: str) -> str | None:
    """The namespace of an id that Minari takes."""
    from minari.dataset.minari_dataset import parse_dataset_id

    try:
        return parse_dataset_id(dataset_id)[0]
    except (ValueError, TypeError) as error:
        raise Dom2Error(
            f"{dataset_id!r} is no id of Minari: use [NAMESPACE/]NAME-vN of letters, digits, - and "
            f"_, such as me/spread-v0; data sets are kept in {_root()} (MINARI_DATASETS_PATH)"
        ) from error
