import dataclasses
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from fake_benchmark import QUALITY, VIDEOS, add_films, add_pictures, fake_clicks, fake_run, fake_video

from fewseg.functional.ranking import Rank
from fewseg.report import build_report, cells
from fewseg.report.album import encoded
from fewseg.report.boards import class_table
from fewseg.report.figures import (
    accuracy_against_time,
    against_clicks,
    against_seconds,
    against_shots,
    annotation_surfaces,
    forest,
    guidance_spread,
    leaders,
    per_class,
    placed,
    positive_against_points,
    styles,
)
from fewseg.results import Comparison, Line, collect, comparisons, leaderboard, read_board, ties, write_json, write_text


class Page(HTMLParser):
    """Tags with attributes, tables, the text outside scripts, and what the script of the gallery reads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.trivial: list[list[str]] = []
        self.text = self.data = ""
        self.skip = self.in_cell = self.in_data = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.skip = tag in ("script", "style")
        self.in_data = dict(attrs).get("id") == "gallery-data"
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
            if "trivial" in (dict(attrs).get("class") or "").split():
                self.trivial.append(self.tables[-1][-1])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag):
        self.skip = False
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data):
        if self.in_data:
            self.data += data
            self.in_data = False
        if not self.skip:
            self.text += data
            if self.in_cell:
                self.tables[-1][-1][-1] += data

    @property
    def rows(self) -> list[list[str]]:
        """Of the first table, its heads included, without trivial answers."""
        return [row for row in self.tables[0] if row not in self.trivial]

    def table(self, head: str) -> list[list[str]]:
        """The first table with that head."""
        return next(table for table in self.tables if head in table[0])

    def column(self, head: str) -> list[str]:
        """Of the first table."""
        return [row[self.rows[0].index(head)].strip() for row in self.rows[1:]]

    @property
    def gallery(self) -> dict:
        """What the script of the gallery reads."""
        return json.loads(self.data)


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
    board = read_board(benchmark)
    first_table = [row for row in found.trivial if row in found.tables[0]]
    told = sorted((row[0], tuple(row[1:3])) for row in first_table)
    assert told == sorted((line.config, line.given) for line in board.trivial)
    assert {"all foreground", "all background"} == {name for name, _ in told}
    first = next(line for line in read_board(benchmark).lines if (line.config, line.n_points) == ("panet", 1))
    at = next(row for row in found.rows if row[0].startswith("panet") and row[1:3] == ["1", "1"])
    told = dict(zip(found.rows[0], at, strict=True))
    assert (told["rank"], told["ties"]) == (f"{first.rank.low}", ties(first.rank.group)) == ("2", "B")
    assert "Best at K = 5, P = dense: guided, mIoU 0." in found.text
    assert "Not told apart" not in found.text
    assert "Bold: best of its setting and what cannot be told from it." in found.text
    assert "fewseg 0.1.0, torch 2.15.0" in found.text
    assert "benchmark.yaml --out" in found.text
    assert "Read with care" not in found.text
    assert sum(tag == "img" for tag, _ in found.tags) == 3 * 5
    assert (benchmark / "report.html").stat().st_size < 10e6


def test_methods_that_cannot_be_told_apart_share_the_first_place(tmp_path):
    """The same rows under three names, and one that is worse."""
    for fold in (0, 1):
        run = fake_run(tmp_path, "guided", fold)
        for name in ("twin", "third"):
            copied = fake_run(tmp_path, name, fold)
            (copied / "episodes.parquet").write_bytes((run / "episodes.parquet").read_bytes())
            figures = json.loads((run / "metrics.json").read_text())
            write_json(copied / "metrics.json", {**figures, "config": name})
        fake_run(tmp_path, "fgbg", fold)
    found = page(tmp_path)
    assert re.search(
        r"Best at K = 1, P = dense: \w+, mIoU 0\.\d+ \([^)]*\)\. Not told apart from 2 others\.", found.text
    )
    text = (tmp_path / "report.html").read_text()
    table = text[text.index('id="leaderboard"') :].split("</table>")[0]
    bold = [row.split("</td>")[0] for row in table.split("<tr")[1:] if 'class="best"' in row]
    assert [any(f">{name} " in row for row in bold) for name in ("guided", "twin", "third", "fgbg")] == [True] * 3 + [
        False
    ]


def test_the_best_is_the_best_of_what_ranks_go_by():
    """J&F is higher where J is lower; a line that was not ranked is none of the best; without ranks the highest is."""

    def line(config, j, jf, rank=None):
        return fake_line(config, task="video", figures={"j_mean": j, "jf_mean": jf}, rank=rank)

    first, second = line("first", 0.6, 0.5, Rank(1, 2, 1)), line("second", 0.59, 0.7, Rank(1, 2, 1))
    worse, partial = line("worse", 0.5, 0.9, Rank(3, 3, 2)), line("partial", 0.8, 0.8)
    assert placed(first)[:2] == ("J", 0.6)
    assert [one.config for one in leaders([worse, second, partial, first])] == ["first", "second"]
    assert [one.config for one in leaders([line("a", 0.4, 0.9), line("b", 0.5, 0.1)])] == ["b"]


def fake_line(config, **changed):
    """A line of a leaderboard without runs."""
    line = Line("d", "semantic", "clean", config, "M", 1, None, {}, None, None, {}, {}, 1, 1, "", ())
    return dataclasses.replace(line, **changed)


def test_trivial_answers_stand_among_folds_and_classes(tmp_path):
    for config in ("guided", "panet"):
        for fold in (0, 1):
            fake_run(tmp_path, config, fold)
    board, found = read_board(tmp_path), page(tmp_path)
    heads, *body = found.table("std over folds")
    told = {row[0]: dict(zip(heads, row, strict=True)) for row in body}
    assert set(told) == {"guided", "panet", *(line.config for line in board.trivial)}
    for line in board.trivial:
        row = told[line.config]
        assert [row[f"fold {fold}"] for fold in (0, 1)] == [f"{line.folds[fold]:.3f}" for fold in (0, 1)]
        assert row["mean"] == f"{line.miou:.3f}"
    heads, *body = found.table("class")
    assert heads == ["class", "guided", "panet", *(line.config for line in board.trivial)]
    for row in body:
        for line in board.trivial:
            assert row[heads.index(line.config)] == f"{line.per_class_iou[row[0]]:.3f}"


def test_trivial_answers_of_some_settings_are_marked_so():
    """One set holds for 1 and 5 shots, another one for 10: only the first stands beside classes at 5."""
    classes = {"a": 0.5, "b": 0.25}
    lines = [fake_line(config, n_shot=5, per_class_iou=classes) for config in ("guided", "panet")]
    few = fake_line("all background", trivial=True, given=("1, 5", ""), per_class_iou={"a": 0.125, "b": 0.0})
    many = fake_line("all foreground", trivial=True, given=("10", ""), per_class_iou=classes)
    found = Page(class_table([*lines, few, many], styles(["guided", "panet"])))
    assert found.tables[0][0] == ["class", "guided", "panet", "all background"]
    assert found.tables[0][1] == ["a", "0.500", "0.500", "0.125"]
    assert cells.place(few) == ' data-dataset="d" data-task="semantic" data-protocol="clean" data-k="1, 5"'
    assert [cell.content for cell in cells.given(few)] == ["1, 5", ""]


def test_nothing_is_fetched(benchmark):
    for tag, attributes in page(benchmark).tags:
        for name in ("src", "href", "srcset", "action", "data"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#")), tag
    assert "@import" not in (benchmark / "report.html").read_text(encoding="utf-8").split("</style>")[0]


def test_the_same_folder_gives_the_same_page(benchmark):
    first = build_report(benchmark).read_bytes()
    assert build_report(benchmark).read_bytes() == first


def test_names_are_escaped(tmp_path):
    nasty = '</script><script>alert("1")</script>'
    run = fake_run(tmp_path, nasty, 0, per_class_iou={nasty: 0.5}, device=nasty)
    add_pictures(run, class_name=nasty)
    other = fake_run(tmp_path, "guided", 0, guidance_within=0.1, guidance_between=0.1)
    plan = {"n_folds": 4, "runs": [run.name, other.name], "compare": {"reference": nasty}}
    write_json(tmp_path / "plan.json", plan)
    write_text(tmp_path / "benchmark.yaml", nasty)
    text = build_report(tmp_path).read_text(encoding="utf-8")
    assert nasty not in text
    assert 'alert("1")' not in text
    assert any(nasty in cell for cell in Page(text).column("method"))
    assert f"Compared with {nasty}" in Page(text).text


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
    for section in (
        "Compared with",
        "How much the guidance",
        "Accuracy against annotated",
        "Accuracy per fold",
        "Trained on one thing",
        "Learning curves",
        "Best, median",
        "Read with care: methods",
    ):
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
    size = len(encoded((run / "pictures" / "best-0.png").read_bytes()))
    monkeypatch.setattr("fewseg.report.page._PICTURES", 3 * size + 60)
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


def test_a_reference_gets_a_section(benchmark):
    runs = [path.parent.name for path in benchmark.glob("*/metrics.json")]
    write_json(benchmark / "plan.json", {"n_folds": 4, "runs": runs, "compare": {"reference": "panet"}})
    found = page(benchmark)
    assert "Compared with panet" in found.text
    assert {(a["id"]) for _, a in found.tags if (a.get("id") or "").startswith("compared-0")} == {
        "compared-0-0",
        "compared-0-1",
    }
    heads, *body = found.table("minus panet")
    assert {row[0].strip() for row in body} == {"guided", "fgbg"}
    assert len(body) == 2 * 4
    seen = heads.index("seen")
    assert {row[seen] for row in body if row[0] == "fgbg"} == {"below"}
    assert "+0." in next(row for row in body if row[0] == "guided")[heads.index("minus panet")]
    write_json(benchmark / "plan.json", {"n_folds": 4, "runs": runs, "compare": None})
    assert "Compared with" not in page(benchmark).text


def test_a_reference_alone_has_no_section(tmp_path):
    run = fake_run(tmp_path, "panet", 0)
    write_json(tmp_path / "plan.json", {"n_folds": 4, "runs": [run.name], "compare": {"reference": "panet"}})
    assert "Compared with" not in page(tmp_path).text


def test_the_forest_has_the_best_on_top_and_hollow_marks():
    parts = {"dataset": "d", "task": "semantic", "protocol": "clean", "reference": "base", "miou": 0.5, "note": ""}
    made = {"low": (-0.2, (-0.3, -0.1)), "high": (0.2, (0.1, 0.3)), "same": (0.01, (-0.1, 0.1))}
    compared = [
        Comparison(config=name, n_shot=1, n_points=p, difference=d, ci95=i, **parts)
        for name, (d, i) in made.items()
        for p in (1, 5, None)
    ]
    compared.append(Comparison(config="odd", n_shot=1, n_points=1, difference=None, ci95=None, **parts))
    drawn = forest(compared, styles([*made, "odd"]))
    assert [caption for caption, _ in drawn] == ["K = 1, P = 1", "K = 1, P = dense"]
    for _, figure in drawn:
        assert [trace.name for trace in figure.data] == ["low", "same", "high"]
        assert list(figure.layout.yaxis.categoryarray) == ["low", "same", "high"]
        assert [trace.marker.symbol for trace in figure.data] == ["circle", "circle-open", "circle"]
        assert list(figure.data[0].error_x.array) == pytest.approx([0.1])


def test_how_much_the_guidance_varies(tmp_path):
    for n_points, within in ((1, 2e-4), (None, 0.0)):
        fake_run(tmp_path, "guided", 0, n_points=n_points, guidance_within=within, guidance_between=0.25)
        fake_run(tmp_path, "fgbg", 0, n_points=n_points)
    found = page(tmp_path)
    assert "How much the guidance varies" in found.text
    assert "Within: how far z differs" in found.text
    assert sorted(found.column("z within")) == ["", "", "0", "0.0002"]
    lines = leaderboard(collect(tmp_path), tmp_path)
    _, figure = guidance_spread(lines, styles(["guided", "fgbg"]))
    within, between = figure.data
    assert list(within.x) == ["K 1, P 1", "K 1, P dense"]
    assert list(within.y) == [2e-4, 1e-8]
    assert list(between.y) == [0.25, 0.25]
    assert figure.layout.yaxis.type == figure.layout.yaxis2.type == "log"
    assert guidance_spread([line for line in lines if line.config == "fgbg"], styles(["fgbg"])) is None


def test_clicks_have_curves_and_columns(tmp_path):
    for config in ("guided", "guided+AJ"):
        for fold in (0, 1):
            fake_clicks(tmp_path, config, fold)
    add_pictures(fake_clicks(tmp_path, "guided", 0))
    index = next(tmp_path.glob("*/pictures/index.json"))
    index.write_text(json.dumps([entry | {"clicks": 6} for entry in json.loads(index.read_text())]))
    found = page(tmp_path)
    assert "Objects: accuracy against clicks" in found.text
    assert "Objects: accuracy against seconds" in found.text
    assert "Objects: positive IoU" not in found.text
    assert "NoC@t: clicks until an IoU of t %" in found.text
    assert "after 6 clicks (fold 0" in found.text
    lines = leaderboard(collect(tmp_path), tmp_path)
    plain, refined = lines
    assert found.column("IoU@1") == [f"{line.figures['iou_at_1']:.3f}" for line in _best_first(lines)]
    assert found.column("NoC@90") == [f"{line.figures['noc90']:.2f}" for line in _best_first(lines)]
    look = styles(["guided", "guided+AJ"])
    ((caption, figure),) = against_clicks(lines, look)
    assert caption == "K = 0, P = dense"
    band, curve, _, other = figure.data
    assert list(curve.x) == [1, 2, 3, 4, 5, 6]
    assert list(curve.y) == pytest.approx(list(plain.clicks.iou))
    assert (curve.name, other.name, band.showlegend) == ("guided", "guided+AJ", False)
    assert all(low <= y <= high for y, high, low in zip(curve.y, band.y[:6], band.y[:5:-1], strict=True))
    ((_, figure),) = against_seconds(lines, look)
    slow = figure.data[3]
    assert list(slow.x) == pytest.approx([0.03 + 0.1 + 0.11 * k for k in range(6)])
    assert list(slow.y) == pytest.approx(list(refined.clicks.iou))
    assert figure.layout.xaxis.type == "log"


def _best_first(lines):
    return sorted(lines, key=lambda line: -line.miou)


def test_points_of_objects_have_a_curve_with_the_time_of_an_update(tmp_path):
    for n_points in (1, 2, 10, None):
        for config in ("guided", "fgbg"):
            fake_run(tmp_path, config, 0, 1, n_points, task="interactive", protocol="interactive-points")
    lines = leaderboard(collect(tmp_path), tmp_path)
    ((caption, figure),) = positive_against_points(lines, styles(["guided", "fgbg"]))
    assert caption.startswith("K = 1; in brackets")
    assert [trace.name for trace in figure.data] == ["fgbg (30 ms)", "guided (30 ms)"]
    assert list(figure.layout.xaxis.categoryarray) == ["1", "2", "10", "dense"]
    own = {line.n_points: line.figures["positive_iou"] for line in lines if line.config == "guided"}
    assert list(figure.data[1].y) == [own[1], own[2], own[10], own[None]]
    assert "Objects: positive IoU against points" in page(tmp_path).text
    fake_clicks(tmp_path, "guided", 0)
    assert "annotation update (guide and segment) (shapes5i, interactive, interactive-points)" in page(tmp_path).text
    assert positive_against_points([line for line in lines if line.n_points == 1], styles(["guided", "fgbg"])) == []


VIDEO_METHODS = ("guided", "osvos", "osvos+50", "osvos+200")


@pytest.fixture
def videos(tmp_path):
    """Two trainings, one of them evaluated with three numbers of updates, with 1 and 5 points and masks."""
    for n_points in (1, 5, None):
        for place, config in enumerate(VIDEO_METHODS):
            add_films(fake_video(tmp_path, config, 1, n_points), 1 + place, n_points=n_points)
    return tmp_path


def test_a_report_on_videos(videos):
    found = page(videos)
    lines = leaderboard(collect(videos), videos)
    head = found.rows[0]
    assert not {"mIoU", "fold 0", "s/episode", "episodes"} & set(head)
    assert head[:9] == ["method", "K", "P", "J&F", "95 % interval", "J", "F", "positive IU", "s/video"]
    for name, key in (("J&F", "jf_mean"), ("J", "j_mean"), ("F", "f_mean"), ("positive IU", "positive_iou")):
        assert sorted(found.column(name)) == sorted(f"{line.figures[key]:.3f}" for line in lines)
    assert found.column("J")[:4] == sorted(found.column("J")[:4], reverse=True)
    assert "The first and the last frame of a video count" in found.text
    assert "Videos of a run: 5." in found.text
    assert "annotated images" not in found.text
    dense = [line for line in lines if line.n_points is None]
    best = max(dense, key=lambda line: line.figures["j_mean"])
    costs = f"It takes {best.figures['seconds_per_video']:.3g} s per video"
    assert f"Best by J at K = 1, P = dense: {best.config}, J&F {best.figures['jf_mean']:.3f} (J " in found.text
    assert "Methods are not ranked: 5 videos are too few." in found.text
    assert costs in found.text
    assert "Accuracy per class" not in found.text
    assert "Accuracy against time" in found.text
    assert "Videos: accuracy against annotation" not in found.text
    assert "Best, median and worst" not in found.text
    assert (videos / "report.html").stat().st_size < 10e6


def test_videos_are_compared_by_mean_j(videos):
    blind = fake_video(videos, "fgbg", 1, None, class_blind=True)
    runs = [path.parent.name for path in videos.glob("*/metrics.json")]
    write_json(videos / "plan.json", {"n_folds": 1, "runs": runs, "compare": {"reference": "osvos"}})
    found = page(videos)
    rows = collect(videos)
    compared = comparisons(rows, videos, "osvos")
    heads, *body = found.table("J minus osvos")
    assert heads[:8] == [
        *("config", "K", "P", "J minus osvos", "95 % paired interval of J", "J seen"),
        *("positive IU", "IU minus osvos"),
    ]
    assert [row[3] for row in body] == [f"{one.j_difference:+.3f}" for one in compared]
    assert "Difference of mean J and of positive IU" in found.text
    assert "mIoU minus" not in found.text
    (one,) = (one for one in compared if one.config == "fgbg")
    assert one.note == "class-blind: its foreground counts for every object"
    assert f"Read with care: {one.note} (fgbg)." in found.text
    assert json.loads((blind / "metrics.json").read_text())["class_blind"] is True
    (_, figure), *_ = forest([one], styles(["fgbg", "osvos"]))
    assert figure.layout.xaxis.title.text == "mean J minus that of osvos"
    assert list(figure.data[0].x) == [one.j_difference]
    low, high = one.j_ci95
    assert figure.data[0].error_x.array == pytest.approx((high - one.j_difference,))
    assert figure.data[0].error_x.arrayminus == pytest.approx((one.j_difference - low,))


def test_accuracy_against_time_joins_what_one_training_gives(videos):
    lines = leaderboard(collect(videos), videos)
    drawn = accuracy_against_time(lines, styles(VIDEO_METHODS))
    assert [caption for caption, _ in drawn] == ["K = 1, P = dense", "K = 1, P = 5", "K = 1, P = 1"]
    _, figure = drawn[1]
    own = {line.config: line.figures for line in lines if line.n_points == 5}
    guided, osvos = figure.data
    assert (guided.name, osvos.name) == ("guided", "osvos")
    assert guided.mode == "markers"
    order = ["osvos", "osvos+50", "osvos+200"]  # of time, which is not that of names
    assert list(osvos.customdata) == order
    assert list(osvos.text) == ["", "+50", "+200"]
    assert list(osvos.x) == [own[config]["seconds_per_video"] for config in order]
    assert list(osvos.x) == sorted(osvos.x)
    assert list(osvos.y) == [own[config]["jf_mean"] for config in order]
    assert figure.layout.xaxis.type == "log"
    low, high = figure.layout.xaxis.range
    assert all(10**low < line.figures["seconds_per_video"] < 10**high for line in lines)
    assert all(line.figures["jf_mean"] < figure.layout.yaxis.range[1] for line in lines)
    assert len({(one.layout.xaxis.range, one.layout.yaxis.range) for _, one in drawn}) == 1  # to compare settings
    (menu,) = figure.layout.updatemenus
    assert [button.label for button in menu.buttons] == ["J&amp;F", "J", "positive IU"]
    changed, axis = menu.buttons[2].args
    assert changed["y"][1] == [own[config]["positive_iou"] for config in order]
    assert axis == {"yaxis.title.text": "positive IU"}


def test_accuracy_against_time_wants_seconds(tmp_path):
    fake_video(tmp_path, "panet", seconds_per_episode=0.0)
    assert accuracy_against_time(leaderboard(collect(tmp_path)), styles(["panet"])) == []


def test_accuracy_of_images_against_time_has_intervals(tmp_path):
    for config, seconds in (("guided", 0.5), ("panet", 0.125)):
        fake_run(tmp_path, config, 0, seconds_per_episode=seconds)
    lines = leaderboard(collect(tmp_path), tmp_path)
    ((caption, figure),) = accuracy_against_time(lines, styles(["guided", "panet"]))
    assert caption == "K = 1, P = dense"
    for line, trace in zip(lines, figure.data, strict=True):
        assert (trace.name, list(trace.x)) == (line.config, [line.figures["seconds_per_episode"]])
        assert list(trace.y) == [line.miou]
        assert list(trace.error_y.array) == pytest.approx([line.ci95[1] - line.miou])
        assert line.ci95[1] <= figure.layout.yaxis.range[1]
    assert figure.layout.xaxis.title.text == "seconds per episode (logarithmic)"
    assert figure.layout.yaxis.title.text == "mIoU"
    (menu,) = figure.layout.updatemenus
    assert [button.label for button in menu.buttons] == ["mIoU", "FB-IoU", "positive IU"]
    changed, _ = menu.buttons[1].args
    assert changed["y"] == [[line.figures["fb_iou"]] for line in lines]
    assert changed["error_y"][0]["array"] == [0.0]  # its interval is not known


def test_a_surface_over_frames_and_points(tmp_path):
    told = {"task": "interactive_video", "protocol": "interactive-video"}
    for n_shot in (1, 4):
        for n_points in (1, 20, None):
            for config in ("guided", "panet"):
                if (config, n_shot, n_points) != ("panet", 4, 20):
                    fake_video(tmp_path, config, n_shot, n_points, **told)
    lines = leaderboard(collect(tmp_path), tmp_path)
    look = styles(["guided", "panet"])
    drawn = annotation_surfaces(lines, look)
    assert [caption for caption, _ in drawn] == ["guided", "panet"]
    for config, figure in drawn:
        at = {(x.n_shot, x.n_points): x.figures["positive_iou"] for x in lines if x.config == config}
        table, *curves = figure.data
        assert (list(table.x), list(table.y)) == (["1", "20", "dense"], ["1", "4"])
        assert [list(row) for row in table.z] == [[at.get((s, p)) for p in (1, 20, None)] for s in (1, 4)]
        assert [curve.name for curve in curves] == ["P = 1", "P = 20", "P = dense"]
        assert list(curves[0].y) == [at[1, 1], at[4, 1]]
        assert list(curves[1].x) == (["1", "4"] if config == "guided" else ["1"])
    assert drawn[1][1].data[0].text[1][1] == ""
    first, second = (figure.data[0] for _, figure in drawn)
    assert (first.zmin, first.zmax) == (second.zmin, second.zmax)  # colours mean the same for all methods
    assert drawn[0][1].layout.yaxis2.range == drawn[1][1].layout.yaxis2.range
    caption, figure = against_shots(lines, look)
    assert (caption, figure.layout.xaxis.title.text) == ("P = dense", "annotated frames (K)")
    assert figure.layout.yaxis.title.text == "positive IU"
    assert per_class(lines, look) is None
    text = page(tmp_path).text
    assert "Videos: accuracy against annotation" in text
    assert "Accuracy against annotated frames" in text
    single = [line for line in lines if (line.n_shot, line.n_points) == (1, 1)]
    assert annotation_surfaces(single, look) == []
    low, high = accuracy_against_time(lines, look)[0][1].layout.xaxis.range
    assert high - low == pytest.approx(1)  # all take the same time, and the axis still spans a factor of ten
    # of many settings, time is shown at the ends
    assert [caption for caption, _ in accuracy_against_time(lines, look)] == ["K = 4, P = dense", "K = 1, P = 1"]


def test_strips_of_one_video_stand_side_by_side(videos, monkeypatch):
    found = page(videos)
    assert "Videos side by side" in found.text
    assert "K = 1, P = dense: annotated frame 0" in found.text
    said = [attributes["alt"] for tag, attributes in found.tags if tag == "img"]
    methods = ["guided, J 0.850", "osvos, J 0.800", "osvos+50, J 0.750", "osvos+200, J 0.700"]
    assert said == [f"{video}: {name}" for video in VIDEOS[:3] for name in ["truth", *methods]]
    # what does not fit is said, and starts with the last methods
    size = max(len(encoded(path.read_bytes())) for path in videos.glob("*/pictures/*.jpg"))
    monkeypatch.setattr("fewseg.report.page._PICTURES", 3 * size)
    found = page(videos)
    said = [attributes["alt"] for tag, attributes in found.tags if tag == "img"]
    assert said[:3] == ["bear: truth", "bear: guided, J 0.850", "bear: osvos, J 0.800"]
    assert f'{15 - len(said)} more are in the "pictures" folders' in found.text


def test_strips_show_the_setting_that_methods_share(tmp_path):
    add_films(fake_video(tmp_path, "guided", 1, None), 1)
    for config in ("guided", "panet"):
        add_films(fake_video(tmp_path, config, 1, 5), 2, n_points=5)
    found = page(tmp_path)
    assert "K = 1, P = 5: annotated frame 0" in found.text
    said = [attributes["alt"] for tag, attributes in found.tags if tag == "img"]
    assert said[:3] == ["bear: truth", "bear: guided, J 0.800", "bear: panet, J 0.800"]
    assert len(said) == 9
