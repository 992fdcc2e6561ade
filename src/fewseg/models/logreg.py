"""Logistic regression: a linear classifier fitted to each episode's annotated support cells, to convergence.

Source: the LogReg baseline of Shaban et al. 2017 (OSLSM, https://arxiv.org/abs/1709.03410): per task, a logistic
regression on the support's features of a network trained on the base classes. No code of it is public.

Deviations: an encoder of choice instead of FCN-32s; cells of the feature grid, weighted by how much of a cell carries
a label, instead of upsampled pixels; the strength of the regularisation is ours, the paper gives none.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from fewseg.episode import NEGATIVE, POSITIVE, Features
from fewseg.errors import FewsegError
from fewseg.functional.annotations import annotated, silence, weights_of
from fewseg.functional.geometry import upsample
from fewseg.models.base import FewShotSegmentor, Optimizer, Schedule
from fewseg.models.nearest_neighbor import ProbeNetwork, refuse_unlearned
from fewseg.modules.encoders import Encoder

_RIDGE = 1e-6  # on the bias: nothing against what data say, but a definite answer where there are none
_MAX_STEPS = 100
_TOLERANCE = 1e-5  # largest entry of the gradient of a loss whose weights sum to 1


class Guidance(NamedTuple):
    """weight (B, C) and bias (B,) of the classifier; annotated (B, 2) bool."""

    weight: Tensor
    bias: Tensor
    annotated: Tensor


class LogRegNetwork(ProbeNetwork):
    """``guide`` solves the regression; ``segment`` applies it to every query cell.

    Without negatives the zero vector is the one negative example, so that a cell is foreground where its features
    resemble the positives; without positives all is background.

    Args:
        encoder: of supports and queries.
        width: see ``ProbeNetwork``.
        c: inverse strength of the regularisation, against a loss whose weights sum to 1.
        balanced: each label counts one half; otherwise each as much as its annotated area.

    >>> network = LogRegNetwork(Encoder("tiny", trainable=False))
    >>> supports = network.encode_support(torch.zeros(1, 2, 3, 32, 32, dtype=torch.uint8))
    >>> guidance = network.guide(supports, torch.randint(0, 2, (1, 2, 32, 32)))
    >>> network.segment(network.encode_query(torch.zeros(1, 3, 17, 13, dtype=torch.uint8)), guidance).shape
    torch.Size([1, 2, 17, 13])
    """

    exportable: ClassVar[bool] = False  # it iterates until it has converged

    def __init__(self, encoder: Encoder, width: int | None = None, c: float = 1000.0, balanced: bool = True) -> None:
        super().__init__(encoder, width)
        if c <= 0:
            raise FewsegError("c", c, "a positive number", "a smaller one regularises more; 1000 is the default")
        self.c, self.balanced = c, balanced

    def guide(self, features: Features, annotations: Tensor) -> Guidance:
        """The solution of each episode."""
        maps, known = features.maps[0], annotated(annotations)
        size = (maps.shape[-2], maps.shape[-1])
        cells = maps.transpose(1, 2).flatten(2).mT.expand(len(annotations), -1, -1)  # (B, K h w, C)
        found = [weights_of(annotations, label, size).flatten(1) for label in (NEGATIVE, POSITIVE)]
        weights = torch.stack(found, 1).to(cells.dtype)  # (B, 2, K h w)
        # one more cell, the zero vector, is as negative as all positives are positive where nothing else is negative
        missing = weights[:, POSITIVE].sum(1) * ~known[:, NEGATIVE]
        spare = torch.stack([missing, torch.zeros_like(missing)], 1)[..., None]
        weights, cells = torch.cat([weights, spare], 2), torch.cat([cells, torch.zeros_like(cells[:, :1])], 1)
        if self.balanced:
            weights = weights / _sum(weights, (2,))
        weights = weights * known[:, POSITIVE, None, None]
        weights = weights / _sum(weights, (1, 2))
        weight, bias = logistic_regression(cells, weights[:, POSITIVE], weights[:, NEGATIVE], self.c)
        return Guidance(weight, bias, known)

    def segment(self, features: Features, guidance: Guidance, clicks: Tensor | None = None) -> Tensor:
        """Logits (B, 2, H, W), minus and plus half the margin: softmax gives the regression's probability."""
        margin = torch.einsum("bchw,bc->bhw", features.maps[0], guidance.weight) + guidance.bias[:, None, None]
        logits = upsample(torch.stack([-margin, margin], 1) / 2, features.image_size)
        return silence(logits, guidance.annotated[:, POSITIVE])


def _sum(weights: Tensor, dims: tuple[int, ...]) -> Tensor:
    """The sum, to divide by: 1 where there is nothing."""
    total = weights.sum(dims, keepdim=True)
    return torch.where(total > 0, total, 1.0)


def logistic_regression(cells: Tensor, positive: Tensor, negative: Tensor, c: float) -> tuple[Tensor, Tensor]:
    """Minimises Σ_i p_i log(1 + exp(-z_i)) + n_i log(1 + exp(z_i)) + |w|² / (2 c) with z = w x + b, for a whole batch.

    Newton's method with a line search. The Hessian serves two steps, because it costs most. Gradients flow through the
    solution and not through the way there: at the minimum one more Newton step changes nothing but has the gradient of
    the solution (implicit differentiation).

    Args:
        cells: x (B, N, C).
        positive: p (B, N), not negative.
        negative: n (B, N), likewise; a cell may carry both labels.
        c: inverse strength of the regularisation; the bias is free of it.

    Returns:
        w (B, C) and b (B,). Nothing weighted gives zeros.

    >>> x = torch.tensor([[[-1.0], [1.0]]])
    >>> w, b = logistic_regression(x, torch.tensor([[0.0, 0.5]]), torch.tensor([[0.5, 0.0]]), c=1.0)
    >>> bool((w - torch.sigmoid(-w)).abs() < 1e-4), bool(b.abs() < 1e-4)  # w / c = sigmoid(-w)
    (True, True)
    """
    with torch.autocast(cells.device.type, enabled=False):  # half precision does not converge
        precise = torch.promote_types(cells.dtype, torch.float32)
        cells, positive, negative = (t.to(precise) for t in (cells, positive, negative))
        mass = (positive + negative)[..., None]  # (B, N, 1)
        centre = (mass * cells).sum(1, keepdim=True) / _sum(mass, (1,))  # another bias, better conditioned
        x = torch.cat([cells - centre, torch.ones_like(cells[..., :1])], 2)  # (B, N, C + 1)
        ridge = torch.full_like(x[0, 0], 1 / c)
        ridge[-1] = _RIDGE
        with torch.no_grad():
            solution = _newton(x, positive, mass[..., 0], ridge)
        if x.requires_grad:
            gradient, curvature = _derivatives(x, positive, mass[..., 0], ridge, solution)
            factor = torch.linalg.cholesky(_hessian(x, curvature, ridge))
            solution = solution - torch.cholesky_solve(gradient[..., None], factor)[..., 0]
        weight, bias = solution[:, :-1], solution[:, -1]
        return weight, bias - (weight * centre[:, 0]).sum(1)


def _newton(x: Tensor, positive: Tensor, mass: Tensor, ridge: Tensor) -> Tensor:
    """The minimum (B, C + 1), from zeros."""
    solution, factor = torch.zeros_like(x[:, 0]), torch.empty(0)
    lengths = (0.5 ** torch.arange(-2, 12, device=x.device)).to(x.dtype)[:, None]  # (T, 1), of a step
    for step in range(_MAX_STEPS):
        gradient, curvature = _derivatives(x, positive, mass, ridge, solution)
        if gradient.abs().max() < _TOLERANCE:
            break
        if step % 2 == 0:
            factor = torch.linalg.cholesky(_hessian(x, curvature, ridge))
        direction = -torch.cholesky_solve(gradient[..., None], factor)[..., 0]
        # along a line the loss needs no more products with x: the length where its slope is closest to zero
        here, along = ((x @ v[..., None]).mT for v in (solution, direction))  # (B, 1, N)
        residual = mass[:, None] * (here + lengths * along).sigmoid() - positive[:, None]  # (B, T, N)
        slope = (residual * along).sum(2)
        slope = slope + (ridge * (solution[:, None] + lengths * direction[:, None]) * direction[:, None]).sum(2)
        solution = solution + lengths[slope.abs().argmin(1)] * direction
    return solution


def _derivatives(x: Tensor, positive: Tensor, mass: Tensor, ridge: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient (B, C + 1), and the second derivative of each cell's loss (B, N)."""
    probability = (x @ at[..., None])[..., 0].sigmoid()
    gradient = ((mass * probability - positive)[:, None] @ x)[:, 0] + ridge * at
    return gradient, mass * probability * (1 - probability)


def _hessian(x: Tensor, curvature: Tensor, ridge: Tensor) -> Tensor:
    return x.mT @ (curvature[..., None] * x) + torch.diag(ridge)


class LogReg(FewShotSegmentor):
    """Logistic regression on features of an encoder; with a frozen encoder nothing is trained.

    Args:
        encoder: ``tiny`` or a timm name, vision transformers included.
        weights: a file or ``"pretrained"``.
        output_stride: of the encoder.
        taps: levels of the encoder.
        freeze_encoder: False trains the encoder through the solution of the regression.
        width: channels of an embedding of the taps, which comes with a pre-trained encoder; None takes the taps.
        c: inverse strength of the regularisation.
        balanced: each label counts one half, however large its area is.
        lr: peak learning rate.
        encoder_lr_factor: the encoder learns with ``lr`` times this.
        weight_decay: on all parameters.
        optimizer: ``adamw``, or ``sgd`` with ``momentum``.
        momentum: of SGD.
        schedule: ``one_cycle`` or ``constant``.
    """

    def __init__(
        self,
        encoder: str = "tiny",
        weights: str | None = None,
        output_stride: int | None = None,
        taps: tuple[int, ...] | None = None,
        freeze_encoder: bool = True,
        width: int | None = None,
        c: float = 1000.0,
        balanced: bool = True,
        lr: float = 2e-3,
        encoder_lr_factor: float = 0.3,
        weight_decay: float = 1e-4,
        optimizer: Optimizer = "adamw",
        momentum: float = 0.9,
        schedule: Schedule = "one_cycle",
    ) -> None:
        self.save_hyperparameters()
        backbone = Encoder(encoder, weights, output_stride, taps, trainable=not freeze_encoder)
        refuse_unlearned(backbone, weights, width)
        super().__init__(
            LogRegNetwork(backbone, width, c, balanced),
            lr=lr,
            encoder_lr_factor=encoder_lr_factor,
            weight_decay=weight_decay,
            optimizer=optimizer,
            momentum=momentum,
            schedule=schedule,
        )
