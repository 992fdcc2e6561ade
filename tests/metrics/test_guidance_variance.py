import pytest
import torch

from fewseg.metrics.guidance_variance import GuidanceVariance


def of(classes, vectors):
    variance = GuidanceVariance()
    variance.update(classes, vectors)
    return variance


def test_the_same_z_for_every_episode_guides_nothing():
    assert of([1, 1, 2], torch.tensor([[1.0, 2.0]]).expand(3, 2)).compute() == (0, 0)


def test_one_z_a_class_is_between_and_noise_is_within():
    centred = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
    assert of([1, 1, 2, 2], centred).compute() == (0, 1)
    assert of([1, 2, 1, 2], centred).compute() == (1, 0)


def test_scale_and_processes_do_not_matter():
    z, classes = torch.randn(30, 7, generator=torch.Generator().manual_seed(0)) + 1, [i % 4 for i in range(30)]
    whole = of(classes, z).compute()
    assert of(classes, 1000 * z).compute() == pytest.approx(whole, abs=1e-8)
    parts = of(classes[:11], z[:11]).plus(of(classes[11:], z[11:]))
    assert parts.compute() == pytest.approx(whole, abs=1e-8)
    means = torch.stack([z[torch.tensor(classes) == c].mean(0) for c in range(4)])
    within = sum((z[i] - means[c]).square().sum() for i, c in enumerate(classes)) / z.square().sum()
    assert whole.within == pytest.approx(within.item(), abs=1e-6)


def test_no_episode_has_no_shares():
    assert GuidanceVariance().compute() is None
