"""From a network and a batch to scored rows: one code path for every method and every protocol."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from fewseg.episode import POSITIVE, VOID, Click, EpisodeBatch, EpisodeSpec, Features, Instances, Row, VideoEpisode
from fewseg.errors import FewsegError
from fewseg.functional.boundary import boundary_counts
from fewseg.functional.fuse import fuse
from fewseg.functional.geometry import restore
from fewseg.functional.iou import confusion_counts
from fewseg.functional.matching import MOST, Detected, Truth, counts, encode, match, union
from fewseg.functional.robot import next_click
from fewseg.functional.shifts import random_detections, random_truth
from fewseg.functional.timing import Seconds, now
from fewseg.functional.trivial import box_area
from fewseg.network import SegmentorNetwork
from fewseg.refinement import Refinement
from fewseg.sampling import EvaluationPart, groups
from fewseg.session import InteractiveSession
from fewseg.video_session import VideoSession

Item = TypeVar("Item")


class Prediction(NamedTuple):
    """logits (B, 2, H, W) at network size, the seconds of each verb, z (B, D) where the method has one."""

    logits: Tensor
    seconds: Seconds
    z: Tensor | None


@torch.inference_mode()
def predict(network: SegmentorNetwork, batch: EpisodeBatch) -> Prediction:
    """Runs the verbs on a batch, each timed apart."""
    batch = network.accept(batch)
    device = batch.support_annotations.device
    start = now(device)
    supports, queries = network.encode_support(batch.support_images), network.encode_query(batch.query_images)
    encoded = now(device)
    guidance = network.guide(supports, batch.support_annotations)
    guided = now(device)
    logits = network.segment(queries, guidance, batch.query_clicks if network.uses_clicks else None)
    n = len(batch)
    seconds = Seconds((encoded - start) / n, (guided - encoded) / n, (now(device) - guided) / n)
    return Prediction(logits, seconds, network.represent(guidance))


def masks(batch: EpisodeBatch, logits: Tensor, threshold: float = 0.5) -> list[np.ndarray[Any, Any]]:
    """Per episode the mask (H, W) uint8 at scoring size: foreground where its probability exceeds the threshold.

    Episodes of a group are one label map of their query: a pixel that several claim goes to the largest margin, so a
    batch holds whole groups.
    """
    margins = (logits[:, 1:] - logits[:, :1]).float() - math.log(threshold / (1 - threshold))
    predicted = []
    for places in groups(batch.specs):
        labels = fuse(torch.cat([restore(margins[i], batch.frames[i]) for i in places]))  # (n, H, W) -> (H, W)
        predicted += [(labels == part).to(torch.uint8).cpu().numpy() for part in range(1, len(places) + 1)]
    return predicted


def rows(
    batch: EpisodeBatch, logits: Tensor, part: EvaluationPart, indices: Iterable[int], seconds: Seconds | None = None
) -> list[Row]:
    """One row of integer counts per episode, at scoring size and under the protocol's void rule.

    The rows of a group count their classes in its one label map, so that their class-mean IoU is that of label maps.

    Args:
        batch: with targets.
        logits: (B, 2, H, W) at network size.
        part: the evaluation part of the protocol.
        indices: place of each episode in its list.
        seconds: time of each verb.
    """
    scored = []
    for index, spec, mask, target in zip(
        indices, batch.specs, masks(batch, logits, part.threshold), batch.targets, strict=True
    ):
        assert target is not None, f"episode {index} has no target to score"
        scored.append(_row(index, spec, mask, target, part, seconds))
    return scored


def click_rows(
    batch: EpisodeBatch, replies: Sequence[Reply], part: EvaluationPart, indices: Iterable[int]
) -> list[Row]:
    """One row per click on the one object of a batch.

    Args:
        batch: what ``interact`` had.
        replies: what it returned.
        part: the evaluation part of the protocol.
        indices: the place of the episode in its list.
    """
    (index,), (spec,), (target,) = indices, batch.specs, batch.targets
    assert target is not None
    return [
        _row(index, spec, reply.mask, target, part, reply.seconds)._replace(
            click=len(reply.clicks), seconds_robot=reply.seconds_robot, seconds_refine=reply.seconds.refine
        )
        for reply in replies
    ]


def _row(
    index: int,
    spec: EpisodeSpec,
    mask: np.ndarray[Any, Any],
    target: Tensor,
    part: EvaluationPart,
    spent: Seconds | None,
) -> Row:
    """The counts of one mask and the box of its truth, at scoring size."""
    truth = target.cpu().numpy()
    counted = confusion_counts(mask, truth, part.void)
    return _row_of(index, spec, counted, spent)._replace(box=box_area(truth, part.void))


def _row_of(index: int, spec: EpisodeSpec, counted: tuple[int, int, int, int], spent: Seconds | None) -> Row:
    """A row of an episode with the counts (tp, fp, fn, tn)."""
    tp, fp, fn, tn = counted
    return Row(
        episode=index,
        query=spec.query_id,
        support=" ".join(spec.support_ids),
        class_id=spec.class_id,
        tp=tp,
        fp=fp,
        fn=fn,
        tn=tn,
        object_id=spec.object_id,
        group=spec.group,
        present=spec.present,
        seconds_encode=spent.encode if spent else None,
        seconds_guide=spent.guide if spent else None,
        seconds_segment=spent.segment if spent else None,
    )


class Reply(NamedTuple):
    """One round of the robot.

    Args:
        clicks: so far.
        mask: (H, W) uint8 that answers them.
        objective: of refinement, before and after; None where there was none.
        seconds: of the answer.
        seconds_robot: of the choice of the click.
    """

    clicks: tuple[Click, ...]
    mask: np.ndarray[Any, Any]
    objective: tuple[float, float] | None
    seconds: Seconds
    seconds_robot: float


def interact(model: Any, batch: EpisodeBatch, data: Any) -> list[Reply]:
    """Lets the protocol's robot click one object, once at least, until its clicks are used up or nothing is left to do.

    Args:
        model: a LightningModule with a network.
        batch: of one episode, with the query at its original size.
        data: the data module: protocol, canvas, number of clicks and test-time options.
    """
    part: EvaluationPart = data.evaluation_part
    assert part.robot is not None
    assert len(batch) == 1
    assert not isinstance(batch.query_images, Features)
    target, query = batch.targets[0], batch.query_images[0].permute(1, 2, 0).cpu().numpy()
    assert target is not None
    truth = target.cpu().numpy()
    refinement = Refinement(data.refine, data.refine_from, threshold=part.threshold) if data.refine else None
    session = InteractiveSession(
        model, query, data.size, refinement, data.zoom_in, data.flip, part.threshold, data.resize
    )
    for image, annotation in zip(batch.support_images[0], batch.support_annotations[0], strict=True):
        session.add_shot(image.permute(1, 2, 0).cpu().numpy(), annotation.cpu().numpy())
    mask = np.zeros(truth.shape, np.uint8)
    replies: list[Reply] = []
    while len(replies) < data.n_clicks:
        start = time.perf_counter()
        row, col, label = next_click(truth, mask, session.clicks, part.robot)
        found = time.perf_counter() - start
        wrong = truth[row, col] not in (mask[row, col], VOID)
        if replies and (not wrong or (row, col) in (click[:2] for click in session.clicks)):
            break  # nothing is wrong any more, or all that is wrong was clicked
        session.click(row, col, label == POSITIVE)
        answer = session.answer()
        mask = answer.mask
        replies.append(Reply(session.clicks, mask, answer.objective, answer.seconds, found))
    return replies


def answers(model: Any, data: Any, spec: EpisodeSpec) -> tuple[np.ndarray[Any, Any], tuple[Click, ...]]:
    """The mask (H, W) uint8 of an interactive episode with the clicks that it answers, for people to look at."""
    batch = data.batch_of([spec]).to(model.device)
    if data.evaluation_part.robot is not None:
        last = interact(model, batch, data)[-1]
        return last.mask, last.clicks
    return masks(batch, predict(model.network, batch).logits, data.evaluation_part.threshold)[0], spec.clicks


class Tracked(NamedTuple):
    """One frame of a video.

    Args:
        frame: its place in the video, from 0.
        labels: (H, W) uint8 numbers of the objects, 0 background.
        seconds: that it took; those of the guidance are in the first frame.
    """

    frame: int
    labels: np.ndarray[Any, Any]
    seconds: Seconds


def track(model: Any, episode: VideoEpisode, data: Any) -> Iterator[Tracked]:
    """Segments a video after its annotated frames, one frame after the other.

    Args:
        model: a LightningModule with a network.
        episode: the video.
        data: the data module: canvas, budget and threshold.
    """
    threshold = data.evaluation_part.threshold
    session = VideoSession(model, episode.frames, data.frame_size, data.budget_mb * 2**20, threshold, data.resize)
    for frame, maps in sorted(episode.annotations.items()):
        for number, annotation in enumerate(maps, 1):
            session.annotate(frame, annotation, number)
    for frame, answer in enumerate(session.segment()):
        yield Tracked(frame, answer.labels, answer.seconds)


def video_rows(
    episode: VideoEpisode, tracked: Tracked, part: EvaluationPart, index: int, class_blind: bool = False
) -> list[Row]:
    """One row per object of a frame, which share its seconds, with the counts of regions and of boundaries.

    Args:
        episode: the video.
        tracked: one of its frames.
        part: the evaluation part of the protocol.
        index: place of the episode in its list.
        class_blind: a network that reads no support cannot tell objects apart: all its foreground counts for each.

    Raises:
        FewsegError: the frame has no truth, or one of another size.
    """
    targets, frame_id = episode.targets[tracked.frame], episode.frame_ids[tracked.frame]
    if targets is None:
        raise FewsegError(f"mask of {frame_id}", "none", "one for every frame that is scored", "use fewseg predict")
    if targets.shape[1:] != tracked.labels.shape:
        size = " x ".join(map(str, tracked.labels.shape))
        got = " x ".join(map(str, targets.shape[1:]))
        raise FewsegError(f"mask of {frame_id}", got, f"the frame's {size}", "restore both from the original data")
    share = Seconds(*(value / len(targets) for value in tracked.seconds))
    scored = []
    for number, target in enumerate(targets, 1):
        mask = tracked.labels > 0 if class_blind else tracked.labels == number
        spec = dataclasses.replace(episode.spec, object_id=number)
        row = _row(index, spec, mask, torch.from_numpy(target), part, share)
        edges = boundary_counts(mask, target == POSITIVE)
        scored.append(
            row._replace(
                frame=tracked.frame,
                boundary_pred=edges.pred,
                boundary_true=edges.true,
                boundary_pred_matched=edges.pred_matched,
                boundary_true_matched=edges.true_matched,
            )
        )
    return scored


class Found(NamedTuple):
    """What a network found in the queries of a batch.

    Args:
        instances: per episode the detections of the class asked for, in pixels of the original query and on the CPU,
            highest score first; no more than COCO's evaluator looks at.
        seconds: of each verb, per episode; 0 where no network ran.
        z: (B, D) where the method has one.
    """

    instances: tuple[Instances, ...]
    seconds: Seconds
    z: Tensor | None


def check_finds(network: SegmentorNetwork, name: str, option: str) -> None:
    """Raises a FewsegError unless the answer of a network is instances.

    Args:
        network: to test.
        name: of the method, for the message.
        option: that chose it.
    """
    if network.output != "instances":
        expected = "a method that finds instances: SiameseMaskRCNN or MaskRCNN"
        raise FewsegError(option, name, expected, "choose one of them, or a protocol that asks for masks")


def check_classes(network: Any, n_classes: int, option: str) -> None:
    """Raises a FewsegError where a network of fixed classes has fewer than a data set.

    Args:
        network: of any method.
        n_classes: of the data set.
        option: that says how many it has.
    """
    if getattr(network, "fixed_classes", False) and network.n_classes < n_classes:
        expected = f"at least {n_classes}, the classes of the data set"
        raise FewsegError(option, network.n_classes, expected, f"set it to {n_classes}")


def check_trains(network: Any, data: Any, name: str, option: str) -> None:
    """Raises a FewsegError where a network cannot learn from the training episodes of a data module.

    Args:
        network: of any method.
        data: the data module.
        name: of the method, for the message.
        option: what stands before the names of the data module's options.
    """
    finds = getattr(network, "output", "masks") == "instances"
    if finds and data.train_masks != "class":
        expected = f"class for {name}, which learns instances"
        raise FewsegError(f"{option}train_masks", data.train_masks, expected, "leave it out")
    blind = getattr(network, "uses_support", False) and not network.uses_clicks and network.episodic
    if blind and data.train_episodes == "instance" and data.train_shot == 0:
        expected = f"1 or more for {name}, which learns from references"
        raise FewsegError(f"{option}train_shot", 0, expected, "raise it")


@torch.inference_mode()
def search(network: Any, batch: EpisodeBatch, random_boxes: str = "none", threshold: float = 0.0) -> Found:
    """Runs the verbs of a network that finds instances, each timed apart.

    Args:
        network: that has ``detect``.
        batch: with the annotated instances of its queries on the CPU, where random boxes are asked for.
        random_boxes: what is returned instead: ``truth`` shifts the objects asked for and asks no network;
            ``detections`` shifts what was found; ``none``.
        threshold: detections that score no more are left out.
    """
    if random_boxes == "truth":
        return Found(shifted_truth(batch), Seconds(0.0, 0.0, 0.0), None)
    device = batch.support_annotations.device
    start = now(device)
    supports, queries = network.encode_support(batch.support_images), network.encode_query(batch.query_images)
    encoded = now(device)
    guidance = network.guide(supports, batch.support_annotations)
    guided = now(device)
    instances = network.detect(queries, guidance, batch.frames, threshold)
    n = len(batch)
    seconds = Seconds((encoded - start) / n, (guided - encoded) / n, (now(device) - guided) / n)
    if network.fixed_classes:
        labels = [spec.class_id for spec in batch.specs]
        instances = tuple(one.where(one.labels == c) for one, c in zip(instances, labels, strict=True))
    instances = tuple(one.where(slice(MOST)).to("cpu") for one in instances)
    if random_boxes == "detections":
        instances = shifted_detections(batch, instances)
    return Found(instances, seconds, network.represent(guidance))


def shifted_truth(batch: EpisodeBatch) -> tuple[Instances, ...]:
    """The random boxes of the paper: objects asked for at random places, with random scores; the best 100 of them.

    Args:
        batch: with the annotated instances of its queries.
    """
    assert batch.instances is not None
    moved = []
    for spec, truth in zip(batch.specs, batch.instances, strict=True):
        assert truth.crowd is not None
        asked = truth.where((truth.labels == spec.class_id) & ~truth.crowd)
        moved.append(_ranked(*random_truth(_corner_and_size(asked.boxes), asked.masks.numpy(), spec.seed)))
    return tuple(moved)


def shifted_detections(batch: EpisodeBatch, found: Sequence[Instances]) -> tuple[Instances, ...]:
    """The random boxes of the original code: detections at random places, with each other's scores.

    Args:
        batch: whose seeds are used.
        found: of each episode, with scores.
    """
    moved = []
    for spec, own in zip(batch.specs, found, strict=True):
        assert own.scores is not None
        boxes, masks, scores = _corner_and_size(own.boxes), own.masks.numpy(), own.scores.numpy()
        moved.append(_ranked(*random_detections(boxes, masks, scores, spec.seed)))
    return tuple(moved)


def _ranked(boxes: np.ndarray[Any, Any], masks: np.ndarray[Any, Any], scores: np.ndarray[Any, Any]) -> Instances:
    """Detections from boxes as x, y, width and height: highest score first, no more than COCO's evaluator looks at."""
    order = np.argsort(-scores, kind="stable")[:MOST]
    labels = torch.ones(len(order), dtype=torch.int64)
    return Instances(_corners(boxes[order]), torch.from_numpy(masks[order]), labels, torch.from_numpy(scores[order]))


def detected(instances: Instances) -> Detected:
    """Detections as COCO's tools read them."""
    assert instances.scores is not None
    scores = instances.scores.double().numpy()
    return Detected(_corner_and_size(instances.boxes), encode(instances.masks.numpy()), scores)


def union_rows(
    batch: EpisodeBatch,
    found: Sequence[Detected],
    part: EvaluationPart,
    indices: Iterable[int],
    seconds: Seconds | None = None,
) -> list[Row]:
    """One row for each episode: the counts of the union of its detections, and the objects that its query shows.

    A detection belongs to the union where its score exceeds the protocol's threshold. Arguments are those of
    ``instance_rows``.
    """
    assert batch.instances is not None
    scored = []
    for index, spec, target, truth, own in zip(
        indices, batch.specs, batch.targets, batch.instances, found, strict=True
    ):
        assert target is not None
        assert truth.crowd is not None
        sure = [mask for mask, score in zip(own.masks, own.scores, strict=True) if score > part.threshold]
        known = target.cpu().numpy()
        (counted,) = counts([union(sure, known.shape)], known, part.void)
        classes, numbers = np.unique(truth.labels[~truth.crowd].numpy(), return_counts=True)
        shown = " ".join(f"{c}:{n}" for c, n in zip(classes.tolist(), numbers.tolist(), strict=True))
        whole = _row_of(index, spec, counted, seconds)
        scored.append(whole._replace(truth=shown, box=box_area(known, part.void)))
    return scored


def instance_rows(
    batch: EpisodeBatch,
    found: Sequence[Detected],
    part: EvaluationPart,
    indices: Iterable[int],
    seconds: Seconds | None = None,
) -> list[Row]:
    """The row of each episode, as from ``union_rows``, and after it one for each of its detections.

    Args:
        batch: with targets and all annotated instances of its queries.
        found: of each episode, at original size.
        part: the evaluation part of the protocol.
        indices: place of each episode in its list.
        seconds: time of each verb.
    """
    assert batch.instances is not None
    scored = []
    unions = union_rows(batch, found, part, indices, seconds)
    for whole, spec, target, truth, own in zip(unions, batch.specs, batch.targets, batch.instances, found, strict=True):
        assert target is not None
        assert truth.crowd is not None
        boxes, masks = _corner_and_size(truth.boxes), encode(truth.masks.numpy())
        matches = match(own, Truth(boxes, masks, truth.crowd.numpy(), truth.labels.numpy()), spec.class_id)
        scored.append(whole)
        for rank, counted in enumerate(counts(own.masks, target.cpu().numpy(), part.void)):
            scored.append(
                _row_of(whole.episode, spec, counted, None)._replace(
                    object_id=rank,
                    score=float(own.scores[rank]),
                    matched_boxes=int(matches.matched_boxes[rank]),
                    matched_masks=int(matches.matched_masks[rank]),
                    ignored_boxes=int(matches.ignored_boxes[rank]),
                    ignored_masks=int(matches.ignored_masks[rank]),
                    matched_classes=" ".join(map(str, matches.classes[rank])),
                )
            )
    return scored


def _corner_and_size(boxes: Tensor) -> np.ndarray[Any, Any]:
    """Boxes (n, 4) as x, y, width and height, as COCO has them."""
    corners = boxes.double().numpy()
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)


def _corners(boxes: np.ndarray[Any, Any]) -> Tensor:
    """Boxes (n, 4) as x, y, width and height by their corners."""
    return torch.from_numpy(np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1))


def gather_parts(own: Item) -> list[Item]:
    """What each process holds, in the order of their ranks.

    >>> gather_parts("a")
    ['a']
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [own]
    gathered: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, own)
    return gathered


def gather(own: Sequence[Item], place: Callable[[Item], int]) -> list[Item]:
    """What all processes made of a list of episodes, in its order; asserts that every episode is there exactly once.

    Args:
        own: one item per episode of this process.
        place: the place of an item's episode in the list.

    >>> gather(["b1", "a0"], lambda item: int(item[1]))
    ['a0', 'b1']
    """
    merged = sorted((item for part in gather_parts(list(own)) for item in part), key=place)
    assert list(map(place, merged)) == list(range(len(merged))), "an episode was scored twice or not at all"
    return merged
