"""Nearest neighbours by hand: on cells that are written down, and on encoders that were never trained."""

import pytest
import torch
from safetensors.torch import save_file

import fewseg
from fewseg.episode import Features
from fewseg.errors import FewsegError
from fewseg.functional.similarity import nearest_product
from fewseg.models.base import count_parameters
from fewseg.models.nearest_neighbor import NearestNeighborNetwork, concatenate, labelled_cells
from fewseg.models.pretraining import EncoderPretraining
from fewseg.modules.encoders import Encoder

torch.set_num_threads(1)


def network(**options):
    torch.manual_seed(0)
    return NearestNeighborNetwork(Encoder("tiny", trainable=False), **options).eval()


def cells(*vectors):
    """One map (1, C, 1, n) with a cell per vector, and no resizing: as many pixels as cells."""
    return Features((torch.tensor(vectors).mT[None, :, None],), (1, len(vectors)))


def shot(features):
    return Features((features.maps[0][:, None],), features.image_size)


def labels(*values):
    return torch.tensor(values, dtype=torch.uint8).view(1, 1, 1, -1)


def answer(net, supports, annotations, queries):
    return net.segment(queries, net.guide(shot(supports), annotations))[0, :, 0]  # (2, n)


SUPPORTS = cells([1.0, 0.0], [0.0, 1.0], [1.0, 1.0])
QUERIES = cells([2.0, 0.2], [0.1, 3.0], [2.0, 1.9])


def test_the_label_of_the_most_similar_cell_is_copied():
    for annotation in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 255)):
        found = answer(network(), SUPPORTS, labels(*annotation), QUERIES)
        wanted = [a for a in annotation if a != 255]
        assert (found[1] > found[0]).long().tolist()[: len(wanted)] == wanted


def test_logits_differ_by_twenty_times_the_cosines():
    found = answer(network(), SUPPORTS, labels(1, 0, 255), QUERIES)
    query = QUERIES.maps[0][0, :, 0]
    cosines = query / query.norm(dim=0)  # with (1, 0) and (0, 1)
    torch.testing.assert_close(found[1] - found[0], 20 * (cosines[0] - cosines[1]))


def test_euclidean_distance_tells_what_the_direction_does_not():
    supports, queries = cells([1.0, 0.0], [4.0, 0.1]), cells([1.5, 0.1], [3.5, 0.0])
    margin = answer(network(metric="l2"), supports, labels(1, 0), queries)
    assert (margin[1] > margin[0]).tolist() == [True, False]
    margin = answer(network(metric="cosine"), supports, labels(1, 0), queries)
    assert (margin[1] > margin[0]).tolist() == [False, True]
    scaled = answer(  # the unit of the features does not matter
        network(metric="l2"), cells([100.0, 0.0], [400.0, 10.0]), labels(1, 0), cells([150.0, 10.0], [350.0, 0.0])
    )
    torch.testing.assert_close(scaled, answer(network(metric="l2"), supports, labels(1, 0), queries))


def test_prototypes_are_means():
    """Of the positives (1, 0) and (0, 1) the mean points at (1, 1), which no cell of them does."""
    supports, queries = cells([1.0, 0.0], [0.0, 1.0], [1.0, 0.5]), cells([1.0, 1.0], [1.0, 0.4])
    near = answer(network(), supports, labels(1, 1, 0), queries)
    mean = answer(network(inference="prototype"), supports, labels(1, 1, 0), queries)
    assert (near[1] > near[0]).tolist() == [False, False]
    assert (mean[1] > mean[0]).tolist() == [True, False]
    guidance = network(inference="prototype", metric="l2").guide(shot(supports), labels(1, 1, 0))
    z = network().represent(guidance)
    torch.testing.assert_close(z, torch.tensor([[1.0, 0.5, 0.5, 0.5]]))  # background, then foreground


@pytest.mark.parametrize("inference", ["nearest", "prototype"])
def test_without_negatives_the_bound_is_a_cosine_of_one_half(inference):
    queries = cells([1.0, 0.0], [0.52, (1 - 0.52**2) ** 0.5], [0.48, (1 - 0.48**2) ** 0.5], [-1.0, 0.0])
    found = answer(network(inference=inference), cells([3.0, 0.0]), labels(1), queries)
    assert (found[1] > found[0]).tolist() == [True, True, False, False]


def test_without_negatives_euclidean_cells_are_compared_with_zero():
    found = answer(network(metric="l2"), cells([2.0, 0.0]), labels(1), cells([1.1, 0.0], [0.9, 0.0], [9.0, 0.0]))
    assert (found[1] > found[0]).tolist() == [True, False, True]


def test_a_border_cell_carries_no_label_and_a_small_object_still_has_its_cell():
    annotation = torch.zeros(1, 2, 4, 12, dtype=torch.uint8)
    annotation[0, 0, :, :6] = 1  # fills cell 0 and half of cell 1
    annotation[0, 1, 0, 5:7] = 1  # 2 of 16 pixels of cell 1
    found = labelled_cells(annotation, (1, 3))[0, :, :, 0].long().tolist()
    assert found[1] == [[1, 0, 0], [0, 1, 0]]
    assert found[0] == [[0, 0, 1], [1, 0, 1]]
    annotation = torch.full((1, 1, 4, 12), 255, dtype=torch.uint8)
    annotation[0, 0, 1, 2], annotation[0, 0, 3, 9] = 1, 0
    assert labelled_cells(annotation, (1, 3))[0, :, 0, 0].long().tolist() == [[0, 0, 1], [1, 0, 0]]


def test_every_tap_counts_the_same():
    taps = Features((torch.randn(1, 4, 3, 3), 1000 * torch.randn(1, 9, 3, 3)), (3, 3))
    joined = concatenate(taps, normalize=True).maps[0]
    torch.testing.assert_close(joined[:, :4].norm(dim=1), torch.full((1, 3, 3), 0.5**0.5))
    torch.testing.assert_close(joined.norm(dim=1), torch.ones(1, 3, 3))
    assert torch.equal(concatenate(taps, normalize=False).maps[0], torch.cat(taps.maps, 1))


def test_shots_one_by_one_are_all_shots_at_once():
    torch.manual_seed(0)
    queries, supports = torch.randn(2, 5, 6), torch.randn(2, 3, 5, 4)
    labelled, offsets = torch.rand(2, 2, 3, 4) > 0.5, torch.rand(2, 3, 4)
    found = nearest_product(queries, supports, labelled, offsets)
    products = torch.einsum("bcn,bkcm->bnkm", queries, supports) - offsets[:, None]
    for label in range(2):
        masked = products.masked_fill(~labelled[:, label, None], -torch.inf)
        torch.testing.assert_close(found[:, label], masked.amax((2, 3)))


def raw(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8)


@pytest.mark.parametrize(
    "encoder", ["resnet10t", "vit_tiny_patch16_224", "vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2"]
)
def test_a_probe_of_any_encoder_needs_no_training(encoder):
    """An object that is cut out of the support is found again in the same image."""
    torch.manual_seed(0)
    model = fewseg.create_model("NearestNeighbor", encoder=encoder)
    assert count_parameters(model.network)[1] == 0
    image = raw(1, 1, 3, 70, 84)
    annotation = torch.zeros(1, 1, 70, 84, dtype=torch.uint8)
    annotation[..., 28:56, 28:56] = 1
    with torch.inference_mode():
        guidance = model.network.guide(model.network.encode_support(image), annotation)
        found = model.network.segment(model.network.encode_query(image[0]), guidance).argmax(1)
    assert found.shape == (1, 70, 84)
    assert found[0, 42, 42] == 1
    assert found[0, 5, 5] == 0


def test_a_frozen_encoder_leaves_nothing_to_learn_and_another_learns():
    assert count_parameters(fewseg.create_model("NearestNeighbor", width=128).network)[1] == 0
    model = fewseg.create_model("NearestNeighbor", freeze_encoder=False)
    guidance = model.network.guide(model.network.encode_support(raw(1, 1, 3, 24, 24)), raw(1, 1, 24, 24) % 2)
    model.network.segment(model.network.encode_query(raw(1, 3, 24, 24)), guidance)[:, 1].sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.network.encoder.parameters())


def test_the_embedding_of_a_pretraining_is_taken(tmp_path):
    trained = EncoderPretraining(width=24)
    weights = str(trained.save(tmp_path) / "model.safetensors")
    net = fewseg.create_model("NearestNeighbor", weights=weights, width=24).network
    assert torch.equal(net.embedding.project.weight, trained.embedding.project.weight)
    assert net.encode_query(raw(1, 3, 16, 16)).maps[0].shape[1] == 24
    assert fewseg.create_model("NearestNeighbor", weights=weights).network.embedding is None
    for method in ("NearestNeighbor", "LogReg"):
        with pytest.raises(FewsegError, match=r"width: got 16.*an embedding of width 24"):
            fewseg.create_model(method, weights=weights, width=16)
    save_file(Encoder("tiny").state_dict(), tmp_path / "bare.safetensors")
    with pytest.raises(FewsegError, match=r"width: got 24.*no embedding"):
        fewseg.create_model("NearestNeighbor", weights=str(tmp_path / "bare.safetensors"), width=24)
