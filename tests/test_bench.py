"""The benchmarks of speed and memory run, write their record and fail exactly where a limit is missed."""

import importlib.util
import inspect
import json
import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from fewseg.datasets.voc import LISTS, write_label
from fewseg.video_session import VideoSession


def script(name):
    """A script of experiments/ as a module."""
    path = Path(__file__).parents[1] / "experiments" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def threads():
    """bench_data limits the threads of its process; other tests keep theirs."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    yield
    torch.set_num_threads(before[0])
    cv2.setNumThreads(before[1])


@pytest.fixture
def small_voc400(tmp_path, monkeypatch):
    """$FEWSEG_DATA with six images in the layout of voc400, each showing all classes that fold 0 trains on."""
    root = tmp_path / "data" / "voc400"
    for folder in ("JPEGImages", "SegmentationClass", LISTS):
        (root / folder).mkdir(parents=True)
    names = [f"image{i}" for i in range(6)]
    label = np.repeat(np.arange(5, 21, dtype=np.uint8) * (np.arange(16) > 0), 4)[None].repeat(48, 0)  # (48, 64)
    for i, name in enumerate(names):
        cv2.imwrite(str(root / "JPEGImages" / f"{name}.jpg"), np.full((48, 64, 3), 40 * i, np.uint8))
        write_label(root / "SegmentationClass" / f"{name}.png", label)
    for split in ("train", "val"):
        (root / LISTS / f"{split}.txt").write_text("\n".join(names) + "\n")
    monkeypatch.setenv("FEWSEG_DATA", str(root.parent))


@pytest.mark.filterwarnings("ignore")
def test_bench_data(small_voc400, threads, tmp_path, capsys):
    out = tmp_path / "bench.json"
    status = script("bench_data").main(["--images", "32", "--rounds", "2", "--workers", "1", "--out", str(out)])
    record = json.loads(out.read_text())
    assert [row["augmentation"] for row in record["rows"]] == ["none", "flip", "full"]
    assert all(row["images_per_second"] > 0 and len(row["ratios"]) == 2 for row in record["rows"])
    assert status == any(script("bench_data").missed(row) for row in record["rows"])
    assert "images/s" in capsys.readouterr().out


def test_bench_data_compares_the_same_images(small_voc400):
    bench = script("bench_data")
    dataset = bench.Voc400()
    (images, labels), *_ = bench.plain(dataset, 1, 0)
    batch = next(iter(bench.ours(dataset, "none", 1, 0)))
    assert torch.equal(images[:, : bench.N_SHOT], batch.support_images)
    assert torch.equal(images[:, bench.N_SHOT], batch.query_images)
    for label, mask, spec in zip(labels[:, bench.N_SHOT], batch.query_masks, batch.specs, strict=True):
        assert torch.equal(label == spec.class_id, mask == 1)


def test_bench_data_without_data(tmp_path, monkeypatch, threads, capsys):
    monkeypatch.setenv("FEWSEG_DATA", str(tmp_path))
    assert script("bench_data").main(["--out", str(tmp_path / "bench.json")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(("ratio", "threshold", "missed"), [(0.84, 0.85, True), (0.85, 0.85, False), (0, None, False)])
def test_bench_data_threshold(ratio, threshold, missed):
    assert script("bench_data").missed({"ratio": ratio, "threshold": threshold}) == missed


def test_bench_train(tmp_path, capsys):
    out = tmp_path / "bench.json"
    bench = script("bench_train")
    options = ["--size", "32", "--batch-size", "2", "--repeats", "1", "--encoders", "tiny", "--out", str(out)]
    status = bench.main(options)
    record = json.loads(out.read_text())
    assert {row["method"] for row in record["rows"]} == {"FgBg", "GuidedNet", "PANet"}
    assert all(min(row["milliseconds_per_episode"].values()) > 0 for row in record["rows"])
    assert status == any(bench.missed(row) for row in record["rows"])
    assert "loop/step" in capsys.readouterr().out
    assert bench.main([*options[:-1], str(out), "--methods", "Guided"]) == 2
    assert "Guided" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("method", "encoder", "missed"),
    [
        ("GuidedNet", "resnet18", ["encoder_over_step", "loop_over_step"]),
        ("GuidedNet", "tiny", ["encoder_over_step", "loop_over_step"]),
        ("PANet", "resnet18", []),
    ],
)
def test_bench_train_threshold(method, encoder, missed):
    row = {"method": method, "encoder": encoder, "encoder_over_step": 0.84, "loop_over_step": 0.99}
    assert script("bench_train").missed(row) == missed
    assert not script("bench_train").missed({**row, "encoder_over_step": 0.85, "loop_over_step": 1.0})


def test_a_single_episode_of_a_batch():
    bench = script("bench_train")
    batch = bench.noise(3, 16, torch.device("cpu"))
    one = bench.single(batch, 2)
    assert len(one) == 1
    assert torch.equal(one.query_images[0], batch.query_images[2])
    assert torch.equal(one.support_annotations[0], batch.support_annotations[2])


def test_bench_video(tmp_path, capsys, monkeypatch):
    out = tmp_path / "bench.json"
    bench = script("bench_video")
    for name, limit in {"LARGEST_MEMORY": 0, "LARGEST_GUIDE": 1e9, "LARGEST_BOUNDARY": 0}.items():
        monkeypatch.setattr(bench, name, limit)
    options = ["--encoder", "tiny", "--frames", "3", "--budget-mb", "20", "--repeats", "1", "--out", str(out)]
    assert bench.main(options) == 1
    record, text = json.loads(out.read_text()), capsys.readouterr().out
    assert record["missed"] == ["memory", "boundary"]
    assert text.endswith("too much: memory, boundary\n")
    streamed = record["stream"]
    size = streamed["bytes_features_in_memory"] + streamed["bytes_features_in_file"]
    assert streamed["bytes_features_in_memory"] == size / 3 > 0, "the features of one frame fit, each is kept once"
    assert streamed["bytes_peak"] > 0
    assert f"peak {streamed['bytes_peak'] / 1e6:.0f} MB above the model" in text
    assert min(streamed["seconds_per_frame_encode"], streamed["seconds_guide"]) > 0
    assert "3 frames, budget 20 MiB" in text
    assert set(record["update"]) == {"encode", "guide", "update", "update_all"}
    ratios = {name: row["median"] / record["update"]["encode"]["median"] for name, row in record["update"].items()}
    assert record["over_encode"] == pytest.approx({name: ratios[name] for name in ("guide", "update", "update_all")})
    lines = [line for line in text.splitlines() if line.startswith("  making the guidance")]
    assert [f"{ratios[name]:.4f}" in line for name, line in zip(record["over_encode"], lines, strict=True)] == [
        True
    ] * 3
    assert ["no limit" in line for line in lines] == [False, True, True]
    assert ratios["update"] > ratios["guide"], "the whole and its part"
    assert len(record["boundary"]["ours"]["all"]) == len(record["boundary"]["plain"]["all"]) == 5


def test_bench_video_updates_one_object_and_all_of_them(monkeypatch):
    bench = script("bench_video")
    model, calls = bench.build("tiny", torch.device("cpu")), []
    for verb in ("encode_query", "guide", "segment"):
        called = getattr(model.network, verb)
        monkeypatch.setattr(
            model.network, verb, lambda *args, verb=verb, called=called: calls.append(verb) or called(*args)
        )
    bench.update(model, repeats=1)  # and one to warm up
    new = ["encode_query", "guide", "guide", "segment"]
    assert calls == [*new, *(2 * [*new, "guide", "segment", "guide", "guide", "segment"])]


def test_bench_video_streams_with_the_budget_of_a_session(monkeypatch, tmp_path):
    bench, streamed = script("bench_video"), []

    def stop(model, frames, budget):
        streamed.append((frames, budget))
        raise InterruptedError

    monkeypatch.setattr(bench, "stream", stop)
    with pytest.raises(InterruptedError):
        bench.main(["--encoder", "tiny", "--out", str(tmp_path / "bench.json")])
    assert streamed == [(1000, inspect.signature(VideoSession).parameters["budget"].default)]


def test_bench_video_shows_moving_discs_over_noise():
    discs = script("bench_video").Discs(3)
    assert len(discs) == 3
    frames = [discs[i] for i in (0, 1, 2)]
    assert {frame.shape for frame in frames} == {(480, 854, 3)}
    assert np.array_equal(frames[1], discs[1])
    assert not np.array_equal(frames[0], frames[1])
    for row, col, number in script("bench_video").POINTS:
        wanted = {1: (230, 40, 40), 2: (40, 40, 230)}[number]
        assert (tuple(frames[0][row, col]) == wanted) == ((row, col) != (20, 20)), "one point is of the background"


def test_bench_engine(tmp_path, monkeypatch, capsys):
    """Both executors on a tiny grid: equal summaries, every part timed."""
    module, out = script("bench_engine"), tmp_path / "bench.json"
    monkeypatch.setitem(sys.modules, "bench_engine", module)  # workers find the runner by name
    monkeypatch.setenv("PYTHONPATH", str(Path(module.__file__).parent))
    monkeypatch.syspath_prepend(str(Path(module.__file__).parent))
    cache = Path(os.environ["FEWSEG_CACHE"])
    before = set(cache.rglob("*"))
    status = module.main(["--runs", "100", "--rows", "2000", "--out", str(out)])
    assert os.environ["FEWSEG_CACHE"] == str(cache)
    assert set(cache.rglob("*")) == before, "runs that do nothing tell estimates nothing"
    record = json.loads(out.read_text())
    assert (record["runs"], record["rows"]) == (100, 2000)
    assert record["seconds"].keys() == {"plan", "bare", "local", "ray", "again", "report"}
    assert record["seconds"]["again"] < record["seconds"]["local"]
    assert 0 < record["report_bytes"] < 10e6
    assert record["missed"] == module.missed(record)
    assert status == bool(record["missed"])
    assert "page of 2000 rows" in capsys.readouterr().out


@pytest.mark.parametrize("late", [[], ["local"], ["ray"], ["again"], ["report"], ["report_bytes"], ["local", "again"]])
def test_bench_engine_misses_what_is_beyond_its_limit(late):
    module = script("bench_engine")
    assert module.LONGEST == {"local": 60, "ray": 60, "again": 5, "report": 30}
    assert module.LARGEST_REPORT == 10e6
    seconds = {name: limit + (0.1 if name in late else 0) for name, limit in module.LONGEST.items()}
    record = {"seconds": {**seconds, "plan": 1e3, "bare": 1e3}, "report_bytes": 10_000_000 + ("report_bytes" in late)}
    assert module.missed(record) == late


def test_bench_engine_fails_where_a_limit_is_missed(tmp_path, monkeypatch, capsys):
    module, out = script("bench_engine"), tmp_path / "bench.json"
    seconds = {"plan": 1, "bare": 1, "local": 61, "ray": 1, "again": 1, "report": 1}
    record = {"runs": 1, "rows": 1, "seconds": seconds, "report_bytes": 1}
    monkeypatch.setattr(module, "measure", lambda *sizes: record)
    assert module.main(["--out", str(out)]) == 1
    assert json.loads(out.read_text())["missed"] == ["local"]
    assert capsys.readouterr().out == "missed: local\n"
    seconds["local"] = 60
    assert module.main(["--out", str(out)]) == 0
    assert json.loads(out.read_text())["missed"] == []
