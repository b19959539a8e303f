"""Trained networks in a browser: a report of runs as one file, and a page to try a network on."""

from kanvolution.pages.report import ReportedRun, write_report

__all__ = ["ReportedRun", "write_report"]
