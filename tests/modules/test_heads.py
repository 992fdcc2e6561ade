import pytest
import torch

from fewseg.modules.heads import Nearest, nearest_maps

torch.set_num_threads(1)


def test_the_nearest_map_is_the_best_cosine_over_all_labelled_cells():
    random = torch.Generator().manual_seed(0)
    features = torch.randn(2, 5, 3, 4, generator=random)
    supports = torch.randn(2, 3, 5, 2, 2, generator=random)
    weights = (torch.rand(2, 2, 3, 2, 2, generator=random) > 0.5).float()
    weights[1, 0] = 0
    found = nearest_maps(features, supports, weights)
    for b, label, r, c in ((0, 1, 1, 2), (0, 0, 0, 0), (1, 0, 2, 3), (1, 1, 2, 1)):
        chosen = weights[b, label].nonzero().tolist()
        cosines = [
            torch.cosine_similarity(features[b, :, r, c], supports[b, k, :, i, j], dim=0).item() for k, i, j in chosen
        ]
        assert found[b, label, r, c].item() == pytest.approx(max(cosines, default=-1.0), abs=1e-5)


def test_without_negatives_a_cell_is_positive_where_its_cosine_exceeds_one_half():
    cells = torch.tensor([1.0, 0.0]).view(1, 1, 2, 1, 1)
    weights = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1, 1)
    angles = torch.tensor([0.9, 1.2])  # on both sides of 60 degrees, 1.047
    features = torch.stack([angles.cos(), angles.sin()]).view(1, 2, 1, 2)
    scores = Nearest()(features, cells, weights)
    assert (scores[:, 1] > scores[:, 0]).flatten().tolist() == [True, False]
