"""Test-time refinement: what was clicked is made right by optimising an input or a hidden value, never parameters.

Sources: Jang and Kim, "Interactive image segmentation via backpropagating refinement scheme" (BRS, CVPR 2019);
Sofiiuk, Petrov, Barinova, Konushin, "f-BRS: rethinking backpropagating refinement for interactive segmentation" (CVPR
2020, https://arxiv.org/abs/2001.10331) and its code, from which objective, limits and stopping rules are taken. It
works on every network of the zoo, because it needs no more than the insertion points that a network declares.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import fmin_l_bfgs_b
from torch import Tensor

from fewseg.episode import NEGATIVE, NO_CLICK, POSITIVE, Box, Features
from fewseg.errors import FewsegError
from fewseg.functional.optimisation import optimisation
from fewseg.network import SegmentorNetwork

IMAGE, MAPS = "image", "maps"  # the points of BRS, beside those that a network declares

_BIAS_WEIGHT = 10.0  # of biases beside scales in the inertial term
_EPS = 1e-5  # pixels, added to the number of those that are averaged over
_MEMORY, _MAX_ITERATIONS, _SMALLEST_GRADIENT = 20, 40, 1e-8  # of L-BFGS-B


@dataclasses.dataclass(frozen=True)
class Refinement:
    """What is optimised, and how long. The defaults are those of f-BRS, which starts at the second click instead.

    Args:
        point: an insertion point of the network: a scale and a bias for each channel there (f-BRS); ``image``: a
            change of the normalised image (RGB-BRS); ``maps``: a change of the click maps (distance-map BRS).
        first_click: number of clicks from which on it acts.
        weight: lambda, of the inertial term that holds back the change.
        max_evaluations: of the objective, the one before any change included.
        radius: of a click's square neighbourhood in pixels; 1 is 3x3.
        threshold: probability above which a pixel is foreground, for both stopping rules.
        min_change: the optimisation stops where the mask's IoU with that of the evaluation before is above 1 minus
            this; 0 goes on.

    Raises:
        FewsegError: a number out of range.
    """

    point: str
    first_click: int = 1
    weight: float = 1e-3
    max_evaluations: int = 20
    radius: int = 1
    threshold: float = 0.49
    min_change: float = 0.01

    def __post_init__(self) -> None:
        for name, least in (("first_click", 1), ("weight", 0), ("max_evaluations", 1), ("radius", 0)):
            if not getattr(self, name) >= least:
                raise FewsegError(name, getattr(self, name), f"{least} or more", "leave it out")
        if not 0 < self.threshold < 1:
            raise FewsegError("threshold", self.threshold, "a probability between 0 and 1", "leave it out")
        if not 0 <= self.min_change <= 1:
            raise FewsegError("min_change", self.min_change, "0 to 1", "0 never stops for a mask that stands still")

    @property
    def positional(self) -> bool:
        """Whether its state is a map, which means nothing for another crop of the image."""
        return self.point in (IMAGE, MAPS)


class Refined(NamedTuple):
    """The answer with the lowest objective that was met.

    ``logits`` (n, 2, H, W); ``state`` (V,) float64 on the CPU, from which the next click starts; the objective at the
    start and at the answer (infinite where it is no number); how often the objective was evaluated; wall-clock seconds
    until the answer to start from was there, which an unrefined answer would have taken as well.
    """

    logits: Tensor
    state: Tensor
    objective_before: float
    objective_after: float
    evaluations: int
    seconds_unrefined: float


def points_of(network: SegmentorNetwork) -> tuple[str, ...]:
    """Where a network can be refined: ``image``, ``maps`` where it reads click maps, and its insertion points.

    >>> from fewseg.models import PANet
    >>> points_of(PANet().network)
    ('image', 'features')
    """
    reads_maps = network.uses_clicks and hasattr(network, "click_maps")
    return (IMAGE, *((MAPS,) if reads_maps else ()), *network.insertion_points)


def check_point(network: SegmentorNetwork, point: str, argument: str = "refine", name: str = "") -> None:
    """An error unless the network can be refined there.

    Args:
        network: to refine.
        point: see ``Refinement``.
        argument: what the user set, for the message.
        name: of the method, for the message.

    Raises:
        FewsegError: the network has no such point.
    """
    if point not in points_of(network):
        offered = f"one of {', '.join(points_of(network))} for {name or type(network).__name__}"
        raise FewsegError(argument, point, offered, "choose one of these points")


def refine(
    network: SegmentorNetwork,
    images: Tensor | Features,
    features: Features | None,
    guidance: Any,
    clicks: Tensor,
    how: Refinement,
    state: Tensor | None = None,
    box: Box | None = None,
) -> Refined:
    """Optimises until the clicks are right, the mask stands still or the evaluations are spent (L-BFGS-B).

    It works in inference mode. Parameters stay as they are and get no gradients.

    Args:
        network: in eval mode.
        images: (n, 3, H, W), integers or normalised floats; n = 2 is an image and its mirror image, which share
            scales and biases, and whose changes of inputs mirror each other. Features of them do as well, except for
            ``image``.
        features: what ``encode_query(images)`` returned, None computes it; not read for ``image``.
        guidance: what ``guide`` returned, with a leading 1 or n.
        clicks: (n, N, 3) integer rows (row, col, label) of each view, label -1 = padding. All of them enter the
            objective; how many of them the network reads is its own affair.
        how: what to optimise.
        state: that of the click before, None starts without a change.
        box: where the first view shows the image; the rest is padding and counts nowhere. None = everywhere.

    Raises:
        FewsegError: the network has no such point, or clicks or state have another shape.

    >>> from fewseg.models import PANet
    >>> network = PANet().network.eval()
    >>> image, masks = torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.zeros(1, 1, 32, 32)
    >>> masks[..., :9] = 1
    >>> guidance = network.guide(network.encode_support(image[:, None]), masks)
    >>> refined = refine(network, image, None, guidance, torch.tensor([[[4, 4, 1]]]), Refinement("features"))
    >>> refined.logits.shape, refined.objective_after <= refined.objective_before
    (torch.Size([1, 2, 32, 32]), True)
    """
    began = time.perf_counter()
    check_point(network, how.point)
    if clicks.ndim != 3 or len(clicks) not in (1, 2) or clicks.shape[2] != 3 or clicks.is_floating_point():
        got = f"{clicks.dtype} of shape {tuple(clicks.shape)}"
        raise FewsegError(
            "clicks", got, "integers (1, N, 3), or (2, N, 3) with the mirror image", "pad_clicks makes it"
        )
    with optimisation(), _constant(network):
        images, features, guidance, clicks = (_usable(value) for value in (images, features, guidance, clicks))
        with torch.no_grad():
            tail = _tail(network, images, features, guidance, clicks, how.point)
        if state is not None and state.shape != (tail.n_variables,):
            expected = f"({tail.n_variables},) for point {how.point!r} of these images"
            raise FewsegError("state", tuple(state.shape), expected, "pass None to start anew")
        size = images.image_size if isinstance(images, Features) else images.shape[-2:]
        inside = torch.zeros(1, 1, size[0], size[1], dtype=torch.bool, device=clicks.device)
        top, left, height, width = box or Box(0, 0, size[0], size[1])
        inside[..., top : top + height, left : left + width] = True
        inside = torch.cat([inside, inside.flip(-1)][: len(clicks)])  # (n, 1, H, W)
        squares = click_squares(clicks, (size[0], size[1]), how.radius) & inside
        moves = int((clicks[0, :, 2] != NO_CLICK).sum()) >= how.first_click
        unchanged = np.zeros(tail.n_variables)
        start = unchanged if state is None else state.double().cpu().numpy()
        found = _descend(tail, squares, inside[:, 0], how, start, moves)
        if state is not None and not math.isfinite(found.before):
            found = _descend(tail, squares, inside[:, 0], how, unchanged, moves)
    state = torch.from_numpy(found.best)
    return Refined(found.logits, state, found.before, found.lowest, found.evaluations, found.answered - began)


def click_squares(clicks: Tensor, size: tuple[int, int], radius: int) -> Tensor:
    """The pixels around the clicks of each label, cut at the border.

    Args:
        clicks: (n, N, 3) integers (row, col, label), label -1 = padding.
        size: (H, W) of the image.
        radius: of the square neighbourhood in pixels.

    Returns:
        (n, 2, H, W) bool, negative clicks first.

    >>> click_squares(torch.tensor([[[0, 0, 1], [1, 3, 0]]]), (2, 4), 1)[0].int().tolist()
    [[[0, 0, 1, 1], [0, 0, 1, 1]], [[1, 1, 0, 0], [1, 1, 0, 0]]]
    """
    row, col, label = (part[..., None] for part in clicks.unbind(2))  # (n, N, 1)
    rows = (torch.arange(size[0], device=clicks.device) - row).abs() <= radius  # (n, N, H)
    cols = (torch.arange(size[1], device=clicks.device) - col).abs() <= radius  # (n, N, W)
    own = label == torch.tensor([NEGATIVE, POSITIVE], device=clicks.device)  # (n, N, 2)
    return torch.einsum("nkl,nkh,nkw->nlhw", own.float(), rows.float(), cols.float()) > 0


def corrective_energy(probs: Tensor, squares: Tensor) -> tuple[Tensor, Tensor]:
    """How wrong the clicked pixels are: the mean of (1 - p)^2 at positive clicks plus that of p^2 at negative ones.

    Args:
        probs: p (n, H, W) of foreground.
        squares: (n, 2, H, W) bool of ``click_squares``. A label without clicks adds nothing.

    Returns:
        The energy, and (2,) the largest error |label - p| of each label.

    >>> energy, worst = corrective_energy(torch.full((1, 1, 2), 0.25), torch.tensor([[[[1, 0]], [[0, 1]]]]).bool())
    >>> round(energy.item(), 4), worst.tolist()  # 1/16 + 9/16
    (0.625, [0.25, 0.75])
    """
    errors = torch.stack([probs, 1 - probs], 1) * squares
    pixels = squares.sum((0, 2, 3)).to(probs.dtype)
    return (errors.square().sum((0, 2, 3)) / (pixels + _EPS)).sum(), errors.detach().amax((0, 2, 3))


class _Tail(NamedTuple):
    """What runs again in every evaluation: from V variables to logits, and to the inertial term without its weight."""

    n_variables: int
    dtype: torch.dtype
    device: torch.device
    answer: Callable[[Tensor], Tensor]
    inertia: Callable[[Tensor], Tensor]


def _tail(
    network: SegmentorNetwork, images: Any, features: Features | None, guidance: Any, clicks: Tensor, point: str
) -> _Tail:
    read = clicks if network.uses_clicks else None
    if point == IMAGE:
        if isinstance(images, Features):
            raise FewsegError("refine", IMAGE, "a point behind the encoder for features", "pass the images themselves")
        encoder: Any = network.encoder
        return _input_tail(
            encoder.normalize(images), lambda changed: network.segment(network.encode_query(changed), guidance, read)
        )
    encoded = network.encode_query(images) if features is None else features
    if point == MAPS:
        reader: Any = network
        maps = reader.click_maps(clicks, encoded.image_size)
        return _input_tail(maps, lambda changed: network.segment(encoded, guidance, changed))
    hidden = network.segment_to(point, encoded, guidance, read)
    return _hidden_tail(hidden, lambda changed: network.segment_from(point, changed, guidance, read))


def _input_tail(values: Tensor, answer: Callable[[Tensor], Tensor]) -> _Tail:
    """BRS: an added change (C, H, W) of the first view, and its mirror image for the second."""

    def changed(x: Tensor) -> Tensor:
        change = x.reshape(1, *values.shape[1:])
        return values + torch.cat([change, change.flip(-1)][: len(values)])

    return _Tail(
        values[0].numel(), values.dtype, values.device, lambda x: answer(changed(x)), lambda x: x.square().sum()
    )


def _hidden_tail(hidden: Any, answer: Callable[[Any], Tensor]) -> _Tail:
    """f-BRS: a scale 1 + s and a bias b of each channel; the variables are all s, then all b."""
    parts = _scaled(hidden)
    channels = [part.shape[1] for part in parts]

    def changed(x: Tensor) -> Any:
        scales, biases = (half.split(channels) for half in x.chunk(2))
        shapes = [(-1, *(1,) * (part.ndim - 2)) for part in parts]
        triples = zip(parts, shapes, scales, biases, strict=True)
        return _replaced(hidden, tuple(m * (1 + s.reshape(shape)) + b.reshape(shape) for m, shape, s, b in triples))

    def inertia(x: Tensor) -> Tensor:
        scales, biases = x.chunk(2)
        return scales.square().sum() + _BIAS_WEIGHT * biases.square().sum()

    dtype = torch.promote_types(parts[0].dtype, torch.float32)  # cached features come in half precision
    return _Tail(2 * sum(channels), dtype, parts[0].device, lambda x: answer(changed(x)), inertia)


def _scaled(hidden: Any) -> tuple[Tensor, ...]:
    """What f-BRS scales of a hidden value: a tensor itself, all maps of features, else the first field of a tuple."""
    if isinstance(hidden, Tensor):
        return (hidden,)
    return hidden.maps if isinstance(hidden, Features) else _scaled(hidden[0])


def _replaced(hidden: Any, parts: tuple[Tensor, ...]) -> Any:
    """The hidden value with other tensors in the places of ``_scaled``."""
    if isinstance(hidden, Tensor):
        return parts[0]
    if isinstance(hidden, Features):
        return Features(parts, hidden.image_size)
    return _rebuilt(hidden, (_replaced(hidden[0], parts), *hidden[1:]))


class _Spent(Exception):
    """Ends the optimisation: no evaluation is left, or there is nothing to descend on."""


class _Objective:
    """The function that L-BFGS-B minimises; it remembers the best of its evaluations."""

    def __init__(self, tail: _Tail, squares: Tensor, inside: Tensor, how: Refinement) -> None:
        self.tail, self.squares, self.inside, self.how = tail, squares, inside, how
        self.answered = 0.0  # when the answer without any change was there
        self.previous: Tensor | None = None  # mask (n, H, W) of the evaluation before
        self.evaluations = 0
        self.before = self.lowest = math.inf
        self.best: npt.NDArray[np.float64]
        self.logits: Tensor

    def __call__(self, point: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        """Value and gradient; a gradient of zeros tells L-BFGS-B that it has arrived, as in the code of f-BRS."""
        if self.evaluations == self.how.max_evaluations:
            raise _Spent
        x = torch.from_numpy(point).to(self.tail.dtype).to(self.tail.device).requires_grad_()
        logits = self.tail.answer(x)
        precise = torch.promote_types(logits.dtype, torch.float32)
        probs = logits.to(precise).softmax(1)[:, POSITIVE]
        energy, worst = corrective_energy(probs, self.squares)
        loss = energy + self.how.weight * self.tail.inertia(x)
        value = loss.item()
        self.evaluations += 1
        self.answered = self.answered or time.perf_counter()
        if self.evaluations == 1 or value < self.lowest:
            self.lowest = value if math.isfinite(value) else math.inf
            self.best, self.logits = point.copy(), logits.detach()
            self.before = self.lowest if self.evaluations == 1 else self.before
        if not math.isfinite(value):
            raise _Spent
        if self.arrived(probs.detach(), worst):
            return value, np.zeros_like(point)
        (gradient,) = torch.autograd.grad(loss, x)
        if not gradient.isfinite().all():
            raise _Spent
        return value, gradient.double().cpu().numpy()

    def arrived(self, probs: Tensor, worst: Tensor) -> bool:
        """Whether all clicked pixels are right, or the mask is that of the evaluation before."""
        negative, positive = worst.tolist()
        if positive < 1 - self.how.threshold and negative < self.how.threshold:
            return True
        mask, previous = (probs > self.how.threshold) & self.inside, self.previous
        self.previous = mask
        if previous is None:
            return False
        union = (mask | previous).flatten(1).sum(1)
        iou = (mask & previous).flatten(1).sum(1)[union > 0] / union[union > 0]  # views without any mask do not count
        return len(iou) > 0 and iou.mean().item() > 1 - self.how.min_change


def _descend(
    tail: _Tail, squares: Tensor, inside: Tensor, how: Refinement, start: npt.NDArray[np.float64], moves: bool
) -> _Objective:
    """The objective after L-BFGS-B went down on it, or after one evaluation where nothing is to move."""
    objective = _Objective(tail, squares, inside, how)
    try:
        if moves:
            fmin_l_bfgs_b(
                objective,
                start,
                m=_MEMORY,
                factr=0,
                pgtol=_SMALLEST_GRADIENT,
                maxfun=how.max_evaluations,
                maxiter=_MAX_ITERATIONS,
            )
        else:
            objective(start)
    except _Spent:
        pass
    return objective


@contextmanager
def _constant(network: SegmentorNetwork) -> Iterator[None]:
    """Parameters need no gradients inside, which saves half of the way back."""
    learned = [p for p in network.parameters() if p.requires_grad]
    for parameter in learned:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learned:
            parameter.requires_grad_(True)


def _usable(value: Any) -> Any:
    """The value with tensors that gradients may flow through, whatever mode they were made in."""
    if isinstance(value, Tensor):
        return value.clone() if value.is_inference() else value.detach()
    return _rebuilt(value, tuple(_usable(v) for v in value)) if isinstance(value, tuple) else value


def _rebuilt(value: tuple[Any, ...], fields: tuple[Any, ...]) -> Any:
    """A tuple, or a NamedTuple of the same class, of other fields."""
    return type(value)(*fields) if hasattr(value, "_fields") else fields
