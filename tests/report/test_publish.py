"""What ``experiments/publish.py`` writes: results, the README's table and the numbers in the methods' pages."""

import importlib.util
import json
import re
from pathlib import Path

import cv2
import pytest
from fake_benchmark import add_pictures, fake_clicks, fake_run
from fake_instances import fake_search

from fewseg.results import leaderboard, summarise, write_json, write_text

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("publish", ROOT / "experiments" / "publish.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    """Two methods on two folds at three P and three K, compared with one of them."""
    out = tmp_path_factory.mktemp("runs")
    runs = []
    for config in ("panet", "guided"):
        for fold in (0, 1):
            for n_shot, n_points in ((1, 1), (1, 5), (1, None), (2, None), (5, None)):
                runs.append(fake_run(out, config, fold, n_shot=n_shot, n_points=n_points, training_note="9 steps"))
            if fold == 0:
                add_pictures(runs[-3])
    write_json(out / "plan.json", {"n_folds": 4, "runs": [r.name for r in runs], "compare": {"reference": "guided"}})
    return out


@pytest.fixture
def root(tmp_path):
    """A project with a README and pages of three methods."""
    root = tmp_path / "project"
    write_text(root / "README.md", "before\n<!-- fake -->\nold\n<!-- /fake -->\nafter\n")
    for name in ("PANet", "SGOne", "Nobody"):
        page = f"# {name}\n\n<!-- results:{name} -->\n<!-- /results:{name} -->\n\nafter\n"
        write_text(root / "docs" / "methods" / f"{name.lower()}.md", page)
    write_text(root / "docs" / "methods" / "plain.md", "# without marks\n")
    return root


def lines_of(text, start):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith(start)]


def published_mean(results, config, n_shot, n_points):
    """mIoU of a setting, from the committed runs."""
    rows = json.loads((results / "fake.json").read_text())
    chosen = [r for r in rows if (r["config"], r["n_shot"], r["n_points"]) == (config, n_shot, n_points)]
    return sum(row["miou"] for row in chosen) / len(chosen)


def test_a_benchmark_is_published(script, benchmark, root):
    picture = root / "docs" / "episodes.png"
    assert script.publish(benchmark, "fake", "make fake", root, picture, ["guided", "panet"]) == 20
    results = root / "experiments" / "results"
    assert len(json.loads((results / "fake.json").read_text())) == 20
    summary = (results / "fake.md").read_text()
    assert "## Compared with guided" in summary
    assert "Regenerate with `make fake`." in summary
    readme = (root / "README.md").read_text()
    heads = "| config | 1 shot, dense | 1 shot, 1 px | 5 shots, dense | 5 shots, 1 px | FB-IoU | s/update | ties |"
    assert readme.startswith(f"before\n<!-- fake -->\n{heads}\n")
    assert readme.endswith("<!-- /fake -->\nafter\n")
    (row,) = lines_of(readme, "| panet")
    assert [bool(cell) for cell in row[1:5]] == [True, True, True, False]  # that setting was never run
    assert float(row[1].split()[0]) == pytest.approx(published_mean(results, "panet", 1, None), abs=5e-4)
    assert "z within" not in readme
    ties = {row[0].split()[0]: row[-1] for row in lines_of(readme, "| ") if row[-1] in ("A", "B", "C")}
    best = max(("guided", "panet"), key=lambda config: published_mean(results, config, 1, None))
    assert ties[best] == "A"
    assert "Ties, by mIoU in a row's first setting: A cannot be told from the best" in readme
    told = r"mIoU: all background \(K = 1[^)]*\) 0\.000, all foreground \(K = 1[^)]*\) 0\.\d+, all background \(K = 2"
    assert re.search(f"Trivial answers to the same episodes, {told}", readme)  # other lists at 2 and 5 shots
    assert "Training: 9 steps." in readme
    assert picture.is_file()
    before = {path: path.read_bytes() for path in root.rglob("*.*") if path.is_file()}
    script.publish(benchmark, "fake", "make fake", root, picture, ["guided", "panet"])
    assert before == {path: path.read_bytes() for path in root.rglob("*.*") if path.is_file()}


def test_a_second_benchmark_keeps_the_first_in_the_index(script, benchmark, root):
    script.publish(benchmark, "fake", "make fake", root)
    script.publish(benchmark, "again", "make again", root)
    assert {name: entry["command"] for name, entry in script.index(root).items()} == {
        "fake": "make fake",
        "again": "make again",
    }


def test_pages_hold_the_papers_numbers_beside_ours(script, benchmark, root):
    script.publish(benchmark, "fake", "make fake", root)
    pages = {path.stem: text for path, text in script.pages(root).items()}
    assert pages.keys() == {"panet", "sgone", "nobody"}
    text = pages["panet"]
    paper = lines_of(text, "| paper")
    assert paper[0][:9] == ["paper: PANet", "PASCAL-5i", "mIoU", "1", "42.3", "58.0", "51.1", "41.2", "48.1"]
    ours = lines_of(text, "| ours")
    assert [row[:4] for row in ours] == [["ours: panet", "shapes5i (fake)", "mIoU", k] for k in ("1", "5")]
    line = next(
        x
        for x in leaderboard(summarise(benchmark).rows, benchmark)
        if (x.config, x.n_shot, x.n_points) == ("panet", 1, None)
    )
    expected = [f"{100 * v:.1f}" for v in (line.folds[0], line.folds[1], line.miou)]
    assert [ours[0][4], ours[0][5], ours[0][8]] == expected
    assert ours[0][6:8] == ["", ""]
    assert ours[0][9] == f"{100 * line.ci95[0]:.1f} to {100 * line.ci95[1]:.1f}"
    assert ours[0][10] == "partial (folds 0, 1 of 4)"
    assert "Ours on shapes5i are of other data than PASCAL-5i" in text
    assert "**do not compare**" in text
    assert "regenerate with `make fake`" in text
    assert text.startswith("# PANet\n")
    assert text.endswith("<!-- /results:PANet -->\n\nafter\n")
    assert "There is no committed number of ours yet." in pages["sgone"]
    assert "the folds average 45.6: the printed mean contradicts them" in pages["sgone"]
    assert "There is no committed number of this method yet" in pages["nobody"]


def test_pages_written_twice_do_not_change(script, benchmark, root):
    script.publish(benchmark, "fake", "make fake", root)
    first = script.pages(root)
    for path, text in first.items():
        write_text(path, text)
    assert script.pages(root) == first


def test_the_pages_are_up_to_date_with_the_results(script):
    """Else: python experiments/publish.py --pages."""
    stale = [path.name for path, text in script.pages().items() if text != path.read_text(encoding="utf-8")]
    assert stale == []


def test_marks_name_the_method_of_their_page(script):
    for path in script.pages():
        (name,) = re.findall(r"<!-- results:(\w+) -->", path.read_text(encoding="utf-8"))
        source = (ROOT / "src" / "fewseg" / "models" / f"{path.stem}.py").read_text(encoding="utf-8")
        assert re.search(rf"^class {name}\(", source, re.MULTILINE), f"{path.name} marks {name}"


def test_the_index_names_what_is_published(script):
    for name, entry in script.index().items():
        rows = json.loads((ROOT / "experiments" / "results" / f"{name}.json").read_text(encoding="utf-8"))
        assert f"`{entry['command']}`" in (ROOT / "experiments" / "results" / f"{name}.md").read_text(encoding="utf-8")
        dense = {(r["config"], r["protocol"], r["n_shot"]) for r in rows if r["n_points"] is None}
        assert {(e["config"], e["protocol"], e["n_shot"]) for e in entry["dense_intervals"]} == dense


def test_a_benchmark_of_clicks_points_and_classes_is_published(script, tmp_path, root):
    out = tmp_path / "runs"
    for config in ("panet", "panet+AJ"):
        for fold in (0, 1):
            fake_clicks(out, config, fold, method="PANet")
    for fold in (0, 1):
        fake_run(out, "panet", fold, method="PANet")
    for n_points in (1, None):
        fake_run(out, "panet", 0, 1, n_points, task="interactive", protocol="interactive-points", dataset="voc400")
    script.publish(out, "fake", "make fake", root)
    readme = (root / "README.md").read_text()
    lines = leaderboard(summarise(out).rows, out)
    assert "**shapes5i, interactive**\n\n| config | mIoU after 6 clicks | IoU@1 | IoU@5 | NoC@80 |" in readme
    clicked = sorted((line for line in lines if line.clicks), key=lambda line: -line.clicks.iou[0])
    start = readme.index("**shapes5i, interactive**")
    rows = [[c.strip() for c in row.split("|")[1:-1]] for row in readme[start:].splitlines()[4:6]]
    assert [row[0].split()[0] for row in rows] == [line.config for line in clicked]
    assert [row[2] for row in rows] == [f"{line.clicks.iou[0]:.3f}" for line in clicked]
    assert [row[6] for row in rows] == [f"{line.figures['noc90']:.2f}" for line in clicked]
    assert [bool(row[-2]) for row in rows] == [line.config == "panet+AJ" for line in clicked]  # seconds of refinement
    assert "| config | K | positive IU, P = 1 | positive IU, P = dense | s/update, longest |" in readme
    assert "**shapes5i, clean**\n\n| config | 1 shot, dense | FB-IoU | s/update |" in readme
    assert "NoC@t: clicks until" in readme
    curves = (root / "experiments" / "results" / "fake-curves.csv").read_text()
    assert "panet,0,0,20," in curves
    assert "+AJ" not in curves  # a variant has no training of its own
    ours = lines_of(script.pages(root)[root / "docs" / "methods" / "panet.md"], "| ours")
    assert [row[:4] for row in ours] == [
        ["ours: panet", "shapes5i (fake)", "mIoU, 6 clicks", "0"],
        ["ours: panet+AJ", "shapes5i (fake)", "mIoU, 6 clicks", "0"],
        ["ours: panet", "shapes5i (fake)", "mIoU", "1"],
    ]
    assert all(row[9] for row in ours)
    assert len({row[9] for row in ours}) > 1


def test_a_benchmark_of_instances_is_published(script, tmp_path, root):
    page = root / "docs" / "methods" / "siamese_mask_rcnn.md"
    write_text(page, "<!-- results:SiameseMaskRCNN -->\n<!-- /results:SiameseMaskRCNN -->\n")
    out, picture = tmp_path / "runs", tmp_path / "episodes.png"
    for config in ("siamese", "random"):
        add_pictures(fake_search(out, config, 0))
        fake_search(out, config, 1)
        for fold in (0, 1):
            fake_search(out, config, fold, "one-shot-base")
    fake_search(out, "siamese", 0, "one-shot-code")
    script.publish(out, "fake", "make fake", root, picture, ["siamese", "random"])
    assert cv2.imread(str(picture)).shape == (64 + 8 + 64, 96, 3)
    lines = leaderboard(summarise(out).rows, out)
    own, base = (
        next(x for x in lines if (x.config, x.protocol) == ("siamese", protocol))
        for protocol in ("one-shot", "one-shot-base")
    )
    readme = (root / "README.md").read_text()
    start = readme.index("**shapes-coco, one-shot, one-shot-base**")
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in readme[start:].splitlines()[2:6]]
    assert rows[0] == [
        "config",
        *("AP50 boxes, novel classes", "AP50 boxes, base classes", "gap boxes"),
        *("AP50 masks, novel classes", "AP50 masks, base classes", "gap masks"),
        "s/query",
        "ties",
    ]
    assert [row[0].split()[0] for row in rows[2:]] == ["siamese", "random"]
    low, high = own.ap50_boxes_ci95
    spread = sum(run["ap50_boxes_std"] for run in own.runs) / 2
    assert rows[2][1] == f"{own.figures['ap50_boxes']:.3f} [{low:.3f}, {high:.3f}] ± {spread:.3f}"
    assert rows[2][3] == f"{base.figures['ap50_boxes'] - own.figures['ap50_boxes']:+.3f}"
    assert rows[2][5].startswith(f"{base.figures['ap50']:.3f} [")
    assert rows[2][7] == f"{own.figures['seconds_per_episode']:.4f}"
    code = "| config | AP50 boxes, novel classes | AP50 masks, novel classes | s/query |"
    assert f"**shapes-coco, one-shot-code**\n\n{code}" in readme
    assert "standard deviation of AP50 over lists of references" in readme
    results = root / "experiments" / "results"
    assert rows[2][1] in (results / "fake.md").read_text()
    ours = lines_of(script.pages(root)[page], "| ours: siamese")
    assert [row[2] for row in ours] == ["AP50 of boxes", "AP50 of masks"] * 3
    assert [row[10].split(";")[0] for row in ours[::2]] == [
        "one-shot: novel classes",
        "one-shot-base: base classes",
        "one-shot-code: novel classes",
    ]
    folds = [f"{100 * run['ap50']:.1f}" for run in sorted(own.runs, key=lambda run: run["fold"])]
    low, high = own.ap50_ci95
    assert ours[1][4:6] == folds
    assert ours[1][8:10] == [f"{100 * own.figures['ap50']:.1f}", f"{100 * low:.1f} to {100 * high:.1f}"]


def test_an_interval_is_that_of_its_own_data_set(script):
    entry = {
        "dense_intervals": [
            {"config": "a", "protocol": "p", "dataset": d, "n_shot": 1, "ci95": [x, x]}
            for d, x in (("d", 0.1), ("e", 0.2))
        ]
    }
    common = {"method": "M", "config": "a", "task": "semantic", "protocol": "p", "n_points": None, "n_shot": 1}
    rows = [{**common, "dataset": name, "fold": 0, "seed": 0, "miou": 0.5} for name in ("d", "e")]
    assert [script._own_line(line, "x", entry)[9] for line in leaderboard(rows)] == ["10.0 to 10.0", "20.0 to 20.0"]
