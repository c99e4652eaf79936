"""The report: one self-contained HTML file about one or more runs. Opens without a network."""

from dom2_fast.report.page import write_report

__all__ = ["write_report"]
