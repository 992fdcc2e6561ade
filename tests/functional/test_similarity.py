import torch

from fewseg.functional.similarity import cosine_maps, unit


def test_agrees_with_torch():
    features, prototypes = torch.randn(2, 8, 3, 5), torch.randn(2, 4, 8)
    expected = torch.cosine_similarity(features[:, None], prototypes[..., None, None], dim=2)
    torch.testing.assert_close(cosine_maps(features, prototypes), expected)


def test_one_query_serves_many_prototypes():
    features, prototypes = torch.randn(1, 8, 3, 5), torch.randn(6, 2, 8)
    assert cosine_maps(features, prototypes).shape == (6, 2, 3, 5)


def test_scale_does_not_matter():
    features, prototypes = torch.randn(1, 8, 3, 5), torch.randn(1, 2, 8)
    torch.testing.assert_close(cosine_maps(1e4 * features, 1e-4 * prototypes), cosine_maps(features, prototypes))


def test_zero_vectors_have_cosine_and_gradient_zero():
    features = torch.zeros(1, 3, 1, 2, requires_grad=True)
    prototypes = torch.zeros(1, 2, 3, requires_grad=True)
    maps = cosine_maps(features, prototypes + torch.tensor([[[0.0], [1.0]]]))
    maps.sum().backward()
    assert (maps == 0).all()
    assert (features.grad == 0).all()
    assert torch.isfinite(prototypes.grad).all()


def test_unit_has_length_one():
    torch.testing.assert_close(unit(torch.randn(4, 3), 1).norm(dim=1), torch.ones(4))
