"""What every method must do: one set of checks, chosen by what a network says of itself, never by its name.

A new method passes through all of this once it is in ``fewseg.models.__all__``. ``Toy`` in toy.py is a whole method,
with its network and its LightningModule, and runs through the same checks: a method costs one file.
"""

import dataclasses
import inspect
import json

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import fewseg
import fewseg.models
from fewseg import cli
from fewseg.episode import Box, EpisodeBatch, EpisodeSpec, Features, Frame
from fewseg.errors import FewsegError
from fewseg.functional.clicks import pad_clicks
from fewseg.modules.encoders import Encoder
from toy import Toy, ToyNetwork

torch.set_num_threads(1)


# ----------------------------------------------------------------------------------------------------- the methods


METHODS = [*fewseg.list_models(), "Toy"]


def create(name, **hyper_parameters):
    torch.manual_seed(0)
    if name == "Toy":  # the zoo knows its own names only
        return Toy(encoder="tiny", **hyper_parameters).eval()
    steps = {"steps": 4} if tunes(name) else {}
    return fewseg.create_model(name, encoder="tiny", **steps, **hyper_parameters)


def tunes(name):
    """Whether it has a number of steps at test time, of which a few will do here."""
    return "steps" in inspect.signature(getattr(fewseg.models, name, Toy)).parameters


def stirred(name):
    """Away from the start: weights that begin at zero hear nothing yet."""
    model = create(name)
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.add_(torch.randn_like(parameter) / 100)
    return model


FLAGS = {name: create(name).network for name in METHODS}


def methods(applies=lambda network: True):
    """The methods that a check applies to, one test each."""
    return pytest.mark.parametrize("name", [name for name in METHODS if applies(FLAGS[name])])


def guided(network):
    return network.uses_support


def clicked(network):
    return network.uses_clicks


# ---------------------------------------------------------------------------------------------------------- episodes


def sizes(network):
    """Odd sizes, and supports that differ from queries."""
    small = network.min_size
    return (max(19, small), max(23, small + 2)), (max(17, small), max(13, small))


def random_batch(network, n=1, shots=1, seed=0):
    """Noise with random dense annotations of both labels, and two clicks of each where the network reads any."""
    rng = np.random.RandomState(seed)
    (height, width), query = sizes(network)

    def draw(high, *shape):
        return torch.from_numpy(rng.randint(0, high, shape).astype(np.uint8))

    supports, annotations = draw(256, n, shots, 3, height, width), draw(2, n, shots, height, width)
    queries, masks = draw(256, n, 3, *query), draw(2, n, *query)
    clicks = [[tuple(rng.choice(side) for side in query) + (i % 2,) for i in range(4)] for _ in range(n)]
    return EpisodeBatch(
        support_images=supports,
        support_annotations=annotations,
        query_images=queries,
        query_clicks=pad_clicks(clicks if network.uses_clicks else [[]] * n),
        query_masks=masks,
        targets=(None,) * n,
        frames=(Frame(query, query, Box(0, 0, *query)),) * n,
        specs=(EpisodeSpec("q", ("s",) * shots, 1),) * n,
    )


def blobs(centres, size):
    """An image (3, s, s) with a red and a blue disc on grey noise, and the masks (s, s) of the two."""
    rng = np.random.RandomState(size)
    image = rng.randint(100, 156, (3, size, size)).astype(np.uint8)
    row, col = np.mgrid[:size, :size]
    masks = [((row - r) ** 2 + (col - c) ** 2 < (size // 5) ** 2).astype(np.uint8) for r, c in centres]
    for mask, colour in zip(masks, ((230, 30, 30), (30, 30, 230)), strict=True):
        image[:, mask > 0] = np.array(colour, np.uint8)[:, None]
    return torch.from_numpy(image), [torch.from_numpy(mask) for mask in masks]


def two_blob_batch(network, n):
    """The red blob is wanted; with n = 2 the second episode has the same images and wants the blue one.

    Clicks are a positive one on the wanted blob and a negative one on the other.
    """
    side = max(48, network.min_size)
    support, annotations = blobs(((side // 3, side // 4), (2 * side // 3, 3 * side // 4)), side)
    red, blue = (3 * side // 5, side // 4), (side // 3, 7 * side // 10)
    query, masks = blobs((red, blue), side)
    clicks = [[(*red, 1), (*blue, 0)], [(*blue, 1), (*red, 0)]][:n]
    return dataclasses.replace(
        random_batch(network, n),
        support_images=support.expand(n, 1, *support.shape),
        support_annotations=torch.stack(annotations[:n])[:, None],
        query_images=query.expand(n, *query.shape),
        query_clicks=pad_clicks(clicks if network.uses_clicks else [[]] * n),
        query_masks=torch.stack(masks[:n]),
    )


def logits_of(network, batch):
    with torch.inference_mode():
        return network(batch)


def answer_of(network, batch):
    """Logits, or the scores of what was found: masks that nothing has taught yet may all be empty."""
    if network.output == "masks":
        return logits_of(network, batch)
    with torch.inference_mode():
        found = network.detect(network.encode_query(batch.query_images), guidance_of(network, batch))
    return torch.cat([instances.scores for instances in found])


def change(batch, **fields):
    return dataclasses.replace(batch, **fields)


def guidance_of(network, batch):
    return network.guide(network.encode_support(batch.support_images), batch.support_annotations)


def clicks_of(network, batch):
    """What ``segment`` gets beside features and guidance."""
    return batch.query_clicks if network.uses_clicks else None


def same(actual, expected, tolerance=1e-4):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


# ------------------------------------------------------------------------------------------------------ the interface


@methods()
def test_logits_have_the_size_of_the_query_and_are_finite(name):
    network = create(name).network
    for shots in (1, min(3, network.max_shot or 3)):
        logits = logits_of(network, random_batch(network, n=2, shots=shots))
        assert logits.shape == (2, 2, *sizes(network)[1])
        assert logits.isfinite().all()


@methods()
def test_evaluation_is_deterministic(name):
    network = create(name).network
    batch = random_batch(network)
    assert torch.equal(logits_of(network, batch), logits_of(network, batch))


@methods()
def test_a_batch_of_two_is_two_of_one(name):
    network = create(name).network
    one, other = random_batch(network, seed=1), random_batch(network, seed=2)
    tensors = ("support_images", "support_annotations", "query_images", "query_clicks", "query_masks")
    both = change(random_batch(network, n=2), **{f: torch.cat([getattr(one, f), getattr(other, f)]) for f in tensors})
    same(logits_of(network, both), torch.cat([logits_of(network, one), logits_of(network, other)]))


@methods()
def test_the_truth_is_not_read(name):
    network = create(name).network
    batch = random_batch(network)
    blind = change(batch, query_masks=torch.zeros_like(batch.query_masks))
    assert torch.equal(logits_of(network, batch), logits_of(network, blind))


@methods(lambda network: not network.uses_clicks and not network.uses_support)
def test_a_class_blind_network_without_an_input_for_clicks_ignores_them(name):
    network = create(name).network
    batch = random_batch(network)
    clicked = change(batch, query_clicks=torch.tensor([[[3, 4, 1]]], dtype=torch.int32))
    assert torch.equal(logits_of(network, batch), logits_of(network, clicked))


@methods()
def test_guide_once_and_segment_many_is_forward(name):
    network = create(name).network
    batch, other = random_batch(network, seed=1), random_batch(network, seed=2)
    with torch.inference_mode():
        guidance, clicks = guidance_of(network, batch), clicks_of(network, batch)
        for queries in (batch.query_images, other.query_images, batch.query_images):
            expected = network(change(batch, query_images=queries))
            same(network.segment(network.encode_query(queries), guidance, clicks), expected)


@methods()
def test_one_query_serves_all_guidances(name):
    network = create(name).network
    batch = random_batch(network, n=3)
    repeated = change(batch, query_images=batch.query_images[:1].expand(3, -1, -1, -1))
    with torch.inference_mode():
        guidance, features = guidance_of(network, batch), network.encode_query(batch.query_images[:1])
        once = network.segment(features, guidance, clicks_of(network, batch))
    same(once, logits_of(network, repeated))


@methods()
def test_the_tail_of_segment_starts_at_every_insertion_point(name):
    network = create(name).network
    batch = random_batch(network)
    with torch.inference_mode():
        guidance, clicks = guidance_of(network, batch), clicks_of(network, batch)
        features = network.encode_query(batch.query_images)
        expected = network.segment(features, guidance, clicks)
        assert network.insertion_points
        for point in network.insertion_points:
            hidden = network.segment_to(point, features, guidance, clicks)
            assert torch.equal(network.segment_from(point, hidden, guidance, clicks), expected)
        with pytest.raises(ValueError, match="insertion point"):
            network.segment_to("nowhere", features, guidance, clicks)


class Verbs(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, supports, annotations, queries, clicks=None):
        guidance = self.network.guide(self.network.encode_support(supports), annotations)
        return self.network.segment(self.network.encode_query(queries), guidance, clicks)


@methods(lambda network: network.exportable)
def test_the_verbs_can_be_exported(name):
    network = create(name).network
    batch = random_batch(network)
    clicks = (batch.query_clicks,) if network.uses_clicks else ()
    arguments = (batch.support_images, batch.support_annotations, batch.query_images, *clicks)
    with torch.no_grad():
        exported = torch.export.export(Verbs(network), arguments).module()
        same(exported(*arguments), network(batch))


# -------------------------------------------------------------------------------------------------------- annotations


def annotate(batch, value):
    """Nothing but this label in supports and clicks; 255 for nothing at all."""
    clicks = batch.query_clicks.clone()
    clicks[..., 2] = -1 if value == 255 else value
    return change(batch, support_annotations=torch.full_like(batch.support_annotations, value), query_clicks=clicks)


@methods()
@pytest.mark.parametrize("value", [0, 1, 255])
def test_missing_labels_give_finite_logits(name, value):
    network = create(name).network
    assert (
        logits_of(network, annotate(random_batch(network, shots=min(2, network.max_shot or 2)), value)).isfinite().all()
    )


@methods(lambda network: network.uses_support or network.uses_clicks)
@pytest.mark.parametrize("value", [0, 255])
def test_no_positive_anywhere_is_all_background(name, value):
    network = create(name).network
    batch = random_batch(network, n=2)
    silent, annotations, clicks = annotate(batch, value), batch.support_annotations.clone(), batch.query_clicks.clone()
    annotations[0], clicks[0] = silent.support_annotations[0], silent.query_clicks[0]
    logits = logits_of(network, change(batch, support_annotations=annotations, query_clicks=clicks))
    assert (logits[0, 0] > logits[0, 1]).all()  # a tie is no answer
    same(logits[1:], logits_of(network, batch)[1:])  # the other episode of the batch does not notice


@methods()
def test_missing_labels_give_finite_gradients(name):
    network = create(name).network.train()
    for value in (0, 1, 255):
        losses = network.losses(annotate(random_batch(network, n=2), value))
        total = torch.stack(list(losses.values())).sum()
        assert total.isfinite()
        if total.requires_grad:  # silenced episodes are constants
            total.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


@methods(lambda network: network.uses_support and network.accepts_sparse)
def test_two_annotated_pixels_are_not_lost(name):
    network = create(name).network
    batch = random_batch(network)
    batch = change(batch, support_annotations=torch.full_like(batch.support_annotations, 255))
    none = logits_of(network, batch)
    batch.support_annotations[..., 3, 5], batch.support_annotations[..., 11, 2] = 1, 0
    assert not torch.equal(logits_of(network, batch), none)


@methods(lambda network: network.order_invariant and network.max_shot != 1)
def test_the_order_of_shots_does_not_matter(name):
    network = create(name).network
    batch = random_batch(network, shots=min(3, network.max_shot or 3))
    turned = change(
        batch, support_images=batch.support_images.flip(1), support_annotations=batch.support_annotations.flip(1)
    )
    same(logits_of(network, turned), logits_of(network, batch))


@methods()
def test_swapping_the_labels_changes_the_logits_of_what_reads_them(name):
    network = create(name).network
    batch = random_batch(network)
    swapped = change(batch, support_annotations=1 - batch.support_annotations)
    assert torch.equal(answer_of(network, swapped), answer_of(network, batch)) != network.uses_support


# ------------------------------------------------------------------------------------------------------------- clicks


@methods(clicked)
def test_clicks_change_the_logits_by_their_places_and_labels(name):
    network = stirred(name).network
    batch = random_batch(network)
    expected = logits_of(network, batch)
    moved, swapped = batch.query_clicks.clone(), batch.query_clicks.clone()
    moved[0, 1, :2] = (moved[0, 1, :2] + 5) % 13
    swapped[..., 2] = 1 - swapped[..., 2]
    for clicks in (batch.query_clicks[:, :2], moved, swapped):
        assert not torch.equal(logits_of(network, change(batch, query_clicks=clicks)), expected)


@methods(clicked)
def test_the_order_of_clicks_and_padding_do_not_matter(name):
    network = stirred(name).network
    batch = random_batch(network, n=2)
    expected = logits_of(network, batch)
    nothing = torch.tensor([0, 0, -1], dtype=torch.int32).expand(2, 1, 3)
    padded = torch.cat([nothing, batch.query_clicks[:, :2], nothing, batch.query_clicks[:, 2:], nothing], 1)
    for clicks in (batch.query_clicks.flip(1), padded):
        same(logits_of(network, change(batch, query_clicks=clicks)), expected)


@methods(clicked)
def test_the_maps_of_clicks_are_as_good_as_the_clicks(name):
    network = stirred(name).network
    batch = random_batch(network, n=2)
    with torch.inference_mode():
        guidance, features = guidance_of(network, batch), network.encode_query(batch.query_images)
        maps = network.click_maps(batch.query_clicks, features.image_size)
        assert maps.shape == (2, 2, *sizes(network)[1])
        assert torch.equal(network.click_maps(maps, features.image_size), maps)
        logits = network.segment(features, guidance, maps)
        same(logits, network.segment(features, guidance, batch.query_clicks))
        assert not torch.equal(network.segment(features, guidance, maps.flip(1)), logits)


@methods(lambda network: network.encodes_clicks)
def test_queries_wait_for_their_clicks_as_normalised_images(name):
    network = create(name).network
    images = random_batch(network).query_images
    with torch.inference_mode():
        features = network.encode_query(images)
        assert torch.equal(features.maps[0], network.encoder.normalize(images))
        assert network.encode_query(features) is features


@methods(guided)
def test_clicks_stand_in_for_supports_where_there_are_none(name):
    network = create(name).network
    batch = random_batch(network, n=2)
    size = sizes(network)[1]
    clicks = pad_clicks([[(1, 2, 1), (9, 3, 0)], [(7, 7, 1)]])
    annotations = torch.full((2, 1, *size), 255, dtype=torch.uint8)
    annotations[0, 0, 1, 2], annotations[0, 0, 9, 3], annotations[1, 0, 7, 7] = 1, 0, 1
    by_hand = change(batch, support_images=batch.query_images[:, None], support_annotations=annotations)
    by_hand = change(by_hand, query_clicks=clicks if network.uses_clicks else clicks[:, :0])
    unsupported = change(
        batch,
        support_images=batch.query_images[:, None][:, :0],
        support_annotations=annotations[:, :0],
        query_clicks=clicks,
    )
    same(logits_of(network, unsupported), logits_of(network, by_hand))


@methods(lambda network: guided(network) and not clicked(network) and network.max_shot != 1)
def test_clicks_are_one_more_shot_of_what_does_not_read_them(name):
    network = create(name).network
    batch = random_batch(network)
    height, width = sizes(network)[1]
    supports, annotations = batch.support_images[..., :height, :width], batch.support_annotations[..., :height, :width]
    drawn = torch.full_like(annotations, 255)
    drawn[..., 4, 5], drawn[..., 8, 2] = 0, 1
    by_hand = change(
        batch,
        support_images=torch.cat([supports, batch.query_images[:, None]], 1),
        support_annotations=torch.cat([annotations, drawn], 1),
    )
    batch = change(batch, support_images=supports, support_annotations=annotations)
    batch = change(batch, query_clicks=pad_clicks([[(4, 5, 0), (8, 2, 1)]]))
    same(logits_of(network, batch), logits_of(network, by_hand))
    assert network.accept(network.accept(batch)).n_shot == 2


# ---------------------------------------------------------------------------------------------------------- encoding


@methods()
def test_integers_are_raw_floats_are_normalised_and_features_pass_through(name):
    network = create(name).network
    batch = random_batch(network)
    normalize = network.encoder.normalize
    expected = logits_of(network, batch)
    floats = change(batch, support_images=normalize(batch.support_images), query_images=normalize(batch.query_images))
    same(logits_of(network, floats), expected)
    with torch.inference_mode():
        encode = network.encoder if network.cacheable else network.encode_query  # images may wait to be encoded
        features = encode(batch.query_images)
        assert encode(features) is features
        same(network.encode_query(features).maps, network.encode_query(batch.query_images).maps)


@methods()
def test_a_network_in_double_precision_answers_in_it(name):
    network = create(name).network.double()
    batch = random_batch(network)
    assert logits_of(network, batch).dtype == torch.float64
    floats = change(batch, support_images=batch.support_images.double(), query_images=batch.query_images.double())
    assert logits_of(network, floats).dtype == torch.float64


@methods(lambda network: network.cacheable)
def test_cached_features_in_half_precision_do(name):
    network = create(name).network
    batch = random_batch(network, shots=min(2, network.max_shot or 2))
    with torch.inference_mode():
        supports, queries = (network.encoder(i).to(torch.float16) for i in (batch.support_images, batch.query_images))
    cached = change(batch, support_images=batch.support_images if network.early else supports, query_images=queries)
    logits, expected = logits_of(network, cached), logits_of(network, batch)
    assert logits.dtype == torch.float32
    assert (logits - expected).abs().max() < 0.02 * expected.abs().max()


@methods(lambda network: network.shared_encoder and network.uses_support and not network.encodes_clicks)
def test_a_shared_encoder_sees_supports_and_queries_alike(name):
    network = create(name).network
    images = random_batch(network, n=2).query_images
    with torch.inference_mode():
        supports, queries = network.encode_support(images[:, None]), network.encode_query(images)
    assert supports.image_size == queries.image_size == sizes(network)[1]
    for support, query in zip(supports.maps, queries.maps, strict=True):
        same(support[:, 0], query)


# ---------------------------------------------------------------------------------------------------------- learning


@methods(lambda network: network.trainable)
def test_overfits_one_image_with_either_object(name):
    """What does not learn class-blind also learns the opposite annotation of the same images."""
    network = create(name).network
    asked = network.uses_clicks or (network.uses_support and network.episodic)
    batch = two_blob_batch(network, n=2 if asked else 1)
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], 3e-3)
    network.train()
    for _ in range(60):
        optimizer.zero_grad()
        torch.stack(list(network.losses(batch).values())).sum().backward()
        optimizer.step()
    with torch.no_grad():  # batch statistics run after weights that moved so fast
        for _ in range(20 if any(isinstance(m, nn.BatchNorm2d) for m in network.modules()) else 0):
            network.losses(batch)
    predicted, truth = logits_of(network.eval(), batch).argmax(1), batch.query_masks
    for found, wanted in zip(predicted, truth, strict=True):
        iou = ((found == 1) & (wanted == 1)).sum() / ((found == 1) | (wanted == 1)).sum()
        assert iou > (0.9 if network.output == "masks" else 0.8)  # a mask of 28 x 28 cells has no sharp corners


@methods(lambda network: network.trainable)
@pytest.mark.parametrize("freeze_encoder", [False, True])
def test_gradients_reach_every_trainable_parameter_and_no_other(name, freeze_encoder):
    network = create(name, freeze_encoder=freeze_encoder).network.train()
    torch.stack(list(network.losses(two_blob_batch(network, 1)).values())).sum().backward()
    for parameter_name, parameter in network.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.any())
        assert reached == parameter.requires_grad, parameter_name
        widened = network.encodes_clicks and parameter.ndim == 4 and parameter.shape[1] == 5  # its clicks are new to it
        assert not (freeze_encoder and parameter_name.startswith("encoder.") and reached and not widened)


@methods()
def test_losses_are_scalars_with_names(name):
    network = create(name).network.train()
    losses = network.losses(random_batch(network, n=2))
    assert losses
    assert all(isinstance(key, str) and loss.shape == () and loss.isfinite() for key, loss in losses.items())
    void = change(random_batch(network, n=2), query_masks=torch.full((2, *sizes(network)[1]), 255, dtype=torch.uint8))
    assert all(loss.isfinite() for loss in network.losses(void).values())


# ------------------------------------------------------------------------------------------------- files, command line


def load(name, folder):
    return fewseg.load_model(folder, Toy if name == "Toy" else None)


@methods()
def test_saving_and_loading_keeps_the_logits(name, tmp_path):
    model = stirred(name)
    model.image_size = 40
    loaded = load(name, model.save(tmp_path / "model"))
    batch = random_batch(model.network)
    assert torch.equal(logits_of(loaded.network, batch), logits_of(model.network, batch))
    assert (loaded.training, loaded.image_size, type(loaded)) == (False, 40, type(model))
    assert loaded.hparams == model.hparams


@methods()
def test_loading_weights_of_another_shape_is_refused(name, tmp_path):
    model = create(name)
    folder = model.save(tmp_path)
    model.network.extra = nn.Parameter(torch.zeros(1))
    model.save(tmp_path)
    with pytest.raises(FewsegError, match="the weights of this model"):
        load(name, folder)


@methods()
def test_a_person_segments_an_image(name):
    model = create(name)
    rng = np.random.RandomState(0)
    image, query = (rng.randint(0, 256, (*size, 3)).astype(np.uint8) for size in sizes(model.network))
    annotation = rng.randint(0, 2, image.shape[:2]).astype(np.uint8)
    mask = fewseg.segment_image(model, [(image, annotation)], query)
    assert mask.shape == query.shape[:2]
    assert mask.dtype == np.uint8
    assert set(np.unique(mask)) <= {0, 1}


def command(name, folder, *more):
    if FLAGS[name].uses_clicks:
        shots = "1" if FLAGS[name].uses_support else "0"
        shots = ("--data.n_shot", shots, "--data.train_shot", shots)
        more = ("--data.protocol", "interactive-points", "--data.n_points", "3", *shots, *more)
    more = ("--model.steps", "4", *more) if tunes(name) else more
    return [
        *("--model", "toy.Toy" if name == "Toy" else name, "--model.encoder", "tiny", "--data.dataset"),
        *("Shapes5i", "--data.dataset.n_train", "120", "--data.dataset.n_val", "60", "--data.size", "48"),
        *("--data.n_episodes", "3", "--data.n_val_episodes", "0", "--data.batch_size", "2"),
        *("--trainer.max_steps", "2", "--trainer.accelerator", "cpu", "--trainer.default_root_dir", str(folder)),
        *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false", *more),
    ]


@methods()
def test_the_command_line_trains_and_tests_it(name, tmp_path):
    assert cli.main(["fit", *command(name, tmp_path / "fit")]) == 0
    checkpoint = next((tmp_path / "fit").rglob("*.ckpt"))
    assert cli.main(["test", *command(name, tmp_path / "test"), "--ckpt_path", str(checkpoint)]) == 0
    rows = pd.read_parquet(next((tmp_path / "test").rglob("episodes.parquet")))
    assert rows.episode.tolist() == [0, 1, 2]
    assert (rows[["tp", "fp", "fn", "tn"]].sum(axis=1) > 0).all()
    figures = json.loads(next((tmp_path / "test").rglob("metrics.json")).read_text())
    assert 0 <= figures["miou"] <= 1
    assert load(name, next((tmp_path / "fit").rglob("model.safetensors")).parent).image_size == 48


class OneShotNetwork(ToyNetwork):
    max_shot = 1


class OneShot(Toy):
    """A method with a limit."""

    def __init__(self, encoder: str = "tiny", lr: float = 1e-3) -> None:
        super().__init__(encoder, lr=lr)
        self.network = OneShotNetwork(Encoder(encoder, taps=(1,)))


@pytest.mark.parametrize(("verb", "option"), [("fit", "train_shot"), ("test", "n_shot"), ("predict", "n_shot")])
def test_more_shots_than_a_method_takes_is_an_error_with_a_remedy(verb, option, tmp_path, capsys):
    arguments = command("Toy", tmp_path, f"--data.{option}", "2")
    arguments[1] = f"{__name__}.OneShot"
    assert cli.main([verb, *arguments]) == 2
    expected = f"fewseg: error: --data.{option}: got 2, expected at most 1 for OneShot; use fewer shots"
    assert capsys.readouterr().err.splitlines()[-1] == expected


def test_features_keep_their_type_through_a_batch():
    network = create("Toy").network
    batch = random_batch(network)
    cached = change(batch, query_images=network.encoder(batch.query_images)).to("cpu")
    assert isinstance(cached.query_images, Features)
