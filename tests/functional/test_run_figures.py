"""The figures of queries that do not show their class."""

import pandas as pd
import pytest

from fewseg.episode import Row
from fewseg.functional.run_figures import score
from fewseg.results import read_rows, write_rows

NAMES, CLASSES = ("cat", "dog"), (1, 2)
PRESENCE = {"miou_present", "false_alarm", "false_alarm_area", "presence_accuracy"}
SHOWN = [
    Row(0, "a", "s", 1, tp=6, fp=2, fn=2, tn=10),  # IoU 0.6
    Row(2, "b", "s", 2, tp=0, fp=0, fn=5, tn=15),  # missed
]
ABSENT = [
    Row(1, "c", "s", 1, tp=0, fp=5, fn=0, tn=15, present=False),  # a quarter
    Row(3, "d", "s", 2, tp=0, fp=0, fn=0, tn=20, present=False),
    Row(4, "e", "s", 1, tp=0, fp=1, fn=0, tn=9, present=False),  # a tenth
]


def test_presence_by_hand():
    figures = score(pd.DataFrame(SHOWN + ABSENT), NAMES, CLASSES)
    assert figures["miou"] == pytest.approx((6 / 16 + 0) / 2)  # what is found where nothing is counts in the union
    assert figures["per_class_iou"] == pytest.approx({"cat": 6 / 16, "dog": 0})
    assert figures["miou_present"] == pytest.approx((6 / 10 + 0) / 2)
    assert figures["false_alarm"] == pytest.approx(2 / 3)
    assert figures["false_alarm_area"] == pytest.approx((5 / 20 + 0 + 1 / 10) / 3)
    assert figures["presence_accuracy"] == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert figures["n_episodes"] == 5


def test_queries_that_all_show_their_class_have_no_such_figure():
    figures = score(pd.DataFrame(SHOWN), NAMES, CLASSES)
    assert not PRESENCE & set(figures)
    assert figures["miou"] == pytest.approx(0.3)


def test_queries_that_all_lack_their_class():
    figures = score(pd.DataFrame(ABSENT), NAMES, CLASSES)
    assert PRESENCE & set(figures) == {"false_alarm", "false_alarm_area"}


@pytest.mark.parametrize(("pixels", "alarm"), [(0, 0.0), (20, 1.0)])
def test_an_answer_that_is_always_the_same_knows_nothing_of_presence(pixels, alarm):
    rows = [Row(i, f"q{i}", "s", 1, tp=0, fp=pixels, fn=0, tn=20 - pixels, present=i > 2) for i in range(9)]
    figures = score(pd.DataFrame(rows), NAMES, CLASSES)
    assert (figures["presence_accuracy"], figures["false_alarm"], figures["false_alarm_area"]) == (0.5, alarm, alarm)


def test_an_image_of_void_alone_is_no_alarm():
    inside = Row(0, "a", "s", 1, tp=6, fp=0, fn=2, tn=10)  # found without a wrong pixel
    figures = score(pd.DataFrame([inside, Row(1, "c", "s", 1, 0, 0, 0, 0, present=False)]), NAMES, CLASSES)
    assert (figures["false_alarm"], figures["false_alarm_area"], figures["presence_accuracy"]) == (0.0, 0.0, 1.0)


def test_files_keep_what_is_needed(tmp_path):
    write_rows(tmp_path / "episodes.parquet", SHOWN + ABSENT)
    again = read_rows(tmp_path / "episodes.parquet")
    assert score(again, NAMES, CLASSES) == score(pd.DataFrame(SHOWN + ABSENT), NAMES, CLASSES)


def test_presence_is_that_of_all_runs_of_a_list_together():
    rows = [row._replace(episode=i) for i, row in enumerate([*SHOWN, *ABSENT, ABSENT[1]])]
    figures = score(pd.DataFrame(rows), NAMES, CLASSES, repeats=2)
    assert figures["false_alarm"] == pytest.approx(2 / 4)
    assert figures["miou_present"] == pytest.approx(0.3)
