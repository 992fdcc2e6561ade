"""One-shot instances as people use them: configs, a benchmark from pre-training to the report, and what is refused."""

import contextlib
import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import PIL.Image
import pycocotools.mask
import pytest
import torch
import yaml
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from fewseg import benchmark
from fewseg.cli import main
from fewseg.datamodules import FewShotDataModule
from fewseg.datasets import CocoOneShot, Shapes5i, ShapesCoco
from fewseg.datasets.voc import voc_palette
from fewseg.models.base import FewShotSegmentor
from quick import InProcess

torch.set_num_threads(1)

HERE = Path(__file__).parent
CONF, EXPERIMENTS = HERE / "conf", HERE.parent / "experiments"
SIAMESE = CONF / "instance-siamese.yaml"
SCENES = {"n_train": 40, "n_val": 30}
SMALL = {"width": 8, "n_proposals": 16, "n_regions": 8, "n_detections": 6, "score_threshold": 0.0}
N_RUNS, N_EPISODES = 5, 10


@pytest.fixture(scope="module", autouse=True)
def scenes():
    """Drawn before any test, for the bar of the drawing goes to stderr."""
    return ShapesCoco(**SCENES)


def official_ap50(list_path, detections, asked, kind):
    """AP50 as COCO's own tools say it of a results file: the mean over classes with an object, each over its images.

    ``asked`` holds the (image, category) pairs of COCO's ids that were searched.
    """
    aps = []
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(list_path))
        found = truth.loadRes(str(detections))
        for category in sorted({category for _, category in asked}):
            evaluator = COCOeval(truth, found, kind)
            evaluator.params.catIds = [category]
            evaluator.params.imgIds = sorted({image for image, other in asked if other == category})
            evaluator.evaluate()
            evaluator.accumulate()
            precision = evaluator.eval["precision"][0, :, 0, 0, -1]
            aps += [precision.mean()] if precision.max() > -1 else []
    return np.mean(aps)


def check_against_coco(dataset, folder, figures, specs):
    """The figures of a run are those of its results files together with the data set's own list."""
    per_run = len(specs) // N_RUNS
    for name, kind in (("ap50_boxes", "bbox"), ("ap50", "segm")):
        aps = []
        for number in range(N_RUNS):
            own = specs[number * per_run : (number + 1) * per_run]
            asked = {dataset.result_ids(spec.query_id, spec.class_id) for spec in own}
            path = folder / f"detections-{number}.json"
            assert {(e["image_id"], e["category_id"]) for e in json.loads(path.read_text())} <= asked
            aps.append(official_ap50(dataset.list_path("val"), path, asked, kind))
        assert figures[name] == pytest.approx(np.mean(aps), abs=1e-6)
        assert figures[f"{name}_std"] == pytest.approx(np.std(aps), abs=1e-6)


# ------------------------------------------------------------------------------------------------- the command line


def command(verb, config, folder, *more):
    arguments = [verb, "--config", str(CONF / "tiny.yaml"), "--config", str(config), *more]
    return [*arguments, "--trainer.default_root_dir", str(folder)]


@pytest.fixture(scope="module", params=["instance-siamese", "instance-mask-rcnn"])
def done(request, tmp_path_factory):
    """A config that was trained, tested, validated and predicted with, and the specs that training and validation saw.

    After its training a detector is told to be sure of what it finds: two steps may leave all scores and all pixels
    under their thresholds.
    """
    folder, config, seen = tmp_path_factory.mktemp("done"), CONF / f"{request.param}.yaml", {"train": [], "val": []}
    options = yaml.safe_load(config.read_text())["data"]
    data = FewShotDataModule(
        ShapesCoco(**SCENES), options["protocol"], n_shot=options.get("n_shot", 1), n_episodes=N_EPISODES
    )
    specs = data.episode_list().specs
    step, validate = FewShotSegmentor.training_step, FewShotSegmentor.validation_step
    with pytest.MonkeyPatch.context() as patched:

        def training_step(self, batch, batch_idx):
            seen["train"] += batch.specs
            return step(self, batch, batch_idx)

        def validation_step(self, batch, batch_idx):
            seen["val"] += batch.specs
            return validate(self, batch, batch_idx)

        patched.setattr(FewShotSegmentor, "training_step", training_step)
        patched.setattr(FewShotSegmentor, "validation_step", validation_step)
        assert main(command("fit", config, folder / "fit", "--data.n_val_episodes", "0")) == 0
        checkpoint = next((folder / "fit").rglob("*.ckpt"))
        content = torch.load(checkpoint, weights_only=True)
        bias = content["state_dict"]["network.detector.heads.box_predictor.cls_score.bias"]
        bias[1 if len(bias) == 2 else specs[0].class_id] += 5
        content["state_dict"]["network.detector.heads.mask_predictor.mask_fcn_logits.bias"] += 0.25
        torch.save(content, checkpoint)
        for verb in ("test", "validate", "predict"):
            assert main(command(verb, config, folder / verb, "--ckpt_path", str(checkpoint))) == 0
    return SimpleNamespace(folder=folder, data=data, specs=specs, **seen)


def only(folder, name):
    (path,) = folder.rglob(name)
    return path


def test_a_test_writes_rows_figures_and_results_of_coco(done, scenes):
    rows = pd.read_parquet(only(done.folder / "test", "episodes.parquet"))
    asked, found = rows[rows.score.isna()], rows[rows.score.notna()]
    assert asked.episode.tolist() == list(range(N_EPISODES))
    assert len(found) > 0
    assert (found.score > 0.5).any(), "otherwise masks are not compared"
    for spec, row in zip(done.specs, asked.itertuples(), strict=True):
        assert (row.query, row.class_id, row.support) == (spec.query_id, spec.class_id, " ".join(spec.support_ids))
        truth = np.any([one.mask for one in scenes.instances(spec.query_id) if one.class_id == spec.class_id], axis=0)
        assert row.tp + row.fn == truth.sum()
        own = found[found.episode == row.episode]
        assert own.object_id.tolist() == list(range(len(own)))
        assert own.score.is_monotonic_decreasing
    figures = json.loads(only(done.folder / "test", "metrics.json").read_text())
    assert figures["episode_list_sha256"] == done.data.episode_list().sha256
    assert (figures["n_repeats"], figures["n_episodes"]) == (N_RUNS, N_EPISODES)
    check_against_coco(scenes, only(done.folder / "test", "episodes.parquet").parent, figures, done.specs)


def test_predictions_are_the_instances_of_the_test(done):
    table = only(done.folder / "predict", "predictions.csv")
    lines = list(csv.DictReader(table.read_text().splitlines()))
    shown = 0
    for number in range(N_RUNS):
        name = f"detections-{number}.json"
        entries = json.loads((table.parent / name).read_text())
        assert entries == json.loads(only(done.folder / "test", name).read_text())
        for place in range(2 * number, 2 * number + 2):
            spec, own = done.specs[place], [line for line in lines if int(line["episode"]) == place]
            ids = done.data.dataset.result_ids(spec.query_id, spec.class_id)
            found = [entry for entry in entries if (entry["image_id"], entry["category_id"]) == ids]
            assert [int(line["number"]) for line in own] == list(range(1, len(found) + 1))
            wanted = np.zeros(done.data.dataset.image(spec.query_id).shape[:2], np.uint8)
            for rank, (line, entry) in reversed(list(enumerate(zip(own, found, strict=True), 1))):
                assert (line["query"], int(line["class_id"])) == (spec.query_id, spec.class_id)
                assert float(line["score"]) == pytest.approx(entry["score"], abs=1e-5)
                x, y, w, h = entry["bbox"]
                corners = [float(line[side]) for side in ("x0", "y0", "x1", "y1")]
                assert corners == pytest.approx([x, y, x + w, y + h], abs=0.01)
                if entry["score"] > 0.5:
                    wanted[pycocotools.mask.decode(entry["segmentation"]) > 0] = rank
            (path,) = table.parent.glob(f"{place:05d}-*.png")
            with PIL.Image.open(path) as image:
                assert image.mode == "P"
                assert image.getpalette()[:63] == voc_palette()[:63]
                assert np.array_equal(np.array(image), wanted)
            shown += wanted.any()
            assert path.with_suffix(".jpg").is_file()
    assert shown, "otherwise all masks are empty"


def test_random_boxes_are_predicted_where_they_are_asked_for(scenes, tmp_path):
    assert main(command("predict", SIAMESE, tmp_path, "--data.random_boxes", "truth")) == 0
    lines = pd.read_csv(only(tmp_path, "predictions.csv"), dtype={"query": str})
    assert lines.score.between(0.8, 1).all()
    for (_, query, class_id), found in lines.groupby(["episode", "query", "class_id"]):
        own = sorted(one.box[2:] for one in scenes.instances(query) if one.class_id == class_id)
        sides = sorted(zip(found.x1 - found.x0, found.y1 - found.y0, strict=True))
        assert np.allclose(own, sides, rtol=0, atol=0.02)


def test_nothing_is_found_above_all_scores(scenes, tmp_path):
    for verb in ("test", "predict"):
        assert main(command(verb, SIAMESE, tmp_path, "--model.score_threshold", "0.99")) == 0
    figures = json.loads(only(tmp_path, "metrics.json").read_text())
    assert (figures["ap50"], figures["ap50_boxes"], figures["detections_per_episode"]) == (0, 0, 0)
    assert pd.read_parquet(only(tmp_path, "episodes.parquet")).episode.tolist() == list(range(N_EPISODES))
    assert {path.read_text() for path in tmp_path.rglob("detections-*.json")} == {"[]"}
    assert len(only(tmp_path, "predictions.csv").read_text().splitlines()) == 1


def test_validation_asks_for_base_classes_in_images_that_neither_train_nor_test(done, scenes):
    held_out, base = set(scenes.ids("held_out")), set(scenes.base_classes(0))
    assert len(held_out) == 4
    assert done.val
    for spec in done.val:
        assert spec.class_id in base
        assert {spec.query_id, *spec.support_ids} <= held_out
        assert spec.query_id not in spec.support_ids
    assert done.train
    novel_too = done.data.training_part.classes == "all"
    for spec in done.train:
        assert {spec.query_id, *spec.support_ids} <= set(scenes.ids("train"))
        assert novel_too or spec.class_id in base


# ------------------------------------------------------------------------------------------------------ a benchmark


def run(path, out):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(benchmark.engine, "_executor", lambda name, out, runner, *rest: InProcess(out, runner))
        return main(["benchmark", str(path), "--out", str(out), "--workers", "1"])


def method(name, **init_args):
    return {"config": {"model": {"class_path": name, "init_args": {"encoder": "tiny", **SMALL, **init_args}}}}


def write(path, **changes):
    """A benchmark file."""
    dataset = {"class_path": "ShapesCoco", "init_args": SCENES}
    data = {"dataset": dataset, "size": 96, "reference_size": 32, "eval_batch_size": 5}
    config = {
        "data": {"data": data, "trainer": {"accelerator": "cpu"}},
        "methods": {"siamese": method("SiameseMaskRCNN")},
        "folds": [0],
        "protocol": "one-shot",
        "n_episodes": N_EPISODES,
        "training": {"max_steps": 2, "batch_size": 2, "validations": 1, "n_val_episodes": 3},
    }
    path.write_text(yaml.safe_dump({**config, **changes}))
    return path


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """One training after a pre-training, tested on one-shot and base classes, with random boxes, and on masks."""
    folder = tmp_path_factory.mktemp("grid")
    shifted = {f"+{name}": {"data": {"random_boxes": name}} for name in ("truth", "detections")}
    path = write(
        folder / "grid.yaml",
        methods={"siamese": {**method("SiameseMaskRCNN"), "variants": shifted}},
        compare="siamese",
        tests=[{}, {"protocol": "one-shot-base"}, {"protocol": "clean"}],
        pretraining={"config": str(EXPERIMENTS / "models/pretraining.yaml"), "max_steps": 2, "batch_size": 2},
    )
    assert run(path, folder / "out") == 0
    rows = json.loads((folder / "out/summary.json").read_text())
    return SimpleNamespace(path=path, out=folder / "out", rows=rows)


def test_one_training_serves_every_test(grid):
    found = sorted(path.parent.name.partition("-")[0] for path in (grid.out / "trainings").glob("*/metrics.json"))
    assert found == ["pretraining", "siamese"]
    assert len({row["training"] for row in grid.rows}) == 1
    searched = [
        (c, p) for c in ("siamese", "siamese+truth", "siamese+detections") for p in ("one-shot", "one-shot-base")
    ]
    assert {(row["config"], row["protocol"]) for row in grid.rows} == {*searched, ("siamese", "clean")}
    assert len(grid.rows) == 7
    first = yaml.safe_load(next(grid.out.glob("trainings/pretraining-*/config.yaml")).read_text())
    assert first["model"]["init_args"]["n_classes"] == 15
    assert first["data"]["train_masks"] == "labels"


def test_figures_of_instances_stand_in_the_summary(grid, scenes):
    for row in grid.rows:
        if row["protocol"] == "clean":
            continue
        assert (row["task"], row["n_repeats"], row["n_episodes"]) == ("instance", N_RUNS, N_EPISODES)
        for name in ("ap50", "ap50_boxes"):
            low, high = row[f"{name}_ci95"]
            assert 0 <= low <= row[name] <= high <= 1
        assert row["clutter"]
        folder = grid.out / row["run"]
        names = {path.name for path in folder.glob("detections-*.json")}
        assert names == {f"detections-{number}.json" for number in range(N_RUNS)}
        classes = scenes.base_classes(0) if row["protocol"] == "one-shot-base" else scenes.novel_classes(0)
        assert set(pd.read_parquet(folder / "episodes.parquet").class_id) <= set(classes)
        assert list((folder / "pictures").glob("*.png"))


def test_random_boxes_are_scored_instead_of_detections(grid):
    """Shifted truth: as many boxes as objects that are asked for, of their areas; shifted detections: as detected."""
    rows = {
        row["config"]: pd.read_parquet(grid.out / row["run"] / "episodes.parquet")
        for row in grid.rows
        if row["protocol"] == "one-shot"
    }
    own, truth, shifted = (rows[f"siamese{suffix}"] for suffix in ("", "+truth", "+detections"))
    asked = truth[truth.score.isna()]
    wanted = [dict(p.split(":") for p in row.truth.split())[str(row.class_id)] for row in asked.itertuples()]
    counts = truth[truth.score.notna()].groupby("episode").size()
    assert counts.tolist() == list(map(int, wanted))
    assert truth.score.dropna().between(0.8, 1).all()
    for _, episode in shifted.groupby("episode"):
        detected = own[own.episode == episode.episode.iloc[0]]
        assert sorted(episode.score.dropna()) == pytest.approx(sorted(detected.score.dropna()))
    assert not np.array_equal(own[["tp", "fp"]].to_numpy(), shifted[["tp", "fp"]].to_numpy())


def test_a_semantic_test_gives_rows_of_masks(grid, scenes):
    (row,) = [row for row in grid.rows if row["protocol"] == "clean"]
    assert row["task"] == "semantic"
    assert not [name for name in row if name.startswith("ap50")]
    rows = pd.read_parquet(grid.out / row["run"] / "episodes.parquet")
    assert rows.episode.tolist() == list(range(N_EPISODES))
    assert rows.score.isna().all()
    for found in rows.itertuples():
        label = scenes.label(found.query)
        assert (found.tp + found.fn, found.fp + found.tn) == ((n := (label == found.class_id).sum()), label.size - n)
    assert not list((grid.out / row["run"]).glob("detections-*.json"))


def test_the_report_names_ap50(grid):
    page = (grid.out / "report.html").read_text()
    assert "AP50" in page
    for suffix in ("", "+truth", "+detections"):
        assert f"siamese{suffix}" in page


def test_the_same_grid_again_does_nothing(grid, capsys):
    def stamps():
        return {path: path.stat().st_mtime_ns for path in grid.out.glob("**/*") if path.name != "report.html"}

    finished = {path: stamp for path, stamp in stamps().items() if path.name in ("metrics.json", "model.safetensors")}
    assert len(finished) == 2 + 2 + 7
    assert run(grid.path, grid.out) == 0
    after = stamps()
    assert {path: after[path] for path in finished} == finished
    assert json.loads((grid.out / "summary.json").read_text()) == grid.rows
    assert "AP50" in capsys.readouterr().out


def test_fixed_classes_and_references_compete_where_all_classes_train(tmp_path):
    methods = {"siamese": method("SiameseMaskRCNN"), "mask-rcnn": method("MaskRCNN")}
    path = write(tmp_path / "grid.yaml", methods=methods, compare="mask-rcnn", protocol="one-shot-all")
    assert run(path, tmp_path / "out") == 0
    rows = json.loads((tmp_path / "out/summary.json").read_text())
    assert {row["config"] for row in rows} == {"siamese", "mask-rcnn"}
    assert len({row["episode_list_sha256"] for row in rows}) == 1
    for row in rows:
        assert 0 <= row["ap50"] <= row["ap50_ci95"][1] <= 1
        assert len(list((tmp_path / "out" / row["run"]).glob("detections-*.json"))) == N_RUNS
    (compared,) = json.loads((tmp_path / "out/comparisons.json").read_text())
    own, other = ({row["config"]: row for row in rows}[name] for name in ("siamese", "mask-rcnn"))
    for name in ("ap50", "ap50_boxes"):
        assert compared[f"{name}_difference"] == pytest.approx(own[name] - other[name])


def test_the_whole_path_on_photographs(real_data, tmp_path):
    root = Path(real_data) / "coco_tiny"
    if not root.is_dir():
        pytest.skip("FEWSEG_DATA holds no coco_tiny: the path on photographs is not tried")
    init = {"root": str(root), "n_held_out": 5}
    data = {"dataset": {"class_path": "CocoOneShot", "init_args": init}, "size": 96, "reference_size": 32}
    shared = {"data": {**data, "eval_batch_size": 5}, "trainer": {"accelerator": "cpu"}}
    shifted = {"siamese": {**method("SiameseMaskRCNN"), "variants": {"+truth": {"data": {"random_boxes": "truth"}}}}}
    path = write(tmp_path / "grid.yaml", data=shared, methods=shifted, n_episodes=40)
    assert run(path, tmp_path / "out") == 0
    dataset = CocoOneShot(**init)
    specs = FewShotDataModule(dataset, "one-shot", n_episodes=40).episode_list().specs
    rows = {row["config"]: row for row in json.loads((tmp_path / "out/summary.json").read_text())}
    for row in rows.values():
        assert row["dataset"] == "coco-one-shot"
        check_against_coco(dataset, tmp_path / "out" / row["run"], row, specs)
    assert all(rows["siamese+truth"][name] > 0 for name in ("ap50", "ap50_boxes")), "otherwise zeros are compared"
    best = max(rows.values(), key=lambda row: row["ap50_boxes"])
    told = [
        f"{best[name]:.3f} of {kind} (95 % interval {best[f'{name}_ci95'][0]:.3f} to {best[f'{name}_ci95'][1]:.3f})"
        for name, kind in (("ap50_boxes", "boxes"), ("ap50", "masks"))
    ]
    page = (tmp_path / "out/report.html").read_text()
    assert f"<strong>{best['config']}</strong>, AP50 on novel classes {' and '.join(told)}." in page


def test_help_reports_and_planning_do_not_import_torch(grid, tmp_path):
    code = f"""
import sys
from fewseg.cli import main
try:
    main(["--help"])
except SystemExit as stop:
    assert not stop.code
assert main(["report", {str(grid.out)!r}]) == 0
assert main(["benchmark", {str(grid.path)!r}, "--out", {str(tmp_path)!r}, "--dry-run"]) == 0
print("loaded", [name for name in sys.argv[1:] if name in sys.modules])
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-c", code, "torch", "torchvision", "pytorch_lightning", "timm", "wandb"]
    ended = subprocess.run(arguments, capture_output=True, text=True, check=False, env=environment)
    assert ended.returncode == 0, ended.stderr
    assert "2 trainings, 7 runs" in ended.stdout
    assert ended.stdout.endswith("loaded []\n")


# --------------------------------------------------------------------------------------------------------- bad input


def refused(capsys, arguments):
    """The one line that a wrong call ends with."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    assert "Traceback" not in captured.err + captured.out
    assert all(part in captured.err for part in ("fewseg: error: ", ": got ", ", expected ", "; ")), captured.err
    return captured.err.strip().removeprefix("fewseg: error: ")


@pytest.mark.parametrize(
    ("verb", "options", "argument", "got", "expected"),
    [
        ("test", ("--model", "GuidedNet"), "--model", "GuidedNet", "a method that finds instances"),
        ("predict", ("--model", "FgBg"), "--model", "FgBg", "a method that finds instances"),
        ("test", ("--data.dataset", "Shapes5i"), "--data.dataset", "Shapes5i, which", "annotated instances"),
        ("fit", ("--data.dataset", "Voc400"), "--data.dataset", "Voc400, which", "annotated instances"),
        ("test", ("--data.n_points", "3"), "--data.n_points", "3", "null under one-shot"),
        ("test", ("--data.n_episodes", "7"), "n_episodes", "7", "a multiple of 5"),
        ("fit", ("--data.cache", "features"), "--data.cache", "features", "none or images"),
        ("fit", ("--data.augmentation", "full"), "--data.augmentation", "full", "none or flip beside instances"),
        ("fit", ("--data.train_points", "sparse"), "--data.train_points", "sparse", "dense"),
        ("test", ("--data.n_shot", "0"), "--data.n_shot", "0", "at least 1"),
        ("test", ("--data.reference_size", "4"), "--data.reference_size", "4", "8 pixels or more"),
        (
            "fit",
            ("--model", "MaskRCNN", "--model.encoder", "tiny", "--model.n_classes", "3"),
            "--model.n_classes",
            "3",
            "at least 20",
        ),
        (
            "test",
            ("--data.protocol", "clean", "--data.random_boxes", "truth"),
            "--data.random_boxes",
            "truth",
            "none under clean",
        ),
        ("fit", ("--data.random_boxes", "boxes"), "--data.random_boxes", "boxes", "none, truth, detections"),
        ("fit", ("--data.dataset.n_held_out", "40"), "--data.dataset.n_held_out", "40 of the 40", "fewer"),
        ("fit", ("--data.dataset.n_held_out", "0"), "--data.dataset", "shapes-coco, which", "images for model"),
        ("fit", ("--model.encoder", "vit_tiny_patch16_224"), "encoder", "taps of strides", "each twice the one before"),
        ("fit", ("--data.train_shot", "0"), "--data.train_shot", "0", "1 or more for SiameseMaskRCNN"),
        ("fit", ("--data.train_masks", "labels"), "--data.train_masks", "labels", "class for SiameseMaskRCNN"),
    ],
)
def test_what_cannot_be_asked_for_is_one_line(verb, options, argument, got, expected, capsys, tmp_path):
    line = refused(capsys, command(verb, SIAMESE, tmp_path / "out", *options))
    assert line.startswith(f"{argument}: got {got}"), line
    assert expected in line.partition(", expected ")[2], line
    assert {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()} <= {"config.yaml"}


def broken(tmp_path, change):
    """A tree of the generated scenes whose test list was changed."""
    dataset = ShapesCoco(str(tmp_path / "tree"), 8, 4)
    path = dataset.list_path("val")
    path.write_text(change(path.read_text()))
    return path


def without_segmentation(text):
    content = json.loads(text)
    del content["annotations"][3]["segmentation"]
    return json.dumps(content)


@pytest.mark.parametrize(
    ("change", "said"),
    [(lambda text: text[:-40], "JSONDecodeError"), (without_segmentation, "without segmentation")],
    ids=["truncated", "without segmentation"],
)
def test_a_broken_list_is_named(change, said, capsys, tmp_path):
    path = broken(tmp_path, change)
    options = ("--data.dataset.n_train", "8", "--data.dataset.n_val", "4", "--data.root", str(tmp_path / "tree"))
    line = refused(capsys, command("test", SIAMESE, tmp_path / "out", *options))
    assert line.startswith(f"{path}: got a broken list ("), line
    assert said in line


GUIDED = {"config": {"model": {"class_path": "GuidedNet", "init_args": {"encoder": "tiny"}}}}
VIT = {"config": {"model": {"class_path": "SiameseMaskRCNN", "init_args": {"encoder": "vit_tiny_patch16_224"}}}}


@pytest.mark.parametrize(
    ("changes", "argument", "got"),
    [
        ({"methods": {"guided": GUIDED}}, "methods.guided", "GuidedNet"),
        ({"methods": {"vit": VIT}}, "encoder", "taps of strides"),
        ({"n_episodes": 7}, "n_episodes", "7"),
        ({"points": [1]}, "n_points", "1"),
        ({"shots": [0]}, "n_shot", "0"),
        ({"methods": {"a": {**method("MaskRCNN"), "data": {"cache": "features"}}}}, "--data.cache", "features"),
        ({"methods": {"a": {**method("SiameseMaskRCNN"), "data": {"train_shot": 0}}}}, "methods.a: train_shot", "0"),
        (
            {"methods": {"a": {**method("MaskRCNN"), "data": {"train_masks": "foreground"}}}},
            "methods.a: train_masks",
            "foreground",
        ),
        ({"methods": {"a": method("MaskRCNN", n_classes=3)}}, "methods.a: n_classes", "3"),
        (
            {
                "protocol": "clean",
                "methods": {"a": {**method("MaskRCNN"), "variants": {"+t": {"data": {"random_boxes": "truth"}}}}},
            },
            "methods.*.variants",
            "['a+t']",
        ),
    ],
)
def test_a_benchmark_that_cannot_be_is_one_line_and_writes_nothing(changes, argument, got, capsys, tmp_path):
    line = refused(capsys, ["benchmark", write(tmp_path / "wrong.yaml", **changes), "--out", tmp_path / "out"])
    assert line.partition(": got ")[0].endswith(argument), line
    assert line.partition(": got ")[2].startswith(got), line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["Shapes5i", "Voc400"])
def test_a_benchmark_on_data_without_instances_is_one_line(name, request, capsys, tmp_path):
    init = {"n_train": 60, "n_val": 20} if name == "Shapes5i" else {}
    if name == "Shapes5i":
        Shapes5i(**init)
    else:
        request.getfixturevalue("real_data")
    data = {"data": {"dataset": {"class_path": name, "init_args": init}}}
    line = refused(capsys, ["benchmark", write(tmp_path / "wrong.yaml", data=data), "--out", tmp_path / "out"])
    assert line.startswith(f"--data.dataset: got {name}, which has no instances of COCO")
    assert not (tmp_path / "out").exists()
