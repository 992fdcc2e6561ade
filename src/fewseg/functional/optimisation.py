"""Optimising at test time, inside code that Lightning runs in inference mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


@contextmanager
def optimisation() -> Iterator[None]:
    """Gradients are recorded inside, whatever mode the caller runs in.

    Tensors made in inference mode stay unusable for gradients: clone the features inside the context first.

    >>> with torch.inference_mode():
    ...     features = torch.ones(2)
    ...     with optimisation():
    ...         x = torch.zeros(2, requires_grad=True)
    ...         (x * features.clone()).sum().backward()
    >>> x.grad
    tensor([1., 1.])
    """
    with torch.inference_mode(False), torch.enable_grad():
        yield


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Eval mode inside: tuning uses the statistics of the training and leaves them as they are."""
    before = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(before)


def tuned_change(
    network: nn.Module,
    names: Sequence[str],
    loss: Callable[[Tensor], Tensor],
    steps: int,
    make_optimizer: Callable[[list[Tensor]], torch.optim.Optimizer],
    passes: int = 1,
) -> Tensor:
    """What optimising some parameters of a network on a loss adds to them; they stay as they are.

    Args:
        network: whose parameters those are.
        names: of the parameters.
        loss: of a change (D,), the flattened changes of all of them joined.
        steps: of the optimiser.
        make_optimizer: from a list of tensors, the change of each parameter in the order of ``names``.
        passes: how often the loss is asked for in a step, which descends on the mean; one after the other, so that
            memory does not grow.

    Returns:
        (D,) without gradient, D the number of values of the parameters.

    >>> layer = nn.Linear(1, 1, bias=False)
    >>> def error(change):
    ...     return (call_changed(layer, ["weight"], change, "forward", torch.ones(1)) - 3).square().sum()
    >>> change = tuned_change(layer, ["weight"], error, 50, lambda values: torch.optim.SGD(values, 0.1))
    >>> round((layer.weight + change).item(), 3)
    3.0
    """
    changes = [torch.zeros_like(network.get_parameter(name), requires_grad=True) for name in names]
    optimizer = make_optimizer(changes)
    for _ in range(steps):
        optimizer.zero_grad()
        for _ in range(passes):
            (loss(_joined(changes)) / passes).backward(inputs=changes)
        optimizer.step()
    return _joined(changes).detach()


def _joined(values: Sequence[Tensor]) -> Tensor:
    return torch.cat([value.flatten() for value in values])


def call_changed(network: nn.Module, names: Sequence[str], change: Tensor, verb: str, *arguments: Any) -> Any:
    """``network.verb(*arguments)`` under changed parameters.

    Args:
        network: whose parameters stay as they are.
        names: of the parameters.
        change: (D,), see ``tuned_change``.
        verb: name of the method to call.
        arguments: of that method.
    """
    present = [network.get_parameter(name).detach() for name in names]
    parts = change.split([parameter.numel() for parameter in present])
    changed = zip(names, present, parts, strict=True)
    parameters: Mapping[str, Tensor] = {f"network.{name}": start + part.view_as(start) for name, start, part in changed}
    return functional_call(_Verb(network, verb), dict(parameters), arguments)


class _Verb(nn.Module):
    """Makes a method the forward pass, because ``functional_call`` calls nothing else."""

    def __init__(self, network: nn.Module, verb: str) -> None:
        super().__init__()
        self.network, self.verb = network, verb

    def forward(self, *arguments: Any) -> Any:
        return getattr(self.network, self.verb)(*arguments)
