"""One DOM2 update in JAX: one jitted function, vmapped over agents, the state donated.

Drawing the batch, noise, losses, clipping, Adam and target averages are all inside. `step` takes
what is random as arguments, so that its results can be compared.
"""

import functools
import math

import jax
import jax.numpy as jnp
from peer_jax import NETS, array, critic, params_of, sample
from peer_torch import FIELDS

BUFFERS = ("freqs",)  # of the time features: not trained


class JaxDOM2:
    """See dom2_fast.algos.dom2 for the losses; `agent` is the one whose settings and data serve."""

    def __init__(self, agent, seed: int = 0):
        self.c, self.G, self.net = agent.config, agent.num_agents, NETS[agent.config.network]
        self.shift, self.sd = array(agent.critics.reward.shift), array(agent.critics.reward.sd)

        def fresh(stacked):
            params = params_of(stacked)
            return {k: v for k, v in params.items() if not k.endswith(BUFFERS)}

        actor = params_of(agent.net)
        self.buffers = {k: v for k, v in actor.items() if k.endswith(BUFFERS)}
        net, q = fresh(agent.net), fresh(agent.critics.net)
        self.state = {
            "net": net,
            "critic": q,
            "net_adam": adam_state(net),
            "critic_adam": adam_state(q),
            "target_net": fresh(agent.net),
            "target_critic": fresh(agent.critics.net),
            "key": jax.random.key(seed),
        }
        data = agent.sampler.data
        self.data = {f: jnp.stack([array(v) for v in getattr(data, f)[: self.G]]) for f in FIELDS}
        self.data["cumulative"] = array(agent.sampler.weights.cumsum(1).float())
        self.length = int(data.lengths[0])
        self.compare = jax.jit(self.step)
        self._update = jax.jit(self._drawn, donate_argnums=0)

    def sample(self, params, obs, x_T):
        return sample(self.net, params | self.buffers, obs, x_T, steps=self.c.steps)

    def critic_loss(self, params, obs, act, proposed, y):
        G, B, M, A = proposed.shape
        acts = jnp.concatenate([act[:, :, None], proposed], 2).reshape(G, B * (1 + M), A)
        rows = jnp.repeat(obs, 1 + M, axis=1)
        q = jax.vmap(critic)(params, twice(acts), twice(rows)).reshape(2 * G, B, 1 + M)
        td = jnp.square(q[..., 0] - twice(y)).mean(1)
        log_density = A * math.log(0.5)
        cql = (jax.nn.logsumexp(q[..., 1:] - log_density, axis=2) - q[..., 0]).mean(1)
        loss = td + self.c.zeta * cql
        return loss.sum(), (loss, q[:G, :, 0])

    def actor_loss(self, params, q1, obs, act, q_data, x_T, t, eps):
        q = jax.vmap(critic)(q1, self.sample(params, obs, x_T), obs)
        scale = self.c.eta / jnp.maximum(jnp.abs(q_data).mean(1), 1e-6)
        log_alpha = -t * (0.25 * (20.0 - 0.1) * t + 0.5 * 0.1)
        alpha, sigma = jnp.exp(log_alpha), jnp.sqrt(-jnp.expm1(2.0 * log_alpha))
        x = alpha[..., None] * act + sigma[..., None] * eps
        out = jax.vmap(self.net)(params | self.buffers, x, t, obs)
        bc = jnp.square(out - eps).mean((1, 2))
        loss = bc - scale * q.mean(1)
        return loss.sum(), (bc, loss)

    def step(self, s, obs, act, reward, next_obs, x_target, proposed, x_actor, t, eps):
        """(new state, losses, clipped gradients)"""
        c = self.c
        next_act = self.sample(s["target_net"], next_obs, x_target)
        q = jax.vmap(critic)(s["target_critic"], twice(next_act), twice(next_obs))
        y = (reward - self.shift) / self.sd + c.gamma * jnp.minimum(q[: self.G], q[self.G :])
        (_, (closs, q_data)), cgrad = jax.value_and_grad(self.critic_loss, has_aux=True)(
            s["critic"], obs, act, proposed, y
        )
        cgrad = clip(cgrad, c.grad_clip)
        q_params, q_adam = adam(s["critic"], cgrad, s["critic_adam"], c.critic_lr)
        q1 = {k: v[: self.G] for k, v in q_params.items()}
        (_, (bc, aloss)), agrad = jax.value_and_grad(self.actor_loss, has_aux=True)(
            s["net"], q1, obs, act, q_data, x_actor, t, eps
        )
        agrad = clip(agrad, c.grad_clip)
        net, net_adam = adam(s["net"], agrad, s["net_adam"], c.lr)
        lerp = functools.partial(jax.tree.map, lambda old, new: old + c.tau * (new - old))
        new = {
            "net": net,
            "critic": q_params,
            "net_adam": net_adam,
            "critic_adam": q_adam,
            "target_net": lerp(s["target_net"], net),
            "target_critic": lerp(s["target_critic"], q_params),
            "key": s["key"],
        }
        losses = {"loss/critic": closs.mean(), "loss/bc": bc.mean(), "loss/actor": aloss.mean()}
        return new, losses, {"net": agrad, "critic": cgrad}

    def _drawn(self, s, data):
        keys = jax.random.split(s["key"], 8)
        G, B, A = self.G, self.c.batch_size, data["act"].shape[-1]
        u = jax.random.uniform(keys[1], (G, B)) * data["cumulative"][:, -1:]
        chosen = jax.vmap(jnp.searchsorted)(data["cumulative"], u)
        index = chosen * self.length + jax.random.randint(keys[2], (G, B), 0, self.length)
        batch = [jax.vmap(lambda f, i: f[i])(data[f], index) for f in FIELDS]
        uniform = jax.random.uniform(keys[4], (G, B, self.c.cql_actions, A))
        new, losses, _ = self.step(
            {**s, "key": keys[0]},
            *batch,
            jax.random.normal(keys[3], (G, B, A)),
            uniform * 2 - 1,
            jax.random.normal(keys[5], (G, B, A)),
            jax.random.uniform(keys[6], (G, B)) * (1 - 1e-5) + 1e-5,
            jax.random.normal(keys[7], (G, B, A)),
        )
        return new, losses

    def update(self):
        self.state, losses = self._update(self.state, self.data)
        return jax.block_until_ready(losses) and jax.block_until_ready(self.state["net"])


def twice(x):
    return jnp.concatenate([x, x])


def clip(grads, most: float):
    """Every group's own gradient to a norm of `most`."""
    norm = jnp.sqrt(sum(jnp.square(g).reshape(g.shape[0], -1).sum(1) for g in grads.values()))
    scale = jnp.minimum(most / (norm + 1e-6), 1.0)
    return {k: g * scale.reshape(-1, *[1] * (g.ndim - 1)) for k, g in grads.items()}


def adam_state(params):
    zeros = functools.partial(jax.tree.map, jnp.zeros_like)
    return {"m": zeros(params), "v": zeros(params), "count": jnp.zeros((), jnp.int32)}


def adam(params, grads, s, lr: float, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8):
    count = s["count"] + 1
    m = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, s["m"], grads)
    v = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, s["v"], grads)
    n1, n2 = 1 - b1**count, 1 - b2**count
    new = jax.tree.map(lambda p, m, v: p - lr * (m / n1) / (jnp.sqrt(v / n2) + eps), params, m, v)
    return new, {"m": m, "v": v, "count": count}
