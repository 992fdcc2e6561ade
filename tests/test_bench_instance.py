"""The benchmark of a search by reference runs, compares equal work and fails exactly where the ratio is too large."""

import argparse
import json

import pytest
import torch

from test_bench import script

SMALL = ["--encoders", "tiny", "--size", "64", "--width", "16", "--proposals", "20", "--detections", "5"]


@pytest.fixture
def threads():
    """Other tests keep theirs."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_bench_instance(tmp_path, capsys, threads, monkeypatch):
    out, bench = tmp_path / "bench.json", script("bench_instance")
    options = [*SMALL, "--repeats", "3", "--threads", "1", "--out", str(out)]
    monkeypatch.setattr(bench, "LARGEST", 1000.0)
    assert bench.main(options) == 0
    record, text = json.loads(out.read_text()), capsys.readouterr().out
    (row,) = record["rows"]
    assert (row["encoder"], row["size"], row["detections"], record["threads"]) == ("tiny", 64, 5, 1)
    siamese, fixed = row["seconds"]["SiameseMaskRCNN"], row["seconds"]["MaskRCNN"]
    assert row["ratio"] == pytest.approx(siamese["query"]["median"] / fixed["query"]["median"], abs=1e-4)
    assert row["ratio_of_minima"] == pytest.approx(siamese["query"]["minimum"] / fixed["query"]["minimum"], abs=1e-4)
    for parts in row["seconds"].values():
        assert all(len(part["all"]) == 3 and 0 < part["minimum"] <= part["median"] for part in parts.values())
        sums = [sum(both) for both in zip(parts["encode"]["all"], parts["detect"]["all"], strict=True)]
        assert sums == pytest.approx(parts["query"]["all"]), "the query and its parts; a reference is none of them"
    assert f"ratio of the queries {row['ratio']:.3f}" in text
    assert text.endswith("within\n")
    monkeypatch.setattr(bench, "LARGEST", 0.0)
    assert bench.main(options) == 1
    assert capsys.readouterr().out.endswith("too slow\n")


def test_bench_instance_compares_equal_work():
    bench = script("bench_instance")
    options = argparse.Namespace(width=64, proposals=20, detections=5)
    device, work = torch.device("cpu"), {}
    image = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    crop, annotation = image[None, :, :, :32, :32], torch.ones(1, 1, 32, 32, dtype=torch.uint8)
    for name in (bench.SIAMESE, bench.FIXED):
        network, seen = bench.build(name, "tiny", options, device), {}
        heads = network.detector.heads
        for part in ("box_predictor", "mask_predictor"):
            getattr(heads, part).register_forward_hook(
                lambda module, given, answer, part=part, seen=seen: seen.update({part: (len(given[0]), answer)})
            )
        with torch.no_grad():
            guidance = bench.refer(network, crop, annotation)[1]
            bench.query(network, image, guidance)
        scores = seen["box_predictor"][1][0].softmax(-1)
        candidates = int((scores[:, 1:] > heads.score_thresh).sum())
        work[name] = (seen["box_predictor"][0], candidates, seen["mask_predictor"][0])
    assert work == dict.fromkeys(work, (20, 20, 5))


def test_bench_instance_does_not_time_the_reference_in_a_query(monkeypatch):
    bench, calls = script("bench_instance"), []

    class Network:
        def encode_query(self, image):
            calls.append("encode_query")

        def detect(self, features, guidance):
            calls.append(guidance)

    parts = bench.query(Network(), torch.zeros(1), "z")
    assert calls == ["encode_query", "z"]
    assert set(parts) == {"query", "encode", "detect"}


def test_bench_instance_refuses_more_detections_than_there_are(tmp_path, capsys):
    out = tmp_path / "bench.json"
    wrong = [*SMALL[:-1], "50", "--repeats", "1", "--out", str(out)]
    assert script("bench_instance").main(wrong) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("--detections: got 50, of which SiameseMaskRCNN makes 20")
    assert not out.exists()
