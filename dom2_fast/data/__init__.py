"""Offline data: trajectories from any known format, their reweighting, and batches of them."""

from dom2_fast.data.data_card import card
from dom2_fast.data.tools import convert, inspect, open

__all__ = ["card", "convert", "inspect", "open"]
