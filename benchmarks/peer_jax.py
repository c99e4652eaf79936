"""The networks and the sampler in JAX, vmapped over agents; training is `peer_jax_dom2`."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from peer_torch import coefficients


def params_of(stacked) -> dict[str, jax.Array]:
    """A stack's parameters and buffers by name, each [G, ...]."""
    # Copied: JAX would share the memory, which PyTorch's optimisers change in place.
    return {k: jnp.array(np.array(v.detach().numpy())) for k, v in stacked.params().items()}


def array(tensor) -> jax.Array:
    return jnp.array(np.array(tensor.detach().numpy()))


def linear(p, name, x):
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def mish(x):
    return x * jnp.tanh(jax.nn.softplus(x))


def features(t, freqs):
    angle = t[:, None] * freqs
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], -1)


def mlp(p, x, t, obs):
    """networks.MLPNoiseNet of one agent: [B, A], [B], [B, O] -> [B, A]."""
    e = linear(p, "time_mlp.1", features(t, p["time_mlp.0.freqs"]))
    e = linear(p, "time_mlp.3", mish(e))
    h = jnp.concatenate([x, e, obs], -1)
    k = 0
    while f"mid_layer.{k}.weight" in p:
        h = mish(linear(p, f"mid_layer.{k}", h))
        k += 2
    return linear(p, "final_layer", h)


def unet(p, x, t, obs):
    """networks.UNetNoiseNet of one agent, without dropout."""
    silu = jax.nn.silu

    def block(name, x, e):
        h = silu(linear(p, f"{name}.first.0", x)) + linear(p, f"{name}.cond", e)
        h = silu(linear(p, f"{name}.second.0", h))
        return h + (linear(p, f"{name}.skip", x) if f"{name}.skip.weight" in p else x)

    time = linear(p, "time.1", features(t, p["time.0.freqs"] * (2.0 * math.pi)))
    e = jnp.concatenate([silu(linear(p, "obs.0", obs)), time], -1)
    e = silu(linear(p, "embed.2", silu(linear(p, "embed.0", e))))
    d1 = block("down1", x, e)
    d2 = block("down2", d1, e)
    d3 = block("down3", d2, e)
    u2 = block("up2", jnp.concatenate([d3, block("up3", d3, e)], -1), e)
    u1 = block("up1", jnp.concatenate([d2, u2], -1), e)
    return linear(p, "final_layer", jnp.concatenate([d1, u1], -1))


def critic(p, act, obs):
    """networks.MLPCritic of one agent: [B, A], [B, O] -> [B]."""
    h, k = jnp.concatenate([act, obs], -1), 0
    while f"mid_layer.{k}.weight" in p:
        h = jax.nn.relu(linear(p, f"mid_layer.{k}", h))
        k += 2
    return linear(p, "final_layer", h)[:, 0]


NETS = {"mlp": mlp, "unet": unet}


def sample(net, params, obs, x, steps: int = 5, bound: float = 1.0):
    """[G, B, O], [G, B, A] -> [G, B, A]. Unrolled: XLA makes faster code of it than of a scan."""

    def one(p, obs, x):
        for t, a, b in coefficients(steps):
            x = a * x - b * net(p, x, jnp.full(x.shape[:1], t), obs)
        return jnp.clip(x, -bound, bound)

    return jax.vmap(one)(params, obs, x)


def sampler(name: str, stacked, obs, x_T, bound: float):
    """(a call that samples and waits, the actions as a tensor's array) for torch inputs."""
    net, params = NETS[name], params_of(stacked)
    run = jax.jit(lambda p, o, x: sample(net, p, o, x, bound=bound))
    o, x = array(obs), array(x_T)
    return lambda: run(params, o, x).block_until_ready(), np.asarray(run(params, o, x))
