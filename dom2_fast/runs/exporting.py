"""A run's policies as one file that acts without this package."""

from __future__ import annotations

from dom2_fast.runs.acting import policies_of


def export_run(run, path, checkpoint: str = "last"):
    """Writes the policies that a run's last or best checkpoint acts with to one file.

    Returns: these policies.
    Raises: Dom2Error: see `policies_of` and `policies.export`.
    """
    policies = policies_of(run, checkpoint).policies
    policies.export(path)
    return policies
