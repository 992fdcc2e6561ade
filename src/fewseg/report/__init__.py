"""The page of a benchmark: one self-contained ``report.html``, made from what is on disk."""

from fewseg.report.page import build_report

__all__ = ["build_report"]
