"""The matching loss by hand, and which cells it sees."""

import math

import pytest
import torch

from fewseg.episode import Features
from fewseg.errors import FewsegError
from fewseg.models.siamese import SiameseNetwork, matching
from fewseg.modules.encoders import Encoder

torch.set_num_threads(1)


def softplus(x):
    return math.log1p(math.exp(x))


def sides(query, support):
    """Each: one vector of background and one of foreground, or None where the label is absent."""
    known = [torch.tensor([[[v is not None] for v in side]]) for side in (query, support)]
    cells = [torch.tensor([[[v or (0.0, 0.0)] for v in side]]) for side in (query, support)]
    return cells[0], known[0], cells[1], known[1]


def test_each_kind_of_pair_by_hand():
    """Background (0, 1) and (0.6, 0.8), foreground (1, 0) and (1, 0): cosines .8, 0, .6, 1."""
    loss = matching(*sides([(0.0, 1.0), (1.0, 0.0)], [(0.6, 0.8), (2.0, 0.0)]))
    expected = [softplus(-20 * 0.3), softplus(20 * -0.5), softplus(20 * 0.1), softplus(-20 * 0.5)]
    assert loss.item() == pytest.approx(sum(expected) / 4, rel=1e-4)


def test_absent_kinds_do_not_count():
    loss = matching(*sides([None, (1.0, 0.0)], [(0.6, 0.8), (2.0, 0.0)]))
    assert loss.item() == pytest.approx((softplus(20 * 0.1) + softplus(-20 * 0.5)) / 2, rel=1e-4)
    assert matching(*sides([None, None], [(1.0, 0.0), None])).item() == 0


def test_many_pairs_of_a_kind_weigh_as_one():
    cells, known, *_ = sides([(0.0, 1.0), (1.0, 0.0)], [(0.0, 1.0), (1.0, 0.0)])
    repeated = torch.cat([cells, cells, cells], 2)
    marks = torch.tensor([[[True, True, True], [True, False, False]]])
    same = matching(cells, known, cells, known)
    torch.testing.assert_close(matching(repeated, marks, cells, known), same)


def network(**options):
    torch.manual_seed(0)
    return SiameseNetwork(Encoder("tiny"), width=8, **options).eval()


def test_annotated_cells_are_never_missed():
    """One foreground cell among 600 is in the sample of 4, and the sample is the same every time."""
    maps = torch.arange(600.0).view(1, 2, 1, 15, 20)
    labels = torch.zeros(1, 2, 15, 20, dtype=torch.uint8)
    labels[0, 1, 7, 9] = 1
    cells, known = network(n_cells=4).sample(maps, labels)
    assert cells.shape == (1, 2, 4, 1)
    assert known.sum(2).tolist() == [[4, 1]]
    assert cells[0, 1][known[0, 1]].item() == 300 + 7 * 20 + 9
    assert len(set(cells[0, 0].flatten().tolist())) == 4
    assert torch.equal(network(n_cells=4).sample(maps, labels)[0], cells)
    with pytest.raises(FewsegError, match="n_cells: got 0"):
        network(n_cells=0)


def test_unknown_cells_are_not_paired():
    maps, labels = torch.randn(1, 1, 3, 2, 2), torch.full((1, 1, 2, 2), 255, dtype=torch.uint8)
    labels[0, 0, 0, 1] = 1
    assert network().sample(maps, labels)[1].sum(2).tolist() == [[0, 1]]


def test_the_label_of_the_nearest_cell_is_copied():
    supports = Features((torch.tensor([[1.0, 0.0], [0.0, 1.0]]).T[None, None, :, None],), (1, 2))
    queries = Features((torch.tensor([[0.3, 1.0], [1.0, 0.3]]).T[None, :, None],), (1, 2))
    net = network()
    guidance = net.guide(supports, torch.tensor([[[[1, 0]]]], dtype=torch.uint8))
    assert net.segment(queries, guidance).argmax(1).flatten().tolist() == [0, 1]


def test_the_embedding_learns_where_the_encoder_is_frozen():
    net = SiameseNetwork(Encoder("tiny", trainable=False), width=8)
    assert {name for name, p in net.named_parameters() if p.requires_grad} == {
        "embedding.project.weight",
        "embedding.project.bias",
    }
