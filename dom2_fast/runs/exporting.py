"""A run's policies as one file that acts without this package."""

from __future__ import annotations

from dom2_fast.runs.acting import policies_of


def export_run(run, path):
    """Writes the policies that a run's latest checkpoint acts with to one file.

    Returns: these policies.
    Raises: Dom2Error: see `checkpoint.load` and `policies.export`.
    """
    policies = policies_of(run).policies
    policies.export(path)
    return policies
