import torch

from fewseg.functional.pooling import masked_mean, shot_means


def test_means_by_hand():
    features = torch.tensor([[1.0, 3.0], [10.0, 20.0]]).view(1, 2, 1, 1, 2)
    weights = torch.tensor([[0.5, 0.5], [0.0, 1.0]]).view(1, 2, 1, 2)
    assert shot_means(features, weights).flatten().tolist() == [2.0, 20.0]
    assert masked_mean(features, weights).item() == 11.0  # shots count alike, not pixels


def test_eps_shrinks():
    features, weights = torch.ones(1, 1, 3, 2, 2), torch.full((1, 1, 2, 2), 0.25)
    torch.testing.assert_close(shot_means(features, weights, eps=1.0), torch.full((1, 1, 3), 0.5))


def test_unannotated_shots_do_not_count_and_none_gives_zeros_with_zero_gradient():
    features = torch.rand(1, 3, 4, 2, 2, requires_grad=True)
    weights = torch.zeros(1, 3, 2, 2)
    assert masked_mean(features, weights).tolist() == [[0.0] * 4]
    masked_mean(features, weights).sum().backward()
    assert (features.grad == 0).all()
    weights[:, 1] = 1
    torch.testing.assert_close(masked_mean(features, weights), features[:, 1].mean((-2, -1)))


def test_one_frame_serves_many_objects():
    features, weights = torch.rand(1, 2, 4, 3, 3), torch.rand(5, 2, 3, 3)
    together = masked_mean(features, weights)
    apart = torch.cat([masked_mean(features, w[None]) for w in weights])
    torch.testing.assert_close(together, apart)


def test_dtype_is_that_of_the_features():
    assert masked_mean(torch.rand(1, 1, 2, 3, 3, dtype=torch.float64), torch.ones(1, 1, 3, 3)).dtype == torch.float64
