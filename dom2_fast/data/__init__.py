"""Offline data: trajectories from any known format, their reweighting, and batches of them."""

from dom2_fast.data.tools import convert, inspect, open

__all__ = ["convert", "inspect", "open"]
