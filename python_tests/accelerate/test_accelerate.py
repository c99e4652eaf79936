"""accelerate on Diffusion-QL's diffusions and agents, against plain loops that it never sees."""

import copy
import pickle

import pytest
import tolerances
import torch
from accelerate_problems import F32, F64, close, diffusion, draws, native, refused, snapshot
from foreign import (
    OBS,
    A,
    QLAgent,
    QLNet,
    QLPolicy,
    ql_betas,
    rand,
)

from dom2_fast import compat, ops
from dom2_fast.accelerate import accelerate
from dom2_fast.errors import Dom2Error

# ---- Diffusion-QL --------------------------------------------------------------------------------

KINDS = [
    {"n": 5},
    {"n": 20, "max_action": 0.4},
    {"n": 5, "clip_denoised": False},
    {"n": 5, "predict_epsilon": False},
]


@pytest.mark.parametrize("kind", KINDS, ids=repr)
@pytest.mark.parametrize("dtype", [F64, pytest.param(F32, marks=native)])
def test_a_diffusion_samples_as_its_own_loop_does(kind, dtype):
    d = diffusion(dtype=dtype, **kind)
    fast = accelerate(d, backend="reference" if dtype == F64 else "native")
    state, x_T, noise = draws(d.n_timesteps, dtype=dtype)
    exact = copy.deepcopy(d).double()
    want, _ = exact.walk(state.double(), x_T.double(), noise.double())
    want = want.clamp(-d.max_action, d.max_action)
    assert (want.abs() < d.max_action).any()  # else nothing is compared
    got = fast.sample(state, x_T=x_T, noise=noise)
    close(got, want)
    assert torch.equal(fast(state, x_T=x_T, noise=noise), got)
    if d.clip_denoised:
        assert torch.equal(fast.p_sample_loop(state, (7, A), x_T=x_T, noise=noise), got)


@pytest.mark.parametrize("kind", KINDS, ids=repr)
@pytest.mark.parametrize("dtype", [F64, pytest.param(F32, marks=native)])
def test_gradients_are_those_of_its_own_loop(kind, dtype):
    d = diffusion(dtype=dtype, **kind)
    fast = accelerate(d, backend="reference" if dtype == F64 else "native")
    exact = copy.deepcopy(d).double()
    state, x_T, noise = draws(d.n_timesteps, dtype=dtype)
    state.requires_grad_()
    exact_state = state.detach().double().requires_grad_()
    fast.sample(state, x_T=x_T, noise=noise).square().sum().backward()
    want, _ = exact.walk(exact_state, x_T.double(), noise.double())
    want.clamp(-d.max_action, d.max_action).square().sum().backward()
    close(state.grad, exact_state.grad)
    for p, q in zip(d.parameters(), exact.parameters(), strict=True):  # the original has them
        assert q.grad.norm() > 0
        close(p.grad, q.grad)


def test_the_losses_and_their_gradients_are_the_originals_draw_for_draw():
    d = diffusion(dtype=F64)
    fast = accelerate(copy.deepcopy(d), backend="reference")
    x, state, _ = rand(9, A).tanh(), rand(9, OBS, seed=1), None
    weights = rand(9, 1, seed=2).exp()
    results = []
    for one in (d, fast):
        torch.manual_seed(5)
        loss = one.loss(x, state, weights)
        loss.backward()
        results.append((loss.detach(), [p.grad for p in one.parameters()], torch.rand(())))
    (a, a_grads, a_next), (b, b_grads, b_next) = results
    close(b, a)
    assert torch.equal(a_next, b_next)
    for g, w in zip(b_grads, a_grads, strict=True):
        close(g, w)


def test_it_behaves_as_the_original():
    d = diffusion()
    fast = accelerate(d)
    assert isinstance(fast, QLPolicy)
    assert list(fast.state_dict()) == list(d.state_dict())
    assert [id(p) for p in fast.parameters()] == [id(p) for p in d.parameters()]
    state, x_T, noise = draws(5)
    _, path = fast.sample(state, return_diffusion=True)
    assert path.shape == (7, 6, A)
    one = fast.step(x_T, 4, state, noise[0])
    assert torch.equal(one, d.step(x_T, 4, state, noise[0]))


@native
def test_a_sample_is_one_op_call_and_no_call_of_the_network(monkeypatch):
    d = diffusion()
    fast = accelerate(d)
    calls = []
    denoise = ops.denoise
    monkeypatch.setattr(ops, "denoise", lambda *a, **k: calls.append(1) or denoise(*a, **k))
    monkeypatch.setattr(QLNet, "forward", lambda *a: pytest.fail("the network was called"))
    fast.sample(rand(3, OBS, dtype=F32))
    assert calls == [1]


def test_training_the_accelerated_trains_the_original():
    d = diffusion()
    fast = accelerate(d)
    state, x_T, noise = draws(5)
    before = d.walk(state, x_T, noise)[0].detach()
    optimiser = torch.optim.SGD(fast.parameters(), lr=0.5)
    fast.loss(x_T.tanh(), state).backward()
    optimiser.step()
    after = d.walk(state, x_T, noise)[0].detach()
    assert (after - before).abs().max() > 1e-3
    close(fast.sample(state, x_T=x_T, noise=noise), after.clamp(-1, 1))


def test_another_checkpoint_brings_another_schedule():
    d = diffusion()
    fast = accelerate(d)
    state, x_T, noise = draws(5)
    first = fast.sample(state, x_T=x_T, noise=noise)
    other = QLPolicy(QLNet(), torch.full((5,), 0.3))
    fast.load_state_dict(other.state_dict())
    got = fast.sample(state, x_T=x_T, noise=noise)
    assert (got - first).abs().max() > 1e-3
    close(got, other.walk(state, x_T, noise)[0].clamp(-1, 1))


@pytest.mark.parametrize(
    "again", [copy.deepcopy, lambda v: pickle.loads(pickle.dumps(v))], ids=["deepcopy", "pickle"]
)
def test_copies_and_pickles_stand_alone(again):
    d = diffusion()
    fast = accelerate(d)
    state, x_T, noise = draws(5)
    want = fast.sample(state, x_T=x_T, noise=noise)
    other = again(fast)
    assert isinstance(other, QLPolicy)
    with torch.no_grad():
        for p in d.parameters():
            p.zero_()
    assert torch.equal(other.sample(state, x_T=x_T, noise=noise), want)
    assert not torch.equal(fast.sample(state, x_T=x_T, noise=noise), want)


def test_torchs_seed_governs():
    fast, state = accelerate(diffusion()), rand(3, OBS, dtype=F32)
    torch.manual_seed(1)
    a = fast.sample(state)
    torch.manual_seed(1)
    assert torch.equal(fast.sample(state), a)
    assert not torch.equal(fast.sample(state), a)


def test_the_draws_have_the_distribution_of_the_originals():
    d, state = diffusion(), rand(1, OBS, dtype=F32).repeat(4000, 1)
    torch.manual_seed(0)
    with torch.no_grad():
        a, b = d.sample(state), accelerate(d).sample(state)
    error = ((a.var(0) + b.var(0)) / 4000).sqrt()
    assert ((a.mean(0) - b.mean(0)).abs() <= tolerances.SIGMAS * error).all()
    # The standard error of a bounded variable's deviation is below its own / sqrt(n).
    assert ((a.std(0) - b.std(0)).abs() <= tolerances.SIGMAS * a.std(0) / 4000**0.5).all()


def test_another_solver_in_place_of_its_own():
    d = diffusion(20, F64)
    fast = accelerate(d, solver="dpm1", steps=4, backend="reference")
    state, x, _ = draws(20, dtype=F64)
    got = fast.sample(state, x_T=x)
    bar = d.alphas_cumprod
    for i, j in [(19, 13), (13, 6), (6, 0), (0, None)]:  # DDIM on four of twenty steps
        eps = d.model(x, torch.full((7,), i), state)
        x0 = ((x - (1 - bar[i]).sqrt() * eps) / bar[i].sqrt()).clamp(-1, 1)
        eps = (x - bar[i].sqrt() * x0) / (1 - bar[i]).sqrt()
        x = x0 if j is None else bar[j].sqrt() * x0 + (1 - bar[j]).sqrt() * eps
    close(got, x.clamp(-1, 1))
    with pytest.raises(Dom2Error, match="another solver's steps aren't returned"):
        fast.sample(state, return_diffusion=True)


class Regularised(QLPolicy):
    """A fork: a loss of more arguments."""

    def p_losses(self, x_start, state, t, weights=1.0, strength=2.0):
        return super().p_losses(x_start, state, t, weights) + strength * x_start.abs().mean()

    def loss(self, x, state, weights=1.0):
        return self.p_losses(x, state, torch.zeros(len(x), dtype=torch.long), weights, 3.0)


def test_a_fork_keeps_its_own_loss():
    torch.manual_seed(0)
    d = Regularised(QLNet(), ql_betas())
    fast = accelerate(d)
    _, x, _ = draws(5)
    losses = []
    for one in (d, fast):
        torch.manual_seed(5)
        losses.append(one.loss(x, rand(7, OBS, dtype=F32)))
    assert torch.equal(*losses)
    assert fast._own_loss and not accelerate(diffusion())._own_loss


class Smaller(QLPolicy):
    """A fork: noise of 0.9 times the size."""

    def step(self, x, i, state, z):
        return super().step(x, i, state, 0.9 * z)


class Evaluated(QLPolicy):
    """A fork: the second argument of sample turns the noise off."""

    def sample(self, state, eval=False, verbose=False):
        noise = 0.0 if eval else 1.0
        x = torch.randn(len(state), self.action_dim)
        z = torch.stack([noise * torch.randn_like(x) for _ in range(self.n_timesteps)])
        x = self.walk(state, x, z)[0]
        return x.clamp(-self.max_action, self.max_action)


def test_arguments_of_a_fork_are_refused_where_they_ask_for_something():
    torch.manual_seed(0)
    fast = accelerate(Evaluated(QLNet(), ql_betas()))
    state, x_T, noise = draws(5)
    want = fast.sample(state, x_T=x_T, noise=noise)
    for again in ({"eval": False}, {"verbose": True}, {"verbose": False, "eval": False}):
        assert torch.equal(fast.sample(state, **again, x_T=x_T, noise=noise), want)
    assert torch.equal(fast.sample(state, False, True, x_T=x_T, noise=noise), want)
    for args, kwargs in [((True,), {}), ((), {"eval": True})]:
        with pytest.raises(Dom2Error, match="eval is given, of which the native loop knows noth"):
            fast.sample(state, *args, **kwargs)
    plain = accelerate(diffusion())
    assert plain.sample(state, False, True)[1].shape == (7, 6, A)
    with pytest.raises(Dom2Error, match="got 3 arguments more"):
        plain.sample(state, False, True, None)


class Unsaid(QLPolicy):
    """A fork that doesn't say by an attribute what its network predicts."""

    def __init__(self, *args, clean):
        super().__init__(*args)
        del self.predict_epsilon
        self.clean = clean

    def step(self, x, i, state, z):
        self.predict_epsilon = not self.clean
        try:
            return super().step(x, i, state, z)
        finally:
            del self.predict_epsilon


@pytest.mark.parametrize("clean", [False, True])
def test_what_a_network_predicts_is_found_out_where_it_is_not_said(clean):
    torch.manual_seed(0)
    d = Unsaid(QLNet(), ql_betas(), clean=clean)
    fast = accelerate(d)
    state, x_T, noise = draws(5)
    want = d.walk(state, x_T, noise)[0].clamp(-1, 1)
    close(fast.sample(state, x_T=x_T, noise=noise), want)
    close(copy.deepcopy(fast).sample(state, x_T=x_T, noise=noise), want)


class Branching(QLNet):
    def forward(self, x, time, state):
        return super().forward(x, time, state) if x.sum() > 0 else x


WITHOUT = (
    "A Diffusion-QL diffusion has model(x, t, state), action_dim, max_action, n_timesteps and the "
    "buffers ['betas', 'sqrt_recip_alphas_cumprod', 'sqrt_recipm1_alphas_cumprod', "
    "'posterior_mean_coef1', 'posterior_mean_coef2', 'posterior_log_variance_clipped']"
)


def set_(name, value):
    def change(d):
        setattr(d, name, value)

    return change


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (set_("model", None), "its attribute model is no torch.nn.Module"),
        (set_("n_timesteps", 5.0), "its n_timesteps is 5.0, no whole number"),
        (set_("n_timesteps", 4), "betas is [5], not a tensor [4]"),
        (set_("posterior_mean_coef1", None), "posterior_mean_coef1 is NoneType, not a tensor [5]"),
        (set_("action_dim", None), "its action_dim is None, no whole number"),
        (
            set_("max_action", torch.ones(2)),
            "its max_action is not one number, the bound of every component",
        ),
        (set_("max_action", 0.0), "its max_action is 0.0, no bound"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_diffusions_that_lack_something_are_refused(change, why):
    d = diffusion()
    change(d)
    refused(d, f"can't accelerate QLPolicy: {why}. {WITHOUT}")


def test_other_refusals_of_diffusions():
    d = diffusion()
    d.state_dim = None
    refused(
        d,
        "can't accelerate QLPolicy: it has none of the attributes ['obs_dim', 'state_dim', "
        "'observation_dim', 'o_dim', 's_dim'] that say how wide that input is; give obs_dim=",
    )
    refused(
        diffusion(),
        "accelerate(QLPolicy) takes the options ['solver', 'steps', 'obs_dim', "
        "'backend', 'precision'], not ['schedule']",
        schedule="vp",
    )
    refused(
        diffusion(),
        "unknown backend 'gpu'; choose from ['auto', 'native', 'reference']",
        backend="gpu",
    )
    with pytest.raises(Dom2Error, match="6 steps asked of a schedule that has 5"):
        accelerate(diffusion(), steps=6)
    with pytest.raises(Dom2Error, match="Diffusion samples natively already; use it, or give sol"):
        accelerate(compat.diffusion_ql.Diffusion(OBS, A, QLNet(), 1.0))
    fast = accelerate(diffusion())
    refused(fast, "AcceleratedQLPolicy is accelerated already; use it as it is")
    for state, found in [(torch.zeros(5), "[5]"), (None, "NoneType")]:
        with pytest.raises(Dom2Error) as error:
            fast.sample(state)
        assert str(error.value) == f"state must be a tensor [B, 5], got {found}"


def test_forks_that_sample_otherwise_are_refused():
    torch.manual_seed(0)
    d = Smaller(QLNet(), ql_betas())
    before = snapshot(d)
    with pytest.raises(Dom2Error) as error:
        accelerate(d)
    assert snapshot(d) == before
    head, _, tail = str(error.value).partition(" differ by ")
    assert head == "can't accelerate Smaller: on a trial its samples"
    assert tail.partition(" ")[2] == (
        "from what its attributes say; give solver= and steps= to sample it by a solver of this "
        "package instead"
    )
    accelerate(d, solver="dpm1", steps=3)


def test_networks_that_cannot_be_lowered_are_refused():
    d = QLPolicy(Branching(), ql_betas())
    before = snapshot(d)
    with pytest.raises(Dom2Error) as error:
        accelerate(d)
    assert snapshot(d) == before
    assert str(error.value).startswith(
        "can't accelerate QLPolicy: its network can't be lowered: can't trace Branching: "
    )
    assert str(error.value).endswith(
        "Its forward must be a straight line of tensor operations, the same for every input"
    )


# ---- agents --------------------------------------------------------------------------------------


def test_an_agent_keeps_its_methods_and_shares_its_networks():
    torch.manual_seed(0)
    agent = QLAgent(ql_betas())
    fast = accelerate(agent)
    assert isinstance(fast, QLAgent) and type(agent.actor) is QLPolicy
    assert fast.critic is agent.critic and fast.actor_optimizer is agent.actor_optimizer
    assert fast.actor is not fast.ema_model
    before = copy.deepcopy(agent)
    state = rand(6, OBS, dtype=F32)
    fast.train(state, rand(6, A, seed=1, dtype=F32).tanh())
    for name in ("actor", "ema_model"):
        moved = [
            (p - q).abs().max().item()
            for p, q in zip(
                getattr(agent, name).parameters(), getattr(before, name).parameters(), strict=True
            )
        ]
        assert min(moved) > 0.0, name
    _, x_T, noise = draws(5, 6)
    for one in (agent.actor, agent.ema_model):
        twin = fast.actor if one is agent.actor else fast.ema_model
        want = one.walk(state, x_T, noise)[0].clamp(-1, 1)
        close(twin.sample(state, x_T=x_T, noise=noise), want)
    assert fast.sample_action(state[0].numpy()).shape == (A,)


def test_an_agent_that_is_a_module():
    class Agent(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.actor = diffusion()
            self.alone = torch.nn.Linear(2, 2)

    agent = Agent()
    fast = accelerate(agent)
    assert type(agent.actor) is QLPolicy and fast.actor is fast.get_submodule("actor")
    assert list(fast.state_dict()) == list(agent.state_dict())
    assert [id(p) for p in fast.parameters()] == [id(p) for p in agent.parameters()]
    state, x_T, noise = draws(5)
    want = agent.actor.walk(state, x_T, noise)[0].clamp(-1, 1)
    close(fast.actor.sample(state, x_T=x_T, noise=noise), want)


def test_target_networks_that_are_written_through_data_are_noticed():
    torch.manual_seed(0)
    fast = accelerate(QLAgent(ql_betas()))
    state, x_T, noise = draws(5)
    with torch.no_grad():
        for _ in range(3):  # enough for the parameters to be kept between calls
            first = fast.ema_model.sample(state, x_T=x_T, noise=noise)
        for p in fast.ema_model.parameters():
            p.data = 0.5 * p.data
        got = fast.ema_model.sample(state, x_T=x_T, noise=noise)
        want = fast.ema_model.walk(state, x_T, noise)[0].clamp(-1, 1)
    assert (got - first).abs().max() > 1e-3
    close(got, want)


def test_refusals_of_agents_name_the_attribute():
    agent = QLAgent(ql_betas())
    agent.actor.max_action = 0.0
    why = "can't accelerate QLPolicy: its max_action is 0.0, no bound"
    refused(agent, f"QLAgent.actor: {why}. {WITHOUT}")


# ---- anything else -------------------------------------------------------------------------------

ACCEPTED = (
    "accepted are a torch.nn.Module that is called net(x, t, obs); a Diffusion of Diffusion-QL's "
    "kind (betas, p_sample_loop) or an agent that holds one; an SfBC score network "
    "(marginal_prob_std, dpm_solver); a DPM_Solver (noise_schedule, model)"
)


def test_everything_else_is_refused():
    for obj, name in [(3, "a int"), (QLPolicy, "the class QLPolicy"), (object(), "a object")]:
        with pytest.raises(Dom2Error) as error:
            accelerate(obj)
        assert str(error.value) == f"can't accelerate {name}; {ACCEPTED}"


def replaced(d):
    d.model = QLNet()


CHANGES = {
    "a bound": lambda d: setattr(d, "max_action", 0.3),
    "a switch": lambda d: setattr(d, "clip_denoised", False),
    "a buffer in place": lambda d: d.posterior_mean_coef1.mul_(0.5),
    "a buffer": lambda d: setattr(d, "posterior_mean_coef2", d.posterior_mean_coef2 * 0.5),
    "a parameter": lambda d: next(d.model.parameters()).mul_(1.5),
    "the network": replaced,
}


@native
@torch.no_grad()
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_short_way_for_a_few_rows_sees_every_change(change):
    def sample(d, seed=1):
        return d.sample(state, generator=torch.Generator().manual_seed(seed))

    fast, state = accelerate(diffusion(), backend="native"), rand(2, OBS, dtype=F32)
    torch.manual_seed(3)
    before = [sample(fast) for _ in range(4)][-1]  # laid out, and the short way taken
    assert fast.__dict__["_fast"][0]._kept.actor is not None
    same = [copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))]
    torch.manual_seed(3)
    change(fast)
    after = sample(fast)
    assert not torch.equal(before, after)
    assert all(torch.equal(sample(d), before) for d in same)
    anew = copy.deepcopy(fast)  # without anything that was kept
    anew.__dict__.pop("_fast")
    assert torch.equal(sample(anew), after)
