"""What happens beside training: learning curves, rows on disk, pictures, wandb panels, progress for a benchmark."""

from __future__ import annotations

import atexit
import csv
import io
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytorch_lightning as pl
import torch
import yaml
from jsonargparse import Namespace
from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning.cli import LightningArgumentParser, SaveConfigCallback
from pytorch_lightning.loggers import WandbLogger
from torch import Tensor

from fewseg import dashboard, evaluation
from fewseg.datamodules import FewShotDataModule
from fewseg.episode import POSITIVE, VOID, EpisodeBatch, EpisodeSpec, Instances, Row, VideoEpisode
from fewseg.errors import FewsegError
from fewseg.functional.draw import (
    Shown,
    click_panel,
    draw_instances,
    drawn_places,
    film_strip,
    instance_panel,
    labelled,
    numbered,
    panel,
    shown_frames,
)
from fewseg.functional.matching import result
from fewseg.functional.run_figures import score
from fewseg.functional.video_scores import frame_j
from fewseg.models.base import GIF_FRAMES, FewShotSegmentor, Labels
from fewseg.results import atomic, in_words, read_rows, write_json, write_rows, write_text
from fewseg.sampling import EvaluationPart, search_dataset

_JPEG = (cv2.IMWRITE_JPEG_QUALITY, 90)  # ignored for PNGs


def _folder(trainer: pl.Trainer) -> Path:
    """Where a run writes, beside its checkpoints. Every process must ask, for the answer is broadcast."""
    logger = trainer.logger
    if isinstance(logger, WandbLogger):  # whose save_dir is that of many runs
        return Path(str(trainer.strategy.broadcast(f"{logger.save_dir}/{logger.name}/{logger.version}")))
    return Path(trainer.log_dir or trainer.default_root_dir)


class Curve(pl.Callback):
    """Writes ``curve.csv`` (step, loss, miou of base-class episodes, seconds); a resumed training continues it.

    The loss is the mean since the line before. Losses between the last line and a checkpoint are not kept for a resumed
    training: its first line is the mean over fewer steps.

    Args:
        path: of the file.
        every: steps between two lines where validation is off.
    """

    def __init__(self, path: Path, every: int = 50) -> None:
        self.path, self.every = path, every
        self.losses: list[Tensor] = []  # on the device: a number would make every step wait for it
        self.step = 0
        self.lines: list[list[Any]] = []
        self.seconds = 0.0
        self.since = time.perf_counter()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keeps the lines up to the restored step."""
        self.since, self.step = time.perf_counter(), trainer.global_step
        if self.path.is_file():
            lines = list(csv.reader(self.path.read_text().splitlines()))[1:]
            self.lines = [list(line) for line in lines if int(line[0]) <= trainer.global_step]
        if self.lines:
            self.seconds = float(self.lines[-1][3])

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Remembers the loss."""
        self.losses.append(outputs["loss"].detach())
        if trainer.global_step != self.step and trainer.global_step % self.every == 0:
            self._line(trainer, "")
        self.step = trainer.global_step

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Adds a line with the score."""
        miou = trainer.callback_metrics.get("val/miou")
        if miou is not None and not trainer.sanity_checking:
            self._line(trainer, f"{float(miou):.4f}")

    def elapsed(self) -> float:
        """Seconds of training, those before a resume included."""
        return self.seconds + time.perf_counter() - self.since

    def _line(self, trainer: pl.Trainer, miou: str) -> None:
        step = trainer.global_step
        loss = f"{torch.stack(self.losses).double().mean().item():.5f}" if self.losses else ""
        if self.lines and int(self.lines[-1][0]) == step:  # the loss was written just before the score
            loss = loss or self.lines[-1][1]
            self.lines.pop()
        self.losses = []
        self.lines.append([step, loss, miou, f"{self.elapsed():.1f}"])
        if trainer.is_global_zero:
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows([["step", "loss", "miou", "seconds"], *self.lines])
            write_text(self.path, text.getvalue())


class Checkpoint(pl.Callback):
    """Keeps a training resumable and, where there is validation, the weights of its best base-class score.

    What a checkpoint says of a step's validation is that it has been done: a resumed training skips it. So the state of
    a step with a validation is saved after it, and that of other steps where their number is a multiple of ``every``.

    Args:
        folder: for ``last.ckpt`` (all state, replaced atomically) and ``model.safetensors`` with ``config.json``.
        every: steps between two checkpoints.
        validate_every: steps between two validations; None where there are none.
    """

    def __init__(self, folder: Path, every: int, validate_every: int | None = None) -> None:
        self.folder, self.every, self.validate_every = folder, every, validate_every
        self.last = folder / "last.ckpt"
        self.best_score, self.best_step = -1.0, -1
        self.step, self.stepped = 0, False  # of the last batch, and whether it completed that step

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training must know of the best weights."""
        return {"best_score": self.best_score, "best_step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores it."""
        self.best_score, self.best_step = float(state_dict["best_score"]), int(state_dict["best_step"])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes up the count at the restored step."""
        self.step, self.stepped = trainer.global_step, False

    def on_train_batch_end(self, trainer: pl.Trainer, *rest: Any) -> None:
        """Saves now and then, once a step, but not while its validation is still to come."""
        step = trainer.global_step
        self.step, self.stepped = step, step != self.step  # accumulated gradients are no part of a checkpoint
        validates = self.validate_every is not None and step % self.validate_every == 0
        if step % self.every == 0 and not validates:
            self._save(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keeps the weights if they are the best so far, and the state after every validation."""
        if trainer.sanity_checking:
            return
        score = trainer.callback_metrics.get("val/miou")
        if score is not None and float(score) > self.best_score and isinstance(pl_module, FewShotSegmentor):
            self.best_score, self.best_step = float(score), trainer.global_step
            if trainer.is_global_zero:
                pl_module.save(self.folder)
        self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        """Not within a step, and not after the last one: its weights are written instead."""
        if not self.stepped or trainer.global_step >= trainer.max_steps:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / ".last.ckpt"
        trainer.save_checkpoint(temporary)
        if trainer.is_global_zero:
            temporary.replace(self.last)

    def finish(self, module: Any, step: int) -> None:
        """After the last step: the weights of that step, unless better ones were kept."""
        if self.best_step < 0:
            self.best_step = step
            module.save(self.folder)


class Progress(pl.Callback):
    """Reports every finished training step and test batch to a function, e.g. a benchmark's one progress bar.

    Args:
        report: called with the number of units done since the last call.
        every: seconds between two calls at least.
    """

    def __init__(self, report: Callable[[int], None], every: float = 0.5) -> None:
        self.report, self.every, self.pending, self.last = report, every, 0, 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reports the steps that a checkpoint brought along."""
        self.report(trainer.global_step)

    def on_train_batch_end(self, *args: Any) -> None:
        """Counts a step."""
        self.pending += 1
        if time.perf_counter() - self.last > self.every:
            self.flush()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reports what is left."""
        self.flush()

    def flush(self) -> None:
        """Reports what is pending."""
        self.report(self.pending)
        self.pending, self.last = 0, time.perf_counter()


class _LastWord(pl.Callback):
    """Says one line in the terminal when all is done, so below bars of progress and tables."""

    told = ""

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Prints the line, where there is one."""
        if self.told:
            print(self.told)
        self.told = ""


class WriteRows(_LastWord):
    """After ``fewseg test``: ``episodes.parquet`` and ``metrics.json`` in the run's folder, a line in the terminal.

    Where instances were asked for, they are there as COCO's results, too: ``detections-<run>.json``.
    """

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the rows of rank 0, which holds those of all processes."""
        folder = _folder(trainer) / "test"
        if not trainer.is_global_zero or not isinstance(pl_module, FewShotSegmentor):
            return
        data: FewShotDataModule = trainer.datamodule  # type: ignore[attr-defined]
        folder.mkdir(parents=True, exist_ok=True)
        write_rows(folder / "episodes.parquet", pl_module.rows)
        write_detections(folder, pl_module.detections, data.evaluation_part)
        frame, names = read_rows(folder / "episodes.parquet"), data.dataset.class_names
        figures = score(frame, names, data.scored_classes(), data.evaluation_part.runs, data.n_clicks)
        figures |= pl_module.figures
        write_json(folder / "metrics.json", {**figures, "episode_list_sha256": data.episode_list().sha256})
        told, (low, high) = in_words(figures), figures["ci95"]
        if "n_videos" in figures:
            told, kind = told.strip(), "videos"
        else:
            told, kind = f"mIoU {figures['miou']:.3f} [{low:.3f}, {high:.3f}]{told}", "episodes"
        self.told = f"{told} over {figures['n_episodes']} {kind}: {folder}"


def write_detections(folder: Path, detections: Sequence[tuple[int, str]], part: EvaluationPart) -> None:
    """Writes the instances of a test or of predictions as COCO's results, a file for each list of references.

    ``COCO.loadRes`` reads ``detections-<run>.json``; the lists ask for the same objects, so that together they would
    count everything several times.

    Args:
        folder: of the run.
        detections: of every episode its place in the list and the entries of its detections, as JSON; none where a
            protocol asks for no instances.
        part: the evaluation part of the protocol.
    """
    for number in range(part.runs if detections else 0):
        own = [text for place, text in detections if part.run_of(place, len(detections)) == number]
        write_text(
            folder / f"detections-{number}.json", f"[{', '.join(entries[1:-1] for entries in own if entries != '[]')}]"
        )


class ChannelsLast(pl.Callback):
    """Keeps convolution weights in the memory format that tensor cores read."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Converts the module before it is used."""
        pl_module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class SaveModel(pl.Callback):
    """After ``fewseg fit``: the model as safetensors and config.json, for ``fewseg.load_model``."""

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes it once, from rank 0."""
        folder, save = _folder(trainer) / "model", getattr(pl_module, "save", None)
        if trainer.is_global_zero and save is not None:
            print(f"model: {save(folder)}")


class WritePredictions(_LastWord):
    """After ``fewseg predict``: palette PNGs and ``predictions.csv`` in the run's folder.

    One PNG per query, with its class as the value; of a video one per frame, ``<sequence>/<frame>.png`` with the
    numbers of its objects, at original size: the layout that the official evaluation of DAVIS reads. Where instances
    are asked for, one per query and class with their numbers, the best from 1, a picture of them, and all of them in
    the table and as COCO's results in ``detections-<run>.json``, a file for each list of references; PNG and picture
    leave out what scores no more than the protocol's threshold.
    """

    def __init__(self) -> None:
        self.folder = Path()
        self.lines: list[list[Any]] = []  # of this process
        self.found: list[list[list[Any]]] = []  # instead of them, where instances are asked for, those of each episode
        self.detections: list[tuple[int, str]] = []  # as in FewShotSegmentor
        self.places: Sequence[int] = ()

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts a new table."""
        self.folder, self.lines = _folder(trainer) / "predictions", []
        self.found, self.detections = [], []
        self.places = trainer.datamodule.places()  # type: ignore[attr-defined]
        self.folder.mkdir(parents=True, exist_ok=True)

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int, *rest: Any
    ) -> None:
        """Writes the masks of a batch, or the frames of a video as they come."""
        if isinstance(batch, VideoEpisode):
            self._write_video(batch, outputs)
            return
        data: FewShotDataModule = trainer.datamodule  # type: ignore[attr-defined]
        if _searches(data):
            for spec, instances in zip(batch.specs, outputs, strict=True):
                self._write_instances(data, spec, instances)
            return
        for spec, mask in zip(batch.specs, outputs, strict=True):
            number = self.places[len(self.lines)]  # in the episode list
            name = f"{number:05d}-{Path(spec.query_id).name}-class{spec.class_id}.png"
            _write_labels(self.folder / name, mask * spec.class_id)
            share = f"{float(mask.mean()):.5f}"
            self.lines.append([number, spec.query_id, " ".join(spec.support_ids), spec.class_id, name, share])

    def _write_video(self, episode: VideoEpisode, tracked: Iterable[evaluation.Tracked]) -> None:
        spec, frames = episode.spec, 0
        for frame in tracked:
            _write_labels(self.folder / f"{episode.frame_ids[frame.frame]}.png", frame.labels)
            frames += 1
        number, support = self.places[len(self.lines)], " ".join(spec.support_ids)
        self.lines.append([number, spec.query_id, support, episode.n_objects, frames, spec.query_id])

    def _write_instances(self, data: FewShotDataModule, spec: EpisodeSpec, instances: Instances) -> None:
        number, threshold = self.places[len(self.detections)], data.evaluation_part.threshold
        found = _shown(instances)
        assert found.scores is not None
        name = f"{number:05d}-{Path(spec.query_id).name}-class{spec.class_id}.png"
        _write_labels(self.folder / name, numbered(found.masks, np.flatnonzero(found.scores > threshold)))
        scene, references = data.dataset.image(spec.query_id), [crop for crop, _ in data.pictures_of_supports(spec)]
        drawn = draw_instances(scene, found, references, threshold, max(240, scene.shape[0]))
        picture = Path(name).with_suffix(".jpg").name
        cv2.imwrite(str(self.folder / picture), drawn[..., ::-1], _JPEG)
        asked = [number, spec.query_id, " ".join(spec.support_ids), spec.class_id]
        self.found.append(
            [
                [*asked, place + 1, f"{score:.5f}", *(f"{side:.2f}" for side in box), name, picture]
                for place, (score, box) in enumerate(zip(found.scores, found.boxes, strict=True))
            ]
        )
        ids = search_dataset(data.dataset).result_ids(spec.query_id, spec.class_id)
        self.detections.append((number, json.dumps(result(*ids, evaluation.detected(instances)))))

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the table of all processes."""
        data: FewShotDataModule = trainer.datamodule  # type: ignore[attr-defined]
        searched = _searches(data)
        if searched:
            placed = evaluation.gather(
                list(zip(self.detections, self.found, strict=True)), lambda episode: episode[0][0]
            )
            lines = [line for _, found in placed for line in found]
        else:
            lines = evaluation.gather(self.lines, lambda line: int(line[0]))
        if not trainer.is_global_zero:
            return
        last = ["objects", "frames", "folder"] if _films(data) else ["class_id", "file", "foreground_share"]
        if searched:
            last = ["class_id", "number", "score", "x0", "y0", "x1", "y1", "file", "picture"]
            write_detections(self.folder, [detections for detections, _ in placed], data.evaluation_part)
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([["episode", "query", "support", *last], *lines])
        write_text(self.folder / "predictions.csv", text.getvalue())
        what = f"instances in {len(placed)} episodes" if searched else "videos" if _films(data) else "masks"
        self.told = f"{len(lines)} {what}: {self.folder}"


def _films(data: FewShotDataModule) -> bool:
    """Whether the protocol tests videos."""
    return data.evaluation_part.task in ("video", "interactive_video")


def _searches(data: FewShotDataModule) -> bool:
    """Whether the protocol asks for instances."""
    return data.evaluation_part.task == "instance"


def _write_labels(path: Path, labels: np.ndarray[Any, Any]) -> None:
    """A label map (H, W) as a PNG in the palette of VOC and DAVIS, whole or not at all."""
    from PIL import Image

    from fewseg.datasets.voc import voc_palette

    image = Image.fromarray(labels.astype(np.uint8), mode="P")
    image.putpalette(voc_palette())
    with atomic(path) as temporary:
        image.save(temporary, format="PNG")


class Drawn(NamedTuple):
    """An episode for people to look at.

    Args:
        panel: (h, w, 3) uint8, support, query, prediction and truth side by side; clicks where there are some.
        query: (H, W, 3) uint8.
        prediction: (H, W) uint8, 1 in the mask, or the numbers of instances from 1.
        truth: the same of the truth, 255 where it is unknown.
    """

    panel: np.ndarray[Any, Any]
    query: np.ndarray[Any, Any]
    prediction: np.ndarray[Any, Any]
    truth: np.ndarray[Any, Any]


def look_at(module: FewShotSegmentor, data: FewShotDataModule, specs: list[EpisodeSpec]) -> list[Drawn]:
    """What a method answers in any episodes but videos.

    Where instances are asked for, the panel has those found, with the references in a corner, and the truth.
    """
    was_training = module.training  # the trainer has undone the eval mode of the test by now
    module.eval()
    try:
        return [_look_at(module, data, spec) for spec in specs]
    finally:
        module.train(was_training)


def draw_episodes(module: FewShotSegmentor, data: FewShotDataModule, specs: list[EpisodeSpec]) -> list[np.ndarray]:
    """The panels of ``look_at``."""
    return [drawn.panel for drawn in look_at(module, data, specs)]


def _look_at(module: FewShotSegmentor, data: FewShotDataModule, spec: EpisodeSpec) -> Drawn:
    if data.evaluation_part.interaction is not None:
        return _look_at_object(module, data, spec)
    if _searches(data):
        return _look_at_search(module, data, spec)
    together = [s for s in data.episode_list().specs if spec.group is not None and s.group == spec.group] or [spec]
    batch, place = data.batch_of(together).to(module.device), together.index(spec)
    logits = evaluation.predict(module.network, batch).logits
    pred, target = evaluation.masks(batch, logits)[place], batch.targets[place]
    assert target is not None
    supports, truth = data.pictures_of_supports(spec), target.cpu().numpy()
    query = cv2.resize(data.dataset.image(spec.query_id), pred.shape[::-1], interpolation=cv2.INTER_AREA)
    return Drawn(panel(supports, query, pred, truth), query, pred, truth)


def _look_at_object(module: FewShotSegmentor, data: FewShotDataModule, spec: EpisodeSpec) -> Drawn:
    """An object: with the clicks of the robot, or those that the episode was drawn with."""
    pred, clicks = evaluation.answers(module, data, spec)
    target = data.batch_of([spec]).targets[0]
    assert target is not None
    truth, query, supports = target.numpy(), data.dataset.image(spec.query_id), data.pictures_of_supports(spec)
    drawn = click_panel(query, clicks, pred, truth, supports)
    return Drawn(drawn, cv2.resize(query, pred.shape[::-1], interpolation=cv2.INTER_AREA), pred, truth)


def _look_at_search(module: FewShotSegmentor, data: FewShotDataModule, spec: EpisodeSpec) -> Drawn:
    """An episode that asks for instances."""
    found, truth = _search(module, data, spec, data.random_boxes)
    references = [crop for crop, _ in data.pictures_of_supports(spec)]
    query, threshold = data.dataset.image(spec.query_id), data.evaluation_part.threshold
    assert found.scores is not None
    pred, known = numbered(found.masks, drawn_places(found.scores, threshold)), range(len(truth.boxes))
    drawn = instance_panel(query, found, truth, references, threshold)
    return Drawn(drawn, query, pred, numbered(truth.masks, known))


def _search(
    module: FewShotSegmentor, data: FewShotDataModule, spec: EpisodeSpec, random_boxes: str
) -> tuple[Shown, Shown]:
    """What is scored in an episode that asks for instances, and the objects that it asks for, without crowds."""
    batch: EpisodeBatch = data.transfer_batch_to_device(data.batch_of([spec]), module.device, 0)
    instances = evaluation.search(module.network, batch, random_boxes).instances
    assert batch.instances is not None
    (known,) = batch.instances
    assert known.crowd is not None
    asked = (known.labels == spec.class_id) & ~known.crowd
    return _shown(instances[0]), Shown(known.boxes[asked].numpy(), known.masks[asked].numpy())


def _shown(instances: Instances) -> Shown:
    scores = None if instances.scores is None else instances.scores.numpy()
    return Shown(instances.boxes.numpy(), instances.masks.numpy(), scores)


def save_pictures(
    module: FewShotSegmentor, data: FewShotDataModule, rows: list[Row], folder: Path, n_listed: int = 0
) -> None:
    """The best, the median and the worst episode of a run, or strips of its first videos, with ``index.json``.

    Episodes that ask for instances are ranked by the IoU of the union of what was found. Beside the panel of an episode
    its query and the masks are kept, which ``overlay`` in the index names, for pictures with masks to switch on and
    off. An episode costs about as much as it did in the test.

    Args:
        module: after a test.
        data: of the test.
        rows: of the test.
        folder: where to.
        n_listed: so many episodes from the start of the list as well, as kind ``list``, the same ones for all methods
            of a setting; queries without the class are passed over.
    """
    specs = data.episode_list().specs
    if _films(data):
        _save_films(module.films, data, rows, folder)
        return
    episodes = (row for row in rows if row.present and row.score is None)  # no single detections
    shown = list({row.episode: row for row in episodes}.values())  # of an object, the last click
    order = sorted(shown, key=lambda row: (row.tp / max(row.tp + row.fp + row.fn, 1), row.episode))
    chosen = [("worst", order[0]), ("median", order[len(order) // 2]), ("best", order[-1])]
    chosen += [("list", row) for row in sorted(shown, key=lambda row: row.episode)[:n_listed]]
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    places = sorted({row.episode for _, row in chosen})
    drawn = dict(zip(places, look_at(module, data, [specs[place] for place in places]), strict=True))
    for kind, row in chosen:
        # a fifth of a PNG, for what every run has
        name, one = f"{kind}-{row.episode}.{'jpg' if kind == 'list' else 'png'}", drawn[row.episode]
        cv2.imwrite(str(folder / name), one.panel[..., ::-1], _JPEG)
        entries.append(
            {
                "file": name,
                "kind": kind,
                "episode": row.episode,
                "query": row.query,
                "iou": row.tp / max(row.tp + row.fp + row.fn, 1),
                "class_name": data.dataset.class_names[row.class_id - 1],
                "clicks": row.click,
                "overlay": {part: f"{part}-{row.episode}{suffix}" for part, suffix in _OVERLAY.items()},
            }
        )
    for place, one in drawn.items():
        query = folder / f"query-{place}{_OVERLAY['query']}"
        cv2.imwrite(str(query), one.query[..., ::-1], _JPEG)
        for part, mask in (("prediction", one.prediction), ("truth", one.truth)):
            cv2.imwrite(str(folder / f"{part}-{place}{_OVERLAY[part]}"), mask.astype(np.uint8))
    write_json(folder / "index.json", entries)


_OVERLAY = {"query": ".jpg", "prediction": ".png", "truth": ".png"}  # a few kilobytes each


def _save_films(
    films: Mapping[int, Mapping[int, Labels]], data: FewShotDataModule, rows: list[Row], folder: Path
) -> None:
    """Strips of the first videos, prediction and truth, of the same frames for all methods of a setting."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for place, film in sorted(films.items()):
        spec = data.episode_list().specs[place]
        video = data.video_of(spec)
        shown = shown_frames(len(video), sorted(video.annotations))
        images = {frame: video.frames[frame] for frame in shown}
        known = {frame: _labels_of(video.targets[frame]) for frame in shown}
        truth = {frame: labels for frame, labels in known.items() if labels is not None}
        pred = {frame: film[frame].unpacked() for frame in shown}
        given, own = dict(video.annotations), [row for row in rows if row.episode == place]
        for kind, labels, annotated in (("film", pred, dict.fromkeys(given)), ("truth", truth, given)):
            name = f"{kind}-{place}.jpg"  # a tenth of a PNG, in a page that holds many
            strip = film_strip(images, labels, annotated)
            cv2.imwrite(str(folder / name), strip[..., ::-1], _JPEG)
            entry = {"file": name, "kind": kind, "episode": place, "query": spec.query_id, "annotated": sorted(given)}
            entries.append(entry | ({"j_mean": _mean_j(own, len(video))} if kind == "film" and own else {}))
    write_json(folder / "index.json", entries)


def _labels_of(target: np.ndarray[Any, Any] | None) -> np.ndarray[Any, Any] | None:
    """Masks (objects, H, W) as one map of object numbers (H, W), 255 where all are unknown."""
    if target is None:
        return None
    labels = np.where((target == VOID).all(0), VOID, 0)
    for number, mask in enumerate(target, 1):
        labels[mask == POSITIVE] = number
    return labels


def _mean_j(rows: Sequence[Row], n_frames: int) -> float:
    """J of a video, mean over its objects, all of which have the same frames: without the first and the last one."""
    inner = [row for row in rows if row.frame not in (0, n_frames - 1)]
    tp, fp, fn = np.array([(row.tp, row.fp, row.fn) for row in inner]).T
    return float(frame_j(tp, fp, fn).mean())


class SaveConfig(SaveConfigCallback):
    """Lightning's ``config.yaml`` in the run's folder; the same goes to wandb, by which runs are filtered there."""

    def __init__(self, parser: LightningArgumentParser, config: Namespace, overwrite: bool = False) -> None:
        super().__init__(parser, config, overwrite=overwrite, save_to_log_dir=False)
        self.folder = Path()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Finds the folder, and writes where that was not done before."""
        self.folder = _folder(trainer)
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Called once, on the first process."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / self.config_filename
        with warnings.catch_warnings():  # a newer name of skip_none is not in all supported releases
            warnings.simplefilter("ignore", DeprecationWarning)
            self.parser.save(self.config, path, skip_none=False, overwrite=self.overwrite)
            config = yaml.safe_load(self.parser.dump(self.config, skip_none=False))
        told = {key: config[key] for key in ("seed_everything", "model", "data") if key in config}
        told["trainer"] = {k: v for k, v in config["trainer"].items() if k not in ("logger", "callbacks")}
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_hyperparams(told)


class Dashboard(WandbLogger):
    """Lightning's logger for wandb, offline unless ``WANDB_MODE`` or a sweep says otherwise, and quiet.

    A member of a sweep goes online, for the sweep's server waits for its score.

    Args:
        project: of wandb.
        save_dir: where the files are written.
        name: of the run; None lets wandb make one up.
        id: of the run; the same one goes on with a run that is online.
        group: of runs that belong together.
    """

    def __init__(
        self,
        project: str = "fewseg",
        save_dir: str = "runs/wandb",
        name: str | None = None,
        id: str | None = None,
        group: str | None = None,
    ) -> None:
        Path(save_dir).mkdir(parents=True, exist_ok=True)  # else wandb warns and writes elsewhere
        more = {"group": group, "mode": dashboard.mode(), "settings": dashboard.quiet()}
        super().__init__(name=name, save_dir=save_dir, id=id, project=project, **more)
        self._wandb_init.pop("anonymous", None)  # which Lightning passes on, and wandb warns of
        self.told = False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run of wandb, which ends with this process at the latest, also where wandb's own process lives on."""
        begun = self._experiment is None
        with dashboard.plainly():
            run = super().experiment
        if begun:
            atexit.register(run.finish)
        return run

    def finalize(self, status: str) -> None:
        """After training or a test: one line on where the files are."""
        super().finalize(status)
        if self._experiment is not None and not self.told and dashboard.mode() == "offline":
            self.told = True
            print(dashboard.upload_hint(Path(self.experiment.settings.sync_dir)))


class EpisodePanels(pl.Callback):
    """Logs support, query, prediction and truth of a few base-class episodes to wandb, as images with mask overlays.

    Where instances are asked for: their panel, and the query with their masks, boxes and scores; after a test as well.
    After a test on videos: the first of them as GIFs, the truth above the prediction.

    Args:
        n_episodes: panels per validation or test, or videos per test, of which there are 3 at most.
    """

    def __init__(self, n_episodes: int = 4) -> None:
        if n_episodes < 1:
            raise FewsegError("n_episodes", n_episodes, "at least 1", "raise it")
        self.n_episodes = n_episodes

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs the panels of the first episodes of the validation list."""
        loggers = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
        if not loggers or trainer.sanity_checking or not isinstance(pl_module, FewShotSegmentor):
            return
        data: FewShotDataModule = trainer.datamodule  # type: ignore[attr-defined]
        names = {0: "background", 1: "foreground"}
        panels: dict[str, Any] = {}
        specs = data.validation_episodes().specs[: self.n_episodes]
        if _searches(data) and pl_module.network.output == "instances":
            panels, specs = _logged_searches(pl_module, data, specs, "none"), ()
        for i, spec in enumerate(specs):
            batch = data.batch_of([spec]).to(pl_module.device)
            logits = evaluation.predict(pl_module.network, batch).logits
            pred, target = evaluation.masks(batch, logits)[0], batch.targets[0]
            assert target is not None
            query = cv2.resize(data.dataset.image(spec.query_id), pred.shape[::-1], interpolation=cv2.INTER_AREA)
            masks = {"prediction": pred, "truth": target.cpu().numpy()}
            panels[f"episodes/{i}/query"] = dashboard.with_masks(query, masks, names, spec.query_id)
            for shot, (image, annotation) in enumerate(data.pictures_of_supports(spec)):
                layer = {"annotation": annotation}
                support = dashboard.with_masks(image, layer, names, spec.support_ids[shot])
                panels[f"episodes/{i}/support{shot}"] = support
        for logger in loggers:  # without step=, which would have to keep up with the logger's own counter
            logger.experiment.log({**panels, "trainer/global_step": trainer.global_step})

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs the first videos, or episodes that ask for instances, of the test list, whoever tested them."""
        loggers = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
        data: FewShotDataModule = trainer.datamodule  # type: ignore[attr-defined]
        if not (loggers and trainer.is_global_zero and isinstance(pl_module, FewShotSegmentor)):
            return
        if _searches(data):
            specs = data.episode_list().specs[: self.n_episodes]
            panels = _logged_searches(pl_module, data, specs, data.random_boxes)
            for logger in loggers:
                logger.experiment.log(panels)
        if not _films(data):
            return
        import wandb

        with tempfile.TemporaryDirectory() as folder:  # a logger keeps copies
            videos = {}
            for i, film in sorted(pl_module.films.items())[: self.n_episodes]:
                spec, path = data.episode_list().specs[i], Path(folder) / f"{i}.gif"
                _write_gif(path, _animate(film, data.video_of(spec)))
                videos[f"videos/{i}"] = wandb.Video(str(path), caption=spec.query_id, format="gif")
            for logger in loggers:
                logger.experiment.log(videos)


def _logged_searches(
    module: FewShotSegmentor, data: FewShotDataModule, specs: Sequence[EpisodeSpec], random_boxes: str
) -> dict[str, Any]:
    """Episodes that ask for instances, for wandb: panels, and queries with masks and boxes to switch on and off."""
    import wandb

    threshold, panels = data.evaluation_part.threshold, dict[str, Any]()
    for i, spec in enumerate(specs):
        found, truth = _search(module, data, spec, random_boxes)
        scene, name = data.dataset.image(spec.query_id), data.dataset.class_names[spec.class_id - 1]
        references = [crop for crop, _ in data.pictures_of_supports(spec)]
        caption = f"{spec.query_id}: {name}"
        drawn = instance_panel(scene, found, truth, references, threshold)
        panels[f"episodes/{i}/panel"] = wandb.Image(drawn, caption=caption)
        masks, boxes = {}, {}
        for layer, one in (("prediction", found), ("truth", truth)):
            places = range(len(one.boxes)) if one.scores is None else drawn_places(one.scores, threshold)
            entries = []
            for place in places:
                sides = zip(("minX", "minY", "maxX", "maxY"), one.boxes[place].tolist(), strict=True)
                entry = {"position": dict(sides), "domain": "pixel", "class_id": spec.class_id}
                scored = {} if one.scores is None else {"scores": {"score": float(one.scores[place])}}
                entries.append(entry | scored)
            numbers = {0: "background", **{rank: f"{name} {rank}" for rank in range(1, len(entries) + 1)}}
            masks[layer] = {"mask_data": numbered(one.masks, places), "class_labels": numbers}
            boxes[layer] = {"box_data": entries, "class_labels": {spec.class_id: name}}
        panels[f"episodes/{i}/query"] = wandb.Image(scene, masks=masks, boxes=boxes, caption=caption)
    return panels


_GIF_HEIGHT, _GIF_MILLISECONDS = 180, 100


def _animate(film: Mapping[int, Labels], video: VideoEpisode) -> Iterator[np.ndarray[Any, Any]]:
    """Evenly spread frames with overlays, truth above prediction, (2 h, w, 3) uint8 each; one in memory at a time."""
    for frame in shown_frames(len(video), (), GIF_FRAMES):
        image, truth = video.frames[frame], _labels_of(video.targets[frame])
        height = min(_GIF_HEIGHT, image.shape[0])
        yield np.vstack([labelled(image, truth, height), labelled(image, film[frame].unpacked(), height)])


def _write_gif(path: Path, frames: Iterator[np.ndarray[Any, Any]]) -> None:
    from PIL import Image

    images = (Image.fromarray(frame) for frame in frames)
    next(images).save(path, save_all=True, append_images=images, duration=_GIF_MILLISECONDS, loop=0)
