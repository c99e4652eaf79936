"""Activations element by element: exact values, and how far a float32 kernel may be from them."""

import torch
import torch.nn.functional as F
from tolerances import ACTIVATION_ULPS, DERIVATIVE_ULPS, EPS32, TINY32

from dom2_fast.ops.program import Act

EXACT = {
    Act.MISH: F.mish, Act.SILU: F.silu, Act.RELU: F.relu, Act.GELU: F.gelu,
    Act.GELU_TANH: lambda v: F.gelu(v, approximate="tanh"), Act.TANH: torch.tanh,
    Act.SOFTPLUS: F.softplus, Act.NONE: lambda v: v, Act.SIGMOID: torch.sigmoid,
    Act.LEAKY_RELU: F.leaky_relu, Act.ELU: F.elu,
}  # fmt: skip


def stable(act, v):
    """float64 values without the cancellation that PyTorch's own formulas have far out."""
    if act is Act.GELU:
        return v * 0.5 * torch.special.erfc(-v * 0.5**0.5)
    if act is Act.GELU_TANH:
        return v * torch.sigmoid(2 * (2 / torch.pi) ** 0.5 * (v + 0.044715 * v**3))
    if act is Act.SOFTPLUS:
        return torch.logaddexp(v, torch.zeros_like(v))
    if act is Act.MISH:
        w = torch.exp(-v.abs())  # tanh(softplus(v)) = (w^2 + 2 w) / (w^2 + 2 w + 2), w = e^v
        n = torch.where(v < 0, w * (w + 2), 1 + 2 * w)
        return v * n / (n + torch.where(v < 0, torch.full_like(w, 2.0), 2 * w * w))
    return EXACT[act](v)


def all_magnitudes():
    """Floats of every exponent, both signs, and a fine grid where activations bend."""
    bits = torch.arange(0, 0x7F7FFFFF, 9973, dtype=torch.int64).to(torch.int32)
    far = bits.view(torch.float32)
    near = torch.linspace(-30, 30, 120_001)
    return torch.cat([far, -far, near])


def value_and_limit(act, x):
    """float64 values of float32 x [N], and each one's largest error."""
    exact = stable(act, x.double())
    # exp(-a) of an argument that carries roundings itself: a ulps per rounding of a. Here a is
    # x^2 / 2 with 1.5 ulps, and 2 u = 1.6 x + 0.072 x^3 with 2.
    steep = {
        Act.GELU: 0.75 * x.double() ** 2,
        Act.GELU_TANH: 2 * (0.072 * x.double().abs() ** 3 + 1.6 * x.abs()),
    }
    grow = steep.get(act, torch.zeros_like(exact)).clamp(max=1e4)
    return exact, (ACTIVATION_ULPS + grow) * (exact.abs() * EPS32) + 128 * TINY32


def slope_and_limit(act, x):
    """The same of the derivative; the error is unlimited where float64 has none."""
    x64 = x.double().requires_grad_()
    (slope,) = torch.autograd.grad(stable(act, x64).sum(), x64)
    limit = DERIVATIVE_ULPS * EPS32 * slope.abs().clamp(min=1)
    wild = ~slope.isfinite()
    if act is Act.RELU:
        wild |= x == 0
    return slope, limit.masked_fill(wild, torch.inf)
