"""Policies: schedules, solvers, the diffusion policy, and a policy as one immutable file."""
