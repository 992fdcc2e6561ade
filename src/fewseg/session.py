"""For people with images: annotated images in, masks out; at once, or click by click."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fewseg.episode import NEGATIVE, POSITIVE, Box, Click, Features, Frame
from fewseg.errors import FewsegError
from fewseg.functional.clicks import draw_clicks, pad_clicks
from fewseg.functional.geometry import restore
from fewseg.functional.timing import Seconds, now
from fewseg.functional.zoom import clicks_in, merge_mirrored, mirrored_clicks, next_region, paste
from fewseg.network import SegmentorNetwork
from fewseg.pictures import (
    Picture,
    checked_annotation,
    checked_image,
    checked_network,
    checked_pair,
    checked_threshold,
    on_canvas,
    resize_of,
    whole,
)
from fewseg.refinement import Refinement, check_point, refine
from fewseg.transforms import FitMode, channels_first, fit

MIN_REGION = 0.4  # shortest side of a region to zoom in, by the longer side of the image: f-BRS's 200 of 500 pixels


def segment_image(
    model: Any, supports: Sequence[tuple[Picture, Picture]], query: Picture, size: int | None = None
) -> npt.NDArray[np.uint8]:
    """Segments a query image after a few annotated ones.

    Args:
        model: from ``create_model`` or ``load_model``.
        supports: pairs of an image (H, W, 3) uint8 RGB and its annotation (H, W): 0 negative, 1 positive, 255 unknown.
        query: (H, W, 3) uint8 RGB.
        size: side in pixels of the square canvas on which the network works; None = that of its training, else the
            query's longer side. Images keep their proportions on it, unless the training stretched them.

    Returns:
        (H, W) uint8 mask of the query, 0 or 1, at its original size.

    Raises:
        FewsegError: no support or too many for the model, a size below 1, or an image or annotation of another type,
            shape or value.

    >>> import fewseg
    >>> image = np.zeros((20, 30, 3), np.uint8)
    >>> fewseg.segment_image(fewseg.create_model("PANet"), [(image, image[..., 0])], image).shape
    (20, 30)
    """
    if not supports:
        raise FewsegError("supports", "none", "at least one (image, annotation) pair", "annotate an image")
    network = checked_network(model)
    limit = network.max_shot
    if limit is not None and len(supports) > limit:
        expected = f"at most {limit} for {type(model).__name__}"
        raise FewsegError("supports", f"{len(supports)} pairs", expected, "pass fewer")
    if network.uses_clicks and not network.uses_support:
        warnings.warn(f"{type(model).__name__} reads clicks and no examples: use InteractiveSession", stacklevel=2)
    session = InteractiveSession(model, checked_image(query, "query"), size)
    pairs = [checked_pair(image, annotation, f"supports[{n}]") for n, (image, annotation) in enumerate(supports)]
    for image, annotation in pairs:
        session.add_shot(image, annotation)
    return session.answer().mask


class Answer(NamedTuple):
    """What a session says at one moment.

    Args:
        probs: (H, W) float32 probability of the foreground, at the image's original size.
        mask: (H, W) uint8, 0 or 1.
        seconds: what the answer cost beyond what was kept from earlier ones.
        objective: of test-time refinement, before and after; None where none took place.
    """

    probs: npt.NDArray[np.float32]
    mask: npt.NDArray[np.uint8]
    seconds: Seconds
    objective: tuple[float, float] | None


class _View:
    """An image, or its mirror image as well, on the canvas; encoded when it is asked for and only once."""

    def __init__(self, network: SegmentorNetwork, images: Tensor, frame: Frame) -> None:
        self.network, self.images, self.frame = network, images, frame  # images (n, 3, h, w) uint8

    @functools.cached_property
    def query(self) -> Features:
        """As a query, maps (n, C, h, w)."""
        return self.network.encode_query(self.images)

    @functools.cached_property
    def support(self) -> Features:
        """As the only shot of an episode, maps (n, 1, C, h, w)."""
        if not self.network.shared_encoder:
            return self.network.encode_support(self.images[:, None])
        return Features(tuple(m[:, None] for m in self.query.maps), self.query.image_size)


@dataclasses.dataclass(frozen=True, eq=False)
class _Shot:
    """An annotated image: another annotation of it keeps the view and what is encoded of it."""

    view: _View
    annotation: Tensor  # (1, 1, h, w)


class _State(NamedTuple):
    """All that an answer depends on."""

    shots: tuple[_Shot, ...] = ()
    clicks: tuple[Click, ...] = ()


class _Step(NamedTuple):
    """An answer with what the answer to one more click starts from."""

    answer: Answer
    region: Box | None
    refined: Tensor | None


class InteractiveSession:
    """One image, segmented by clicks on it and by annotated examples, which may come and go in any order.

    What a change does not touch is kept: images are encoded once, the guidance of unchanged examples stays. Every
    answer is that of a new session with the same examples and clicks: refinement and zooming, which go on from the
    answer to the clicks before, do so along the clicks as they stand, in their order.

    A network without an input for clicks reads them as one more example; so does one that uses examples and has none.

    Args:
        model: from ``create_model`` or ``load_model``.
        image: (H, W, 3) uint8 RGB.
        size: of the canvas on which the network works, a side in pixels or (h, w); None = that of its training, else
            the image's longer side. Images keep their proportions on it, unless the training stretched them.
        refinement: what test-time optimisation changes so that clicks get the answer they ask for; None = nothing.
        zoom_in: after the first click, look only at the region around what was segmented (f-BRS).
        flip: average with the answer for the mirrored image.
        threshold: of the mask, on the probability.
        resize: how images come onto the canvas, ``letterbox`` or ``square``; None = as in the training.

    Raises:
        FewsegError: an image of another type or shape, a size or threshold out of range, or a refinement that the
            network does not offer.

    >>> import fewseg
    >>> image = np.zeros((20, 30, 3), np.uint8)
    >>> session = InteractiveSession(fewseg.create_model("GuidedNet"), image)
    >>> session.click(5, 7)
    >>> session.answer().mask.shape, session.clicks
    ((20, 30), (Click(row=5, col=7, label=1),))
    """

    def __init__(
        self,
        model: Any,
        image: Picture,
        size: int | tuple[int, int] | None = None,
        refinement: Refinement | None = None,
        zoom_in: bool = False,
        flip: bool = False,
        threshold: float = 0.5,
        resize: FitMode | None = None,
    ) -> None:
        self.network = checked_network(model)
        self.name = type(model).__name__
        self.image = checked_image(image, "image")
        sides = (size, size) if isinstance(size, int) else size
        if sides is not None and not (whole(sides, 2) and min(sides) >= 1):
            raise FewsegError("size", size, "a side of at least 1 pixel, (h, w) or None", "leave it out")
        longer = getattr(model, "image_size", None) or max(self.image.shape[:2])
        height, width = sides or (longer, longer)
        self.canvas = (max(height, self.network.min_size), max(width, self.network.min_size))
        self.mode = resize_of(model, resize)
        if refinement is not None and not isinstance(refinement, Refinement):
            raise FewsegError(
                "refinement", repr(refinement), "a Refinement or None", f"pass Refinement({refinement!r})"
            )
        if refinement is not None:
            check_point(self.network, refinement.point, name=self.name)
        self.refinement, self.zoom_in, self.flip = refinement, zoom_in, flip
        self.threshold = checked_threshold(threshold)
        self.device = next(iter(self.network.parameters()), torch.zeros(0)).device
        self._history = [_State()]
        self._views: dict[Box | None, _View] = {}
        self._guided: tuple[tuple[_Shot, ...], Any] | None = None  # guidance of shots alone
        self._steps: dict[_State, _Step] = {}  # for the clicks as they stand, and for the first of them
        self._spent = Seconds()  # on the answer in progress

    # ------------------------------------------------------------------------------------------------------ edits

    @property
    def clicks(self) -> tuple[Click, ...]:
        """In order, at the image's original resolution."""
        return self._history[-1].clicks

    @property
    def n_shot(self) -> int:
        """Annotated examples."""
        return len(self._history[-1].shots)

    def click(self, row: int, col: int, positive: bool = True) -> None:
        """Says that a pixel of the image is foreground or background.

        Raises:
            FewsegError: the pixel lies outside the image, or was clicked with the other label.
        """
        self._edit(clicks=(*self.clicks, self._checked(row, col, positive, self.clicks)))

    def move_click(self, number: int, row: int, col: int) -> None:
        """Puts a click elsewhere; its place in the order and its label stay.

        Args:
            number: of the click, from 0.
            row: where it goes, in pixels.
            col: likewise.

        Raises:
            FewsegError: there is no such click, or it may not stand there.
        """
        clicks = self._without(self.clicks, number, "clicks")
        moved = self._checked(row, col, self.clicks[number].label == POSITIVE, clicks)
        self._edit(clicks=(*clicks[:number], moved, *clicks[number:]))

    def remove_click(self, number: int) -> None:
        """Takes a click back, whichever it is.

        Raises:
            FewsegError: there is no such click.
        """
        self._edit(clicks=self._without(self.clicks, number, "clicks"))

    def add_shot(self, image: Picture, annotation: Picture) -> None:
        """Adds an annotated example; a method that reads none ignores it.

        Args:
            image: (H, W, 3) uint8 RGB.
            annotation: (H, W): 0 negative, 1 positive, 255 unknown.

        Raises:
            FewsegError: they are of another type, shape or value, or the model takes no more examples.
        """
        pixels, labels = checked_pair(image, annotation, "shot")
        limit = self.network.max_shot
        if limit is not None and self.n_shot >= limit:
            expected = f"at most {limit} for {self.name}"
            raise FewsegError("shots", self.n_shot + 1, expected, "remove one before another is added")
        self._edit(shots=(*self._shots, self._shot(pixels, labels)))

    def annotate_shot(self, number: int, annotation: Picture) -> None:
        """Gives an example another annotation; its image is not encoded again.

        Raises:
            FewsegError: there is no such example, or the annotation is not one of its image.
        """
        others = self._without(self._shots, number, "shots")
        view = self._shots[number].view
        labels = checked_annotation(annotation, "annotation")
        if labels.shape != view.frame.original:
            expected = f"the image's {view.frame.original}"
            raise FewsegError("annotation", labels.shape, expected, "pass the annotation of that image")
        shot = _Shot(view, self._on_canvas(labels, view.frame))
        self._edit(shots=(*others[:number], shot, *others[number:]))

    def remove_shot(self, number: int) -> None:
        """Takes an example away.

        Raises:
            FewsegError: there is no such example.
        """
        self._edit(shots=self._without(self._shots, number, "shots"))

    def undo(self) -> None:
        """Takes back the last edit, whatever it was.

        Raises:
            FewsegError: there is none.
        """
        if len(self._history) == 1:
            raise FewsegError("undo", "a session without edits", "at least one edit", "click first")
        self._history.pop()

    # ----------------------------------------------------------------------------------------------------- answers

    def answer(self) -> Answer:
        """The segmentation after all examples and clicks; all background while there are none."""
        shots, clicks = self._history[-1]
        follows = self.zoom_in or self.refinement is not None
        self._spent = Seconds()
        steps: dict[_State, _Step] = {}  # only these are kept
        with torch.inference_mode():
            for number in range(1 if follows and clicks else len(clicks), len(clicks) + 1):
                state = _State(shots, clicks[:number])
                steps[state] = self._steps[state] = self._steps.get(state) or self._compute(state)
        self._steps = steps
        return steps[self._history[-1]].answer._replace(seconds=self._spent)

    def _compute(self, state: _State) -> _Step:
        shots, clicks = state
        if not (shots or clicks):
            nothing = np.zeros(self.image.shape[:2], np.float32)
            return _Step(Answer(nothing, nothing.astype(np.uint8), Seconds(), None), None, None)
        before = self._steps.get(_State(shots, clicks[:-1])) if clicks else None
        region = None
        if self.zoom_in and before is not None:
            smallest = round(MIN_REGION * max(self.image.shape[:2]))
            region = next_region(before.region, before.answer.mask, clicks, min_size=smallest)
        view, rows = self._view(region), self._rows(clicks, region)
        start = now(self.device)
        as_shot = bool(clicks) and self.network.clicks_are_a_shot(len(shots))
        queries = view.query
        supports = [shot.view.support for shot in shots] + ([view.support] if as_shot else [])
        encoded = now(self.device)
        guidance = self._guidance(shots, supports, view, rows if as_shot else None)
        guided = now(self.device)
        read = rows if self.network.uses_clicks else None
        refined, objective, unrefined = None, None, None
        refines = self.refinement is not None and len(clicks) >= self.refinement.first_click
        if self.refinement is not None and refines:
            same = before is not None and (before.region == region or not self.refinement.positional)
            last = before.refined if before is not None and same else None
            found = refine(self.network, view.images, queries, guidance, rows, self.refinement, last, view.frame.box)
            logits, refined, unrefined = found.logits, found.state, found.seconds_unrefined
            objective = (found.objective_before, found.objective_after)
        else:
            logits = self.network.segment(queries, guidance, read)
        answered = now(self.device) - guided
        plain = answered if unrefined is None else unrefined
        spent = Seconds(encoded - start, guided - encoded, plain, answered - plain)
        self._spent = Seconds(*map(sum, zip(self._spent, spent, strict=True)))
        probs = self._probs(logits, view.frame)
        if region is not None:
            probs = paste(probs, region, self.image.shape[:2])
        mask = (probs > self.threshold).astype(np.uint8)
        return _Step(Answer(probs, mask, spent, objective), region, refined)

    def _guidance(self, shots: tuple[_Shot, ...], supports: list[Features], view: _View, rows: Tensor | None) -> Any:
        """What the network is guided by: examples, and clicks (n, N, 3) where it reads them as one more."""
        if rows is None and self._guided is not None and self._guided[0] == shots:
            return self._guided[1]
        n = 1 if rows is None else len(rows)
        annotations = [shot.annotation.expand(n, -1, -1, -1) for shot in shots]
        if rows is not None:
            annotations.append(draw_clicks(rows, self.canvas)[:, None])
        if supports:
            maps = zip(*(s.maps for s in supports), strict=True)
            joined = tuple(torch.cat([m.expand(n, -1, -1, -1, -1) for m in shots], 1) for shots in maps)
            features, known = Features(joined, supports[0].image_size), torch.cat(annotations, 1)
        else:  # class-blind
            features = self.network.encode_support(view.images[:1, None][:, :0])
            known = torch.zeros(1, 0, *self.canvas, dtype=torch.uint8, device=self.device)
        guidance = self.network.guide(features, known)
        if rows is None:
            self._guided = (shots, guidance)
        return guidance

    def _probs(self, logits: Tensor, frame: Frame) -> npt.NDArray[np.float32]:
        """(H, W) foreground probability from logits (n, 2, h, w); the second view is mirrored."""
        merged = merge_mirrored(logits) if len(logits) > 1 else logits
        margin = restore(merged[0, 1:] - merged[0, :1], frame)  # (1, H, W)
        probs: npt.NDArray[np.float32] = torch.sigmoid(margin)[0].float().cpu().numpy()
        return probs

    # ------------------------------------------------------------------------------------------------------- views

    @property
    def _shots(self) -> tuple[_Shot, ...]:
        return self._history[-1].shots

    def _edit(self, **changes: Any) -> None:
        self._history.append(self._history[-1]._replace(**changes))

    def _checked(self, row: int, col: int, positive: bool, others: Sequence[Click]) -> Click:
        """The click, if it may stand beside the others."""
        height, width = self.image.shape[:2]
        if not whole((row, col), 2):
            raise FewsegError("click", (row, col), "two whole numbers, row and column", "round them")
        if not (0 <= row < height and 0 <= col < width):
            expected = f"a pixel of the image of {height} x {width} (height x width)"
            raise FewsegError("click", (row, col), expected, "click inside it")
        click = Click(int(row), int(col), POSITIVE if positive else NEGATIVE)
        if click._replace(label=1 - click.label) in others:
            got = f"{(row, col)}, which was clicked with the other label"
            raise FewsegError("click", got, "one label a pixel", "undo or move the other click")
        return click

    def _without(self, items: tuple[Any, ...], number: int, what: str) -> tuple[Any, ...]:
        if not 0 <= number < len(items):
            expected = f"a number from 0 to {len(items) - 1}" if items else f"a session with {what}"
            remedy = f"there are {len(items)} {what}" if items else f"add {what} first"
            raise FewsegError("number", number, expected, remedy)
        return (*items[:number], *items[number + 1 :])

    def _shot(self, pixels: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8]) -> _Shot:
        fitted, _, frame = fit(pixels, None, self.canvas, self.mode)
        images = torch.from_numpy(channels_first([fitted])).to(self.device)
        return _Shot(_View(self.network, images, frame), self._on_canvas(labels, frame))

    def _on_canvas(self, labels: npt.NDArray[np.uint8], frame: Frame) -> Tensor:
        """An annotation (1, 1, h, w) at network size."""
        return torch.from_numpy(on_canvas(labels, frame, self.mode))[None, None].to(self.device)

    def _view(self, region: Box | None) -> _View:
        """The image, or a region of it, on the canvas; the whole and the last region are kept."""
        if region not in self._views:
            top, left, height, width = region or Box(0, 0, *self.image.shape[:2])
            crop = np.ascontiguousarray(self.image[top : top + height, left : left + width])
            fitted, _, frame = fit(crop, None, self.canvas, self.mode)
            images = torch.from_numpy(channels_first([fitted])).to(self.device)
            images = torch.cat([images, images.flip(-1)]) if self.flip else images
            kept: dict[Box | None, _View] = {None: self._views[None]} if None in self._views else {}
            self._views = {**kept, region: _View(self.network, images, frame)}
        return self._views[region]

    def _rows(self, clicks: Sequence[Click], region: Box | None) -> Tensor:
        """Clicks (n, N, 3) on the canvas of a view."""
        frame, seen = self._view(region).frame, clicks if region is None else clicks_in(clicks, region)
        rows = pad_clicks([[(*frame.to_network(row, col), label) for row, col, label in seen]]).to(self.device)
        return torch.cat([rows, mirrored_clicks(rows, self.canvas[1])]) if self.flip else rows
