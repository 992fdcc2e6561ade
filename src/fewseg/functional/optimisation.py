"""Optimising at test time, inside code that Lightning runs in inference mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


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
