"""Runs: training into a folder, scoring, logs."""
