import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from fake_benchmark import QUALITY, add_pictures, fake_run

from fewseg.report import build_report
from fewseg.report.figures import styles
from fewseg.results import write_text


class Page(HTMLParser):
    """Tags with attributes, heads of the table, and the text outside scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.skip = self.in_cell = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.skip = tag in ("script", "style")
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag):
        self.skip = False
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data):
        if not self.skip:
            self.text += data
            if self.in_cell:
                self.rows[-1][-1] += data

    def column(self, head: str) -> list[str]:
        return [row[self.rows[0].index(head)].strip() for row in self.rows[1:]]


@pytest.fixture
def benchmark(tmp_path):
    """Three methods, four folds, three amounts of annotation, two of images."""
    out = tmp_path / "shapes"
    for config in QUALITY:
        for fold in range(4):
            for n_points in (1, 5, None):
                run = fake_run(out, config, fold, n_points=n_points)
            fake_run(out, config, fold, n_shot=5)
            if fold == 0:
                add_pictures(run)
    write_text(out / "benchmark.yaml", "models: [guided, panet, fgbg]\nfolds: [0, 1, 2, 3]\n")
    return out


def page(out) -> Page:
    return Page(build_report(out).read_text(encoding="utf-8"))


def test_whole_report(benchmark):
    found = page(benchmark)
    assert len(found.rows) == 1 + 12
    assert set(found.column("method")) == {"guided (GuidedNet)", "panet (PANet)", "fgbg (FgBg)"}
    assert all(
        re.fullmatch(r"0\.\d{3}", value) for head in ("mIoU", "fold 3", "FB-IoU") for value in found.column(head)
    )
    assert all(re.fullmatch(r"0\.\d{3} to 0\.\d{3}", value) for value in found.column("95 % interval"))
    for section in (
        "Leaderboard",
        "Accuracy against annotated pixels",
        "Accuracy against annotated images",
        "Accuracy per class",
        "Learning curves: mIoU",
        "Learning curves: loss",
        "Best, median and worst episodes",
        "How to regenerate",
    ):
        assert section in found.text
    assert "Best at K = 5, P = dense: guided, mIoU 0." in found.text
    assert "fewseg 0.1.0, torch 2.15.0" in found.text
    assert "benchmark.yaml --out" in found.text
    assert "Read with care" not in found.text
    assert sum(tag == "img" for tag, _ in found.tags) == 3 * 5
    assert (benchmark / "report.html").stat().st_size < 10e6


def test_nothing_is_fetched(benchmark):
    for tag, attributes in page(benchmark).tags:
        for name in ("src", "href", "srcset", "action", "data"):
            assert (attributes.get(name) or "data:").startswith("data:"), tag
    assert "@import" not in (benchmark / "report.html").read_text(encoding="utf-8").split("</style>")[0]


def test_the_same_folder_gives_the_same_page(benchmark):
    first = build_report(benchmark).read_bytes()
    assert build_report(benchmark).read_bytes() == first


def test_names_are_escaped(tmp_path):
    nasty = '</script><script>alert("1")</script>'
    run = fake_run(tmp_path, nasty, 0, per_class_iou={nasty: 0.5}, device=nasty)
    add_pictures(run, class_name=nasty)
    write_text(tmp_path / "benchmark.yaml", nasty)
    text = build_report(tmp_path).read_text(encoding="utf-8")
    assert nasty not in text
    assert 'alert("1")' not in text
    assert nasty in Page(text).column("method")[0]


def test_a_partial_benchmark_is_labelled(tmp_path):
    for fold in (0, 2):
        fake_run(tmp_path, "guided", fold)
    found = page(tmp_path)
    assert "Read with care: partial (folds 0, 2 of 4)." in found.text
    assert found.column("note") == ["partial (folds 0, 2 of 4)"]


def test_different_episode_lists_are_named(tmp_path):
    fake_run(tmp_path, "guided", 0)
    fake_run(tmp_path, "panet", 0, episode_list_sha256="other")
    assert "scored on different episode lists" in page(tmp_path).text


def test_sections_without_data_are_absent(tmp_path):
    run = fake_run(tmp_path, "guided", 0, training=None)
    found = page(tmp_path)
    for section in ("Accuracy against", "Learning curves", "Best, median", "Read with care: methods"):
        assert section not in found.text
    assert "Accuracy per class" in found.text
    assert "fewseg benchmark" not in found.text
    assert run.is_dir()


def test_an_empty_benchmark_has_a_small_page(tmp_path):
    assert "No finished run" in page(tmp_path).text
    assert (tmp_path / "report.html").stat().st_size < 20_000


def test_runs_without_miou_are_listed(tmp_path):
    run = fake_run(tmp_path, "osvos", 0, task="video", j_mean=0.61)
    metrics = json.loads((run / "metrics.json").read_text())
    for name in ("miou", "ci95", "fb_iou", "positive_iou", "per_class_iou"):
        del metrics[name]
    (run / "metrics.json").write_text(json.dumps(metrics))
    assert page(tmp_path).column("J") == ["0.610"]


def test_pictures_stay_in_their_folder_and_within_the_budget(tmp_path, monkeypatch):
    run = fake_run(tmp_path, "guided", 0)
    add_pictures(run)
    index = run / "pictures" / "index.json"
    (tmp_path / "secret.png").write_bytes(b"secret")
    entries = json.loads(index.read_text())
    index.write_text(json.dumps([*entries, {**entries[0], "file": "../../secret.png"}]))
    images = [attributes for tag, attributes in page(tmp_path).tags if tag == "img"]
    assert len(images) == 5
    assert images[0]["alt"] == "best: class1, IoU 0.930 (fold 0, K = 1, P = dense, query q0)"
    assert images[-2]["alt"].startswith("worst: class1, IoU 0.000")
    monkeypatch.setattr("fewseg.report.page._PICTURE_BYTES", 3 * (run / "pictures" / "best-0.png").stat().st_size + 60)
    found = page(tmp_path)
    assert [a["alt"].split(":")[0] for t, a in found.tags if t == "img"] == ["best", "median", "worst"]
    assert '2 more are in the "pictures" folders' in found.text


def test_one_colour_per_method_also_beyond_the_palette():
    found = styles([f"m{i}" for i in range(17)])
    assert len(set(found.values())) == 17
    assert len({style.colour for style in found.values()}) == 7


def test_planning_needs_no_torch():
    code = "import fewseg.results, fewseg.report, fewseg.functional.iou, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("value", ["", "nan"])
def test_gaps_in_a_learning_curve(tmp_path, value):
    fake_run(tmp_path, "guided", 0)
    (curve,) = tmp_path.glob("trainings/*/curve.csv")
    curve.write_text(f"step,miou\n0,0.1\n10,{value}\n20,0.3\n")
    found = page(tmp_path)
    assert "Learning curves: mIoU" in found.text
    assert "Learning curves: loss" not in found.text
