"""Every numeric tolerance of the tests, each derived once, beside its reason."""

import torch

EPS32 = torch.finfo(torch.float32).eps
EPS64 = torch.finfo(torch.float64).eps
