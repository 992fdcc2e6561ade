"""What a benchmark leaves on disk, and the tables made from it. Nothing here imports torch.

Everything can be computed again from ``episodes.parquet`` without a GPU. ``files`` holds rows and metrics,
``leaderboard`` and ``compare`` sum them up with intervals, ``tables`` and ``summary`` write them down.
"""

from fewseg.results.compare import Comparison, compare, comparisons, reference_of
from fewseg.results.files import (
    amount,
    atomic,
    collect,
    content_id,
    finish_run,
    is_done,
    read_metrics,
    read_plan,
    read_rows,
    write_json,
    write_rows,
    write_text,
)
from fewseg.results.leaderboard import FIGURES, ClickCurve, Line, leaderboard, of_instances, of_videos
from fewseg.results.summary import summarise
from fewseg.results.tables import (
    CLICKED,
    INSTANCES,
    VIDEO,
    cells,
    compared_in_words,
    comparison_cells,
    comparison_table,
    explained,
    figure_text,
    in_words,
    markdown,
    points,
    table,
    training_notes,
)

__all__ = [
    "CLICKED",
    "FIGURES",
    "INSTANCES",
    "VIDEO",
    "ClickCurve",
    "Comparison",
    "Line",
    "amount",
    "atomic",
    "cells",
    "collect",
    "compare",
    "compared_in_words",
    "comparison_cells",
    "comparison_table",
    "comparisons",
    "content_id",
    "explained",
    "figure_text",
    "finish_run",
    "in_words",
    "is_done",
    "leaderboard",
    "markdown",
    "of_instances",
    "of_videos",
    "points",
    "read_metrics",
    "read_plan",
    "read_rows",
    "reference_of",
    "summarise",
    "table",
    "training_notes",
    "write_json",
    "write_rows",
    "write_text",
]
