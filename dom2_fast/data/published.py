"""What others say of the public data sets, for a data card to stand beside."""

from __future__ import annotations

SOURCE = (
    "OMAR's files of one seed, from OG-MARL's data card (docs/dataset_cards/omar.md, read "
    "second-hand)"
)
_KEYS = ("mean", "sd", "min", "max", "transitions", "trajectories")
_OMAR = {
    ("simple_spread", "random"): (159.57, 60.46, -5.43, 510.05, 1_000_000, 40_000),
    ("simple_spread", "medium-replay"): (203.74, 80.49, 35.69, 582.09, 97_500, 3_900),
    ("simple_spread", "medium"): (273.39, 92.06, 27.35, 649.51, 1_000_000, 40_000),
    ("simple_spread", "expert"): (530.95, 71.41, 54.96, 743.89, 1_000_000, 40_000),
    ("simple_tag", "random"): (-4.13, 10.81, -20.18, 117.09, 1_000_000, 40_000),
    ("simple_tag", "medium-replay"): (3.90, 20.28, -17.11, 146.12, 62_500, 2_500),
    ("simple_tag", "medium"): (116.36, 58.86, -12.66, 418.25, 1_000_000, 40_000),
    ("simple_tag", "expert"): (207.90, 77.51, -16.04, 549.20, 1_000_000, 40_000),
    ("simple_world", "random"): (-6.83, 5.74, -17.81, 54.41, 1_000_000, 40_000),
    ("simple_world", "medium-replay"): (1.23, 13.49, -17.56, 112.90, 80_000, 3_200),
    ("simple_world", "medium"): (65.86, 29.55, -9.15, 198.82, 1_000_000, 40_000),
    ("simple_world", "expert"): (85.21, 31.11, -11.55, 238.70, 1_000_000, 40_000),
    ("HalfCheetah-v2", "random"): (-282.89, 77.50, -516.90, -62.62, 1_000_000, 1_000),
    ("HalfCheetah-v2", "medium-replay"): (423.49, 655.68, -509.10, 1993.00, 460_000, 460),
    ("HalfCheetah-v2", "medium"): (1568.87, 273.38, 20.49, 1904.56, 1_000_000, 1_000),
    ("HalfCheetah-v2", "expert"): (3338.69, 252.58, 852.45, 3605.42, 1_000_000, 1_000),
}


def card(task: str | None, quality: str | None) -> dict | None:
    """The public data set of that name: mean, sd, min and max of its scores, transitions,
    trajectories and source; None where there is none."""
    numbers = _OMAR.get((task, quality))
    if numbers is None:
        return None
    return {**dict(zip(_KEYS, numbers, strict=True)), "source": SOURCE}
