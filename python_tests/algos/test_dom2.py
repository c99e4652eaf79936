"""DOM2 against a plain single-agent implementation, and what the method promises.

Agents must not influence each other, the CQL term must push down actions outside the data, the Q
term must pull the policy to better actions.
"""

import dataclasses
import math

import numpy as np
import plain_dom2 as plain
import pytest
import torch
from small_data import dataset
from small_dom2 import small
from tolerances import NETWORK32, SAME_FORMULA_64, relative_error

from dom2_fast import config as configs
from dom2_fast import networks
from dom2_fast.algos.dom2 import DOM2, DOM2Config
from dom2_fast.algos.updates import frozen_view
from dom2_fast.data.trajectories import TrajectoryDataset
from dom2_fast.errors import Dom2Error
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
    config = small(lr=0.01, critic_lr=0.02, grad_clip=0.3, tau=0.25, normalise_reward=False)
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


def test_importance_corrected_logsumexp_by_hand():
    """Q = 0 everywhere: log sum over M actions of exp(0) / 0.5^A = log M + A log 2."""
    agents = DOM2(small(zeta=1.0, normalise_reward=False), dataset())
    with torch.no_grad():
        for p in agents.critics.net.parameters():
            p.zero_()
    batch = agents.sampler.sample()
    target = torch.zeros(2, 8)
    critic = agents.critic_loss(batch, target, torch.rand(2, 8, 4, 2))
    expected = math.log(4) + 2 * math.log(2)
    assert critic.cql.tolist() == pytest.approx([expected] * 4, rel=1e-6)
    assert critic.loss.tolist() == pytest.approx([expected] * 4, rel=1e-6)


def test_agents_do_not_influence_each_other():
    one, two = dataset(trajectories=6), dataset(trajectories=6)
    for name in ("obs", "act", "reward", "next_obs"):
        field = getattr(two, name)
        field[1] = (field[1] * (0.5 if name == "act" else 10.0)).clone()
    first, second = DOM2(small(grad_clip=0.1), one), DOM2(small(grad_clip=0.1), two)
    first.fit(4)
    second.fit(4)
    for part in ("net", "target_net"):
        for a, b in pairs(first, second, part):
            assert torch.equal(a[0], b[0])
    for part in ("critic", "target_critic"):
        for a, b in pairs(first, second, part):
            assert torch.equal(a[[0, 2]], b[[0, 2]])
    assert any(not torch.equal(a[1], b[1]) for a, b in pairs(first, second, "net"))
    assert any(not torch.equal(a[[1, 3]], b[[1, 3]]) for a, b in pairs(first, second, "critic"))


def pairs(first, second, part):
    first, second = (agents._parts()[part].parameters() for agents in (first, second))
    return zip(first, second, strict=True)


def bandit(seed=0) -> TrajectoryDataset:
    """One observation; actions around -0.5 or +0.5 in the first coordinate; + pays 1, - pays 0."""
    rng = np.random.default_rng(seed)
    n = 400
    side = rng.integers(0, 2, (2, n))
    act = np.zeros((2, n, 2), np.float32)
    act[..., 0] = np.where(side == 1, 0.5, -0.5) + 0.05 * rng.normal(size=(2, n))
    act[..., 1] = 0.05 * rng.normal(size=(2, n))
    obs = np.ones((2, n, 3), np.float32)
    return TrajectoryDataset.from_arrays(obs, act, side.astype(np.float32), obs, episode_length=1)


def test_q_term_prefers_the_paying_mode_and_bc_alone_does_not():
    obs = [torch.ones(500, 3)] * 2
    shares = {}
    for eta in (0.0, 1.0):
        agents = DOM2(
            small(
                eta=eta,
                hidden=32,
                critic_hidden=32,
                batch_size=64,
                gamma=0.0,
                lr=3e-3,
                critic_lr=3e-3,
                zeta=0.1,
                tau=0.05,
            ),
            bandit(),
        )
        agents.fit(300)
        act = agents.policies.act(obs, generator=torch.Generator().manual_seed(0))
        shares[eta] = (act[..., 0] > 0).float().mean(1)
    assert bool((shares[0.0] < 0.75).all())
    assert bool((shares[1.0] > 0.9).all())


def test_cql_lowers_actions_outside_the_data():
    gaps = []
    for zeta in (1e-6, 2.0):  # with 0 the critics say nothing of uniform actions
        agents = DOM2(small(zeta=zeta, batch_size=64, gamma=0.0, critic_lr=3e-3, eta=0.0), bandit())
        metrics = agents.fit(200)
        gaps.append(metrics["q/data"] - metrics["q/uniform"])
    assert gaps[1] > gaps[0] + 0.5


def test_normalised_rewards_and_no_terminal_masking():
    data = dataset(trajectories=6)
    data.done[0][:], data.done[1][:] = 1.0, 1.0
    agents = DOM2(small(), data)
    plain_agents = DOM2(small(normalise_reward=False), data)
    masked = DOM2(small(normalise_reward=False, mask_done=True, reward_scale=2.0), data)
    batch = agents.sampler.sample()
    for j in range(2):
        reward = data.reward[j].double()
        shift, scale = agents.critics.reward.shift[j], agents.critics.reward.sd[j]
        assert float(shift) == pytest.approx(float(reward.mean()), abs=1e-6)
        sd = float(reward.std(unbiased=False))
        assert float(scale) == pytest.approx(sd, rel=1e-5)
    torch.testing.assert_close(masked.td_target(batch), 2.0 * batch.reward)
    assert not torch.allclose(plain_agents.td_target(batch), batch.reward)


def test_frozen_view_shares_memory_and_follows_updates():
    stacked = networks.stack([networks.MLPCritic(3, 2, hidden=4) for _ in range(4)])
    view = frozen_view(stacked, 2)
    act, obs = torch.rand(2, 5, 2), torch.rand(2, 5, 3)
    before = view(act, obs)
    torch.testing.assert_close(
        before, torch.stack([m(act[g], obs[g]) for g, m in enumerate(stacked.unstack()[:2])])
    )
    with torch.no_grad():
        stacked.template.final_layer.bias += 1.0
    torch.testing.assert_close(view(act, obs), before + 1.0)
    assert not any(p.requires_grad for p in view.parameters())


def test_acting_without_target_leaves_dropout_out_and_follows_updates():
    agents = DOM2(small(network="unet", act_with_target=False), dataset())
    policies = agents.policies
    # Of many rows, because an untrained net puts most actions on their bounds.
    obs = [torch.randn(1000, agents.obs_dim) for _ in range(agents.num_agents)]

    def act():
        return policies.act(torch.stack(obs), torch.Generator().manual_seed(1))

    agents.net.eval()
    want = agents.policy.act(torch.stack(obs), generator=torch.Generator().manual_seed(1))
    agents.net.train()
    assert torch.equal(act(), want)
    assert agents.net.training
    agents.update()
    assert not torch.equal(act(), want)


def test_policy_actions_in_the_cql_term_and_rare_policy_updates():
    agents = DOM2(small(cql_policy_actions=2, actor_every=2), dataset())
    batch = agents.sampler.sample()
    proposed = agents._proposed(batch)
    assert proposed.shape == (2, 8, 6, 2)
    assert float(proposed.abs().max()) <= 1.0
    assert "loss/bc" in agents.update()
    assert "loss/bc" not in agents.update()


def test_save_and_load_give_the_same_agents(tmp_path):
    data = dataset(trajectories=6)
    agents = DOM2(small(), data)
    agents.fit(3)
    agents.save(tmp_path / "a.pt")
    acting = DOM2.load(tmp_path / "a.pt")
    obs = [torch.rand(7, 3) for _ in range(2)]
    ours, theirs = (
        a.policies.act(obs, generator=torch.Generator().manual_seed(1)) for a in (agents, acting)
    )
    assert torch.equal(ours, theirs)
    assert ours.shape == (2, 7, 2)
    assert float(ours.abs().max()) <= 1.0
    with pytest.raises(Dom2Error, match="without data"):
        acting.fit(1)
    going_on = DOM2.load(tmp_path / "a.pt", data)
    assert going_on.fit(2) == agents.fit(2)
    for a, b in pairs(agents, going_on, "net"):
        assert torch.equal(a, b)
    with pytest.raises(Dom2Error, match="checkpoint is of"):
        DOM2.load(tmp_path / "a.pt", dataset(obs_dims=(4, 4)))


def test_one_agent_s_policy_can_be_taken_out():
    agents = DOM2(small(), dataset())
    agents.fit(1)
    policies = agents.policies
    assert len(policies) == 2
    obs, x_T = torch.rand(2, 6, 3), torch.randn(2, 6, 2)
    together = agents.target_policy.sample(obs, x_T=x_T)
    for j in range(2):
        alone = policies[j].sample(obs[j], x_T=x_T[j])
        torch.testing.assert_close(alone, together[j])


def test_best_of_several_candidates_by_the_agent_s_own_critic():
    data = dataset()
    one, many = DOM2(small(), data), DOM2(small(candidates=20), data)
    obs = [torch.rand(50, 3) for _ in range(2)]
    q = []
    for agents in (one, many):
        act = agents.policies.act(obs, generator=torch.Generator().manual_seed(0))
        q.append(one.critics.q1(act, torch.stack(obs)).mean((1, 2)))
    assert bool((q[1] > q[0]).all())


def test_prey_is_left_out_and_widths_must_agree():
    data = dataset(obs_dims=(4, 4, 3))
    assert DOM2(small(), data).num_agents == 2
    assert DOM2(small(agents=1), data).num_agents == 1
    with pytest.raises(Dom2Error, match=r"widths \[4, 4, 3\]"):
        DOM2(small(agents=3), data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eta": -1.0}, "eta must be >= 0"),
        ({"gamma": 1.5}, r"gamma must be in \[0, 1\]"),
        ({"lr": 0.0}, "lr must be > 0"),
        ({"lr": float("nan")}, "lr must be > 0"),
        ({"batch_size": 0}, "batch_size must be >= 1"),
        ({"network": "transformer"}, "network must be one of mlp, unet"),
        ({"backend": "tpu"}, "backend must be one of"),
        ({"weights": "best"}, "accepted: preset"),
        ({"solver": "euler"}, "euler"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(Dom2Error, match=message):
        DOM2(small(**change), dataset())


def test_every_setting_says_what_it_is_and_where_it_comes_from():
    for field in dataclasses.fields(DOM2Config):
        assert field.metadata["help"], field.name
        assert "source" in field.metadata, field.name
    again = configs.from_dict(DOM2Config, configs.to_dict(small(eta=3.0)))
    assert again == small(eta=3.0)
