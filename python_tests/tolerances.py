"""Every numeric tolerance of the tests, each derived once, beside its reason."""

import torch

EPS32 = torch.finfo(torch.float32).eps
EPS64 = torch.finfo(torch.float64).eps

# A correct sampler fails a chi-squared test at this level once in 10,000 seeds; the seeds are fixed.
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

# Replaying float32 data: 5 steps of a few roundings of coordinates up to 4, without a contact.
REPLAY32 = 128 * EPS32
