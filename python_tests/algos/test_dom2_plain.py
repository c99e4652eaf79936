"""DOM2's updates against a plain single-agent implementation, and its kernels against PyTorch."""

import numpy as np
import plain_dom2 as plain
import pytest
import torch
from small_data import dataset
from small_dom2 import small
from tolerances import NETWORK32, SAME_FORMULA_64, relative_error

from dom2_fast.algos.dom2 import DOM2
from dom2_fast.ops import backend


def with_noise(policy, x_T):
    """Makes the policy draw its samples from the given noise."""
    sample, value = policy.sample, policy.chain_value
    policy.sample = lambda obs, generator=None: sample(obs, x_T=x_T)
    policy.chain_value = lambda obs, critic, generator=None: value(obs, critic, x_T)


def grads(stacked) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in stacked.template.named_parameters()}


def test_critic_update_equals_the_plain_one(in_float64):
    data = dataset(trajectories=6, obs_dims=(5, 5, 5), dtype=np.float64)
    agents = DOM2(small(zeta=0.7, gamma=0.9, grad_clip=0.5, normalise_reward=False), data)
    with torch.no_grad():  # targets that differ from the critics
        for p in agents.critics.target_net.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    batch = agents.sampler.sample()
    x_T = torch.randn(3, 8, 2)
    proposed = torch.rand(3, 8, 4, 2) * 2 - 1
    with_noise(agents.target_policy, x_T)
    target = agents.td_target(batch)
    loss = agents.critic_loss(batch, target, proposed).loss
    critics, targets = agents.critics.net.unstack(), agents.critics.target_net.unstack()
    nets = agents.target_net.unstack()
    agents.critics.optimiser.zero_grad()
    loss.sum().backward()
    ours = grads(agents.critics.net)
    for j in range(3):
        next_act = plain.dpm_solver_1(nets[j], batch.next_obs[j], x_T[j], 3)
        y = plain.td_target(
            batch.reward[j], batch.next_obs[j], next_act, (targets[j], targets[3 + j]), 0.9
        )
        torch.testing.assert_close(target[j], y.detach(), **SAME_FORMULA_64)
        for k in (j, 3 + j):
            value = plain.critic_loss(
                critics[k], batch.obs[j], batch.act[j], y.detach(), proposed[j], 0.7
            )
            torch.testing.assert_close(loss[k].detach(), value.detach(), **SAME_FORMULA_64)
            value.backward()
            for name, p in critics[k].named_parameters():
                torch.testing.assert_close(ours[name][k], p.grad, **SAME_FORMULA_64)


def test_policy_s_q_term_equals_the_plain_one(in_float64):
    data = dataset(trajectories=6, obs_dims=(5, 5, 5), dtype=np.float64)
    agents = DOM2(small(eta=2.5), data)
    batch = agents.sampler.sample()
    x_T = torch.randn(3, 8, 2)
    with_noise(agents.policy, x_T)
    nets, critics = agents.net.unstack(), agents.critics.net.unstack()
    q_data = torch.stack(
        [critics[j](batch.act[j], batch.obs[j]).squeeze(1).detach() for j in range(3)]
    )
    agents.bc_loss = lambda batch: torch.zeros(3)
    losses = []
    agents.descend = losses.append
    agents._policy_step(batch, q_data)
    (loss,) = losses
    loss.sum().backward()
    ours = grads(agents.net)
    for j in range(3):
        value = plain.q_term(nets[j], critics[j], batch.obs[j], batch.act[j], x_T[j], 3, 2.5)
        torch.testing.assert_close(loss[j].detach(), value.detach(), **SAME_FORMULA_64)
        value.backward()
        for name, p in nets[j].named_parameters():
            torch.testing.assert_close(ours[name][j], p.grad, **SAME_FORMULA_64)
    assert all(p.grad is None for p in agents.critics.net.parameters())


def test_one_step_q_term_equals_the_plain_one(in_float64):
    """EDP's action, (x_t - sigma_t eps) / alpha_t of the BC loss's own pass and draws."""
    data = dataset(trajectories=6, obs_dims=(5, 5), dtype=np.float64)
    agents = DOM2(small(eta=2.5, q_action="one_step", q_warmup=0), data)
    batch = agents.sampler.sample()
    before = agents.generator.get_state()
    bc, act = agents.policy.bc_terms(
        batch.obs, batch.act, generator=agents.generator, reduction="group"
    )
    agents.generator.set_state(before)
    same = agents.policy.bc_loss(
        batch.obs, batch.act, generator=agents.generator, reduction="group"
    )
    assert torch.equal(bc, same)
    agents.generator.set_state(before)
    t = agents.policy.schedule.training_times((2, 8), agents.generator, dtype=torch.float64)
    eps = torch.randn(2, 8, 2, generator=agents.generator)
    alpha = torch.exp(plain.log_alpha(t)).unsqueeze(2)
    sigma = torch.sqrt(1 - alpha**2)
    for j, net in enumerate(agents.net.unstack()):
        x = alpha[j] * batch.act[j] + sigma[j] * eps[j]
        guess = (x - sigma[j] * net(x, t[j], batch.obs[j])) / alpha[j]
        torch.testing.assert_close(act[j], guess.clamp(-1, 1), **SAME_FORMULA_64)
    metrics = agents.update()
    assert metrics["q/policy"].isfinite() and "loss/actor" in metrics


def test_one_step_training_moves_the_policy_towards_better_actions():
    data = dataset(trajectories=6, obs_dims=(5, 5))
    with_q, without = (
        DOM2(small(eta=eta, q_action="one_step", q_warmup=0, lr=0.01), data) for eta in (3.0, 0.0)
    )
    for agents in (with_q, without):
        agents.fit(60)
    batch = with_q.sampler.sample()

    def value(agents):
        with torch.no_grad():
            generator = torch.Generator().manual_seed(0)
            act = agents.policy.sample(batch.obs, generator=generator)
            return with_q.critics.q1(act, batch.obs).mean()

    assert value(with_q) > value(without)


def test_whole_update_equals_plain_adam_steps(in_float64):
    """Two updates, critics and policy, clipped per network, against torch's own Adam."""
    data = dataset(trajectories=6, obs_dims=(5, 5), dtype=np.float64)
    config = small(
        lr=0.01, critic_lr=0.02, grad_clip=0.3, tau=0.25, eta=1.0, normalise_reward=False
    )
    agents, twin = DOM2(config, data), DOM2(config, data)
    critics, nets = agents.critics.net.unstack(), agents.net.unstack()
    targets, old_nets = agents.critics.target_net.unstack(), agents.target_net.unstack()
    c_adam = [torch.optim.Adam(c.parameters(), lr=0.02) for c in critics]
    p_adam = [torch.optim.Adam(n.parameters(), lr=0.01) for n in nets]
    for _ in range(2):
        batch = twin.sampler.sample()  # what `agents` will draw, too
        x_next, x_now = torch.randn(2, 8, 2), torch.randn(2, 8, 2)
        proposed = torch.rand(2, 8, 4, 2) * 2 - 1
        fix_draws(agents, x_next, x_now, proposed)
        # The only draws left are the BC loss's: times first, then the noise.
        generator = torch.Generator()
        generator.set_state(agents.generator.get_state())
        times = agents.policy.schedule.training_times((2, 8), generator, dtype=torch.float64)
        eps = torch.randn(2, 8, 2, generator=generator)
        agents.update()
        for j in range(2):
            rows = [f[j] for f in (batch.obs, batch.act, batch.reward, batch.next_obs)]
            obs, act, reward, next_obs = rows
            q_scale_critic = critics[j]
            with torch.no_grad():
                next_act = plain.dpm_solver_1(old_nets[j], next_obs, x_next[j], 3)
                y = plain.td_target(
                    reward, next_obs, next_act, (targets[j], targets[2 + j]), config.gamma
                )
                # eta's normaliser is from the critics' pass, before their step
                scale = config.eta / q_scale_critic(act, obs).abs().mean()
            for k in (j, 2 + j):
                c_adam[k].zero_grad()
                plain.critic_loss(critics[k], obs, act, y, proposed[j], config.zeta).backward()
                plain.clip(list(critics[k].parameters()), 0.3)
                c_adam[k].step()
            p_adam[j].zero_grad()
            alpha = torch.exp(plain.log_alpha(times[j]))[:, None]
            noisy = alpha * act + torch.sqrt(1 - alpha**2) * eps[j]
            bc = ((nets[j](noisy, times[j], obs) - eps[j]) ** 2).mean()
            q = critics[j](plain.dpm_solver_1(nets[j], obs, x_now[j], 3), obs).mean()
            (bc - scale * q).backward()
            plain.clip(list(nets[j].parameters()), 0.3)
            p_adam[j].step()
        with torch.no_grad():
            for old, new in ((targets, critics), (old_nets, nets)):
                for a, b in zip(old, new, strict=True):
                    for p, q in zip(a.parameters(), b.parameters(), strict=True):
                        p.copy_(0.25 * q + 0.75 * p)
    for stacked, modules in (
        (agents.critics.net, critics),
        (agents.net, nets),
        (agents.critics.target_net, targets),
        (agents.target_net, old_nets),
    ):
        for name, p in stacked.template.named_parameters():
            expected = torch.stack([m.get_parameter(name) for m in modules])
            torch.testing.assert_close(p.detach(), expected.detach(), **SAME_FORMULA_64)


@pytest.mark.skipif(not backend.available(), reason="no compiled extension")
@pytest.mark.parametrize("network", ["mlp", "unet"])
@pytest.mark.parametrize("q_action", ["chain", "one_step"])
def test_kernels_and_reference_update_alike(network, q_action):
    """With dropout, in float32: losses and gradients of one update, from the same draws."""
    made = []
    for run in ("native", "reference"):
        config = small(network=network, q_action=q_action, batch_size=40, backend=run, q_warmup=0)
        agents = DOM2(config, dataset(trajectories=6, obs_dims=(5, 5)))
        made.append((agents.fit(1), grads(agents.net), grads(agents.critics.net)))
    (losses, *got), (expected, *want) = made
    # As in ops/test_whole_update: ten layers of rounding, and normalisation by E |Q|.
    assert losses == pytest.approx(expected, rel=10 * NETWORK32, abs=10 * NETWORK32)
    for ours, theirs in zip(got, want, strict=True):
        for name, grad in theirs.items():
            assert relative_error(ours[name], grad) < 10 * NETWORK32, name


def fix_draws(agents, x_next, x_now, proposed):
    for policy, x_T in ((agents.target_policy, x_next), (agents.policy, x_now)):
        for name in ("sample", "chain_value"):
            policy.__dict__.pop(name, None)
        with_noise(policy, x_T)
    agents._proposed = lambda batch: proposed
