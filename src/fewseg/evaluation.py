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
from fewseg.functional.matching import MOST, Detected, Truth, encode, match
from fewseg.functional.robot import next_click
from fewseg.functional.shifts import random_detections, random_truth
from fewseg.functional.timing import Seconds, now
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
    """The counts of one mask, at scoring size."""
    tp, fp, fn, tn = confusion_counts(mask, target.cpu().numpy(), part.void)
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
        seconds: of each verb, per episode.
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


def check_classes(network: Any, n_classes: int) -> None:
    """Raises a FewsegError where a network of fixed classes has fewer than a data set.

    Args:
        network: of any method.
        n_classes: of the data set.
    """
    if getattr(network, "fixed_classes", False) and network.n_classes < n_classes:
        expected = f"at least {n_classes}, the classes of the data set"
        raise FewsegError("--model.n_classes", network.n_classes, expected, f"set it to {n_classes}")


@torch.inference_mode()
def search(network: Any, batch: EpisodeBatch, random_boxes: str = "none") -> Found:
    """Runs the verbs of a network that finds instances, each timed apart.

    Args:
        network: that has ``detect``.
        batch: with the annotated instances of its queries, where random boxes are asked for.
        random_boxes: ``none``, or what ``random_instances`` makes of the answer.
    """
    device = batch.support_annotations.device
    start = now(device)
    supports, queries = network.encode_support(batch.support_images), network.encode_query(batch.query_images)
    encoded = now(device)
    guidance = network.guide(supports, batch.support_annotations)
    guided = now(device)
    instances = network.detect(queries, guidance, batch.frames)
    n = len(batch)
    seconds = Seconds((encoded - start) / n, (guided - encoded) / n, (now(device) - guided) / n)
    if network.fixed_classes:
        labels = [spec.class_id for spec in batch.specs]
        instances = tuple(_only(one, one.labels == c) for one, c in zip(instances, labels, strict=True))
    instances = tuple(_only(one, slice(MOST)).to("cpu") for one in instances)
    if random_boxes != "none":
        instances = random_instances(batch, instances, random_boxes)
    return Found(instances, seconds, network.represent(guidance))


def random_instances(batch: EpisodeBatch, found: Sequence[Instances], source: str) -> tuple[Instances, ...]:
    """Random boxes in place of what was found: the random baselines of Siamese Mask R-CNN.

    Args:
        batch: with the annotated instances of its queries.
        found: of each episode.
        source: ``truth`` shifts the objects asked for and draws their scores (paper); ``detections`` shifts what was
            found and permutes its scores (code).
    """
    assert batch.instances is not None
    shifted = []
    for spec, truth, detected in zip(batch.specs, batch.instances, found, strict=True):
        given = detected
        if source == "truth":
            assert truth.crowd is not None
            given = _only(truth.to("cpu"), ((truth.labels == spec.class_id) & ~truth.crowd).cpu())
        boxes, masks = _corner_and_size(given.boxes), given.masks.numpy()
        if source == "truth":
            boxes, masks, scores = random_truth(boxes, masks, spec.seed)
        else:
            assert detected.scores is not None
            boxes, masks, scores = random_detections(boxes, masks, detected.scores.numpy(), spec.seed)
        order = np.argsort(-scores, kind="stable")
        moved = torch.from_numpy(boxes[order])
        moved[:, 2:] += moved[:, :2]
        labels = torch.ones(len(order), dtype=torch.int64)
        shifted.append(Instances(moved, torch.from_numpy(masks[order]), labels, torch.from_numpy(scores[order])))
    return tuple(shifted)


def detected(instances: Instances) -> Detected:
    """Detections as COCO's tools read them."""
    assert instances.scores is not None
    scores = instances.scores.double().numpy()
    return Detected(_corner_and_size(instances.boxes), encode(instances.masks.numpy()), scores)


def instance_rows(
    batch: EpisodeBatch,
    found: Sequence[Instances],
    part: EvaluationPart,
    indices: Iterable[int],
    seconds: Seconds | None = None,
) -> list[Row]:
    """One row for each episode, the counts of the union of its detections, and one for each detection.

    A detection belongs to the union where its score exceeds the protocol's threshold.

    Args:
        batch: with targets and all annotated instances of its queries.
        found: of each episode, at original size.
        part: the evaluation part of the protocol.
        indices: place of each episode in its list.
        seconds: time of each verb.
    """
    assert batch.instances is not None
    scored = []
    for index, spec, target, truth, own in zip(
        indices, batch.specs, batch.targets, batch.instances, found, strict=True
    ):
        assert target is not None
        assert truth.crowd is not None
        assert own.scores is not None
        masks, labels, crowd = own.masks.numpy(), truth.labels.cpu().numpy(), truth.crowd.cpu().numpy()
        union = np.asarray(masks[own.scores.numpy() > part.threshold].any(0), np.uint8)
        classes, counts = np.unique(labels[~crowd], return_counts=True)
        shown = " ".join(f"{c}:{n}" for c, n in zip(classes.tolist(), counts.tolist(), strict=True))
        scored.append(_row(index, spec, union, target, part, seconds)._replace(truth=shown))
        annotated = Truth(_corner_and_size(truth.boxes), encode(truth.masks.cpu().numpy()), crowd, labels)
        matches = match(detected(own), annotated, spec.class_id)
        for rank, mask in enumerate(masks):
            scored.append(
                _row(index, spec, mask, target, part, None)._replace(
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


def _only(instances: Instances, kept: Tensor | slice) -> Instances:
    scores, crowd = instances.scores, instances.crowd
    return Instances(
        instances.boxes[kept],
        instances.masks[kept],
        instances.labels[kept],
        None if scores is None else scores[kept],
        None if crowd is None else crowd[kept],
    )


def _corner_and_size(boxes: Tensor) -> np.ndarray[Any, Any]:
    """Boxes (n, 4) as x, y, width and height."""
    corners = boxes.double().cpu().numpy()
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)


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
