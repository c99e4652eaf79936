"""Fixtures of the algorithms' tests."""

import pytest
import torch


@pytest.fixture
def in_float64():
    """Networks and batches are float64, which the reference backend takes."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
