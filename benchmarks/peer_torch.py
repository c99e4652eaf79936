"""The sampler in PyTorch alone, as one would write it: `eager`, `batched`, and both compiled.

Built from dom2_fast's network definitions (which are plain modules) and weights; nothing else of
the package runs here. `eager` is a loop over the agents' own modules, `batched` one module whose
linear layers are [G, N, K] and run as one baddbmm.
"""

import copy
import math

import torch
from torch import nn

from dom2_fast import networks

FIELDS = ("obs", "act", "reward", "next_obs")


class Rows:
    """Weighted draws of an agent's data: a cached cumulative sum and one gather per field.

    extra: further fields [G, N, ...] by name. but_last: the last row of an episode isn't drawn.
    """

    def __init__(self, agent, extra: dict | None = None, but_last: bool = False):
        data, groups = agent.sampler.data, agent.num_agents
        self.data = {f: torch.stack(getattr(data, f)[:groups]) for f in FIELDS}  # [G, N, ...]
        self.data |= extra or {}
        self.length, self.batch = int(data.lengths[0]), agent.config.batch_size
        self.inside = self.length - but_last
        self.cumulative = agent.sampler.weights.cumsum(1)  # [G, trajectories]
        self.agents = torch.arange(groups)[:, None]

    def draw(self) -> list[torch.Tensor]:
        """obs, act, reward, next_obs, and the extra fields."""
        u = torch.rand(len(self.agents), self.batch, dtype=torch.float64) * self.cumulative[:, -1:]
        inside = torch.randint(self.inside, u.shape)
        index = torch.searchsorted(self.cumulative, u) * self.length + inside
        return [values[self.agents, index] for values in self.data.values()]


class PerAgent(nn.Module):
    """G modules called one after the other: [G, B, ...] -> [G, B, ...]."""

    def __init__(self, modules):
        super().__init__()
        self.nets = nn.ModuleList(modules)

    def forward(self, *inputs):
        if len(self.nets) == 1:
            return self.nets[0](*(v[0] for v in inputs)).unsqueeze(0)
        return torch.stack([net(*(v[g] for v in inputs)) for g, net in enumerate(self.nets)])

    def stacked_grads(self) -> dict[str, torch.Tensor]:
        names = [name for name, _ in self.nets[0].named_parameters()]
        return {n: torch.stack([m.get_parameter(n).grad for m in self.nets]) for n in names}

    def first(self, groups: int) -> nn.Module:
        """The first modules, sharing their memory, without gradients of their own."""
        view = PerAgent(copy.deepcopy(m) for m in self.nets[:groups])
        for ours, theirs in zip(view.parameters(), self.nets[:groups].parameters(), strict=True):
            ours.data = theirs.data
        return view.requires_grad_(False)

    def clip(self, most: float) -> None:
        for net in self.nets:
            nn.utils.clip_grad_norm_(net.parameters(), most)


class BatchedLinear(nn.Module):
    def __init__(self, weight, bias):
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())

    def forward(self, x):  # [G, B, K]
        return torch.baddbmm(self.bias.unsqueeze(1), x, self.weight.transpose(1, 2))


class BatchedTime(nn.Module):
    def __init__(self, freqs, factor: float):
        super().__init__()
        self.register_buffer("freqs", freqs.clone())
        self.factor = factor

    def forward(self, t):  # [G, B]
        angle = t.unsqueeze(-1) * self.freqs.unsqueeze(1) * self.factor
        return torch.cat([angle.sin(), angle.cos()], -1)


class Batched(nn.Module):
    """A stack of modules as one, every linear layer one batched product."""

    def __init__(self, stacked: networks.StackedModule):
        super().__init__()
        self.net = _swap(copy.deepcopy(stacked.template))

    def forward(self, *inputs):
        net = self.net
        if isinstance(net, networks.MLPNoiseNet):
            x, t, obs = inputs
            # Its own forward joins along dimension 1, which is the batch here.
            return net.final_layer(net.mid_layer(torch.cat([x, net.time_mlp(t), obs], -1)))
        return net(*inputs)

    def stacked_grads(self) -> dict[str, torch.Tensor]:
        return {name: p.grad for name, p in self.net.named_parameters()}

    def first(self, groups: int) -> nn.Module:
        view = copy.deepcopy(self)
        for ours, theirs in zip(view.parameters(), self.parameters(), strict=True):
            ours.data = theirs.data[:groups]
        return view.requires_grad_(False)

    def clip(self, most: float) -> None:
        """Every agent's own gradient to a norm of `most`."""
        grads = [p.grad for p in self.parameters()]
        norm = sum(g.flatten(1).square().sum(1) for g in grads).sqrt()
        scale = (most / (norm + 1e-6)).clamp(max=1.0)
        for g in grads:
            g.mul_(scale.view(-1, *[1] * (g.ndim - 1)))


def _swap(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, BatchedLinear(child.weight.data, child.bias.data))
        elif isinstance(child, networks.SinusoidalTime):
            setattr(module, name, BatchedTime(child.freqs, 1.0))
        elif isinstance(child, networks.FourierTime):
            setattr(module, name, BatchedTime(child.freqs, 2.0 * math.pi))
        else:
            _swap(child)
    return module


def per_agent(stacked: networks.StackedModule) -> PerAgent:
    return PerAgent(stacked.unstack()).train(stacked.training)


def batched(stacked: networks.StackedModule) -> Batched:
    return Batched(stacked).train(stacked.training)


def coefficients(steps: int) -> list[tuple[float, float, float]]:
    """(t, a, b) per step of DPM-Solver-1 (Lu et al. 2022, eq. 3.7): x <- a x - b net(x, t, obs)."""
    times = [1.0 + (1e-3 - 1.0) * k / steps for k in range(steps + 1)]
    log_alpha = [-t * (0.25 * (20.0 - 0.1) * t + 0.5 * 0.1) for t in times]
    alpha = [math.exp(v) for v in log_alpha]
    sigma = [math.sqrt(-math.expm1(2.0 * v)) for v in log_alpha]
    rows = []
    for k in range(steps):
        h = math.log(alpha[k + 1] / sigma[k + 1]) - math.log(alpha[k] / sigma[k])
        rows.append((times[k], alpha[k + 1] / alpha[k], sigma[k + 1] * math.expm1(h)))
    return rows


class Sampler(nn.Module):
    """The denoising loop: (obs [G, B, O], x_T [G, B, A]) -> actions [G, B, A]."""

    def __init__(self, net: nn.Module, steps: int = 5, bound: float = 1.0):
        super().__init__()
        self.net, self.rows, self.bound = net, coefficients(steps), bound

    def forward(self, obs, x):
        for t, a, b in self.rows:
            x = a * x - b * self.net(x, x.new_full(x.shape[:2], t), obs)
        return x.clamp(-self.bound, self.bound)


def compiled(run, *args, freezing: bool = False):
    """torch.compile of `run` for the shapes of `args`; earlier graphs are forgotten.

    freezing: weights become constants, which Inductor lays out anew. Measured: half the time of
    batched products at batch 1, four times the time of plain layers.
    """
    torch._dynamo.reset()
    made = torch.compile(run, dynamic=False)
    with torch._inductor.config.patch(freezing=freezing):
        made(*args)
    return made
