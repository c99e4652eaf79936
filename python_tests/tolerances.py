"""Every numeric tolerance of the tests, each derived once, beside its reason."""

import torch

EPS32 = torch.finfo(torch.float32).eps
EPS64 = torch.finfo(torch.float64).eps

# A correct sampler fails a chi-squared test at this level once in 10,000 seeds; seeds are fixed.
CHI2_P = 1e-4

# Required of the environments. Rounding (2e-16) grows by up to 1 / contact margin = 1e3 per
# contact; measured 1e-12.
RECORDED_EPISODE = 1e-9
# Statistical tests compare within three standard errors; their seeds are fixed: they don't flake.
SIGMAS = 3
# Three layers of at most 64 terms of order 1, each term and sum rounded once: 3 * 2 * 64 * eps.
NETWORK32 = 384 * EPS32
NETWORK64 = 384 * EPS64

# Percentile ends from 9,999 resamples scatter by sqrt(.025 * .975 / 9999) / density = 0.7 % of the
# interval's width; 2,000 normal draws add skewness of about the same size. 5 % is 5 such errors.
BOOTSTRAP = 0.05

# The same formula in float64 with its terms in another order: a few hundred roundings of values
# near 1, where DPM-Solver's 1 / alpha_1 = 150 magnifies the first of them.
SAME_FORMULA_64 = {"rtol": 1e5 * EPS64, "atol": 1e5 * EPS64}

# Required of float32 samples. The start and obs are the same float32 numbers on both sides; what is
# left is the network's rounding (1e-7), magnified by 1 / alpha_1 = 150 at most.
DPM1_32 = 1e-5

# Required of accelerated samples and gradients, as a whole (relative_error), against a plain loop
# in float64 from the same float32 numbers. Rounding of the network (1e-7) is magnified by 150,
# 1 / alpha_1, at most; but where nothing clips, so are the samples. Measured 2e-6 at most.
ACCELERATED_32 = 1e-5

# What a checkpoint of an older version acts and how it goes on training, kept as numbers: another
# instruction set rounds the network otherwise (NETWORK32), which 1 / alpha_1 = 150 magnifies; and
# where a gradient is zero but for rounding, a step of Adam goes either way: of the 1,000 parameters
# two steps of lr = 0.002 move a loss near 1 by 0.004 at most. The same instruction set: equal.
OLD_ACT_32 = 150 * NETWORK32
OLD_RUN_32 = {"rel": 4e-3, "abs": 4e-3}

# Diffusion-QL's buffers are float32 from float32 betas: 1 - alphas_cumprod of the first step keeps
# eps / beta_0 of its digits, 1.2e-7 / 1e-4 in the linear schedule, and the products of n steps n
# roundings, which at the noisy end of 100 steps is 100 * 1.2e-7.
DISCRETE_BUFFER_32 = {"rtol": 2e-3, "atol": 100 * EPS32}

# Replaying float32 data: 5 steps of a few roundings of coordinates up to 4, without a contact.
REPLAY32 = 128 * EPS32

# Kernels against the float64 reference: at most twice the error that PyTorch's own float32 path
# makes on the same problem, or, where that is tiny, a few roundings of the result's size.
KERNEL_FACTOR = 2.0
KERNEL_FLOOR = 16 * EPS32

# Losses in bf16, value and gradients as a whole, against the same of other kernels: both round the
# same operands, and what float32 sums differ by turns some bf16 roundings the other way: less than
# one of them, 2^-8, all in all.
LOSS_BF16 = 2**-8

# Activations element by element: |error| <= ulps * (one ulp of the float64 value) + floor. The
# floor is the smallest normal float32: results below it may be flushed to zero.
ACTIVATION_ULPS = 4.0
# act'(z) adds terms of opposite sign near its zeros, so it is measured against max(|act'|, 1).
DERIVATIVE_ULPS = 6.0
TINY32 = torch.finfo(torch.float32).tiny


def relative_error(value: torch.Tensor, exact: torch.Tensor) -> float:
    """Euclidean norm of the difference over that of `exact` (alone where exact is 0)."""
    difference = (value.double() - exact.double()).norm().item()
    size = exact.double().norm().item()
    return difference / size if size > 0 else difference


def assert_as_good_as_torch(native, torch32, exact, what: str = "") -> None:
    """The kernels' tolerance rule, see KERNEL_FACTOR."""
    assert native.shape == exact.shape, f"{what}: shape {native.shape}, expected {exact.shape}"
    error, own = relative_error(native, exact), relative_error(torch32, exact)
    limit = KERNEL_FACTOR * own + KERNEL_FLOOR
    assert error <= limit, f"{what}: error {error:.2e}, PyTorch's own {own:.2e}, limit {limit:.2e}"
