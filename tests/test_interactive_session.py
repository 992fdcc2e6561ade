"""Sessions: every answer is that of a new session with the same examples and clicks, and bad edits change nothing."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fewseg
from fewseg import evaluation
from fewseg.datamodules import FewShotDataModule
from fewseg.datasets import Shapes5i
from fewseg.episode import Click
from fewseg.errors import FewsegError
from fewseg.functional.label_maps import annotation_map
from fewseg.functional.robot import next_click
from fewseg.models.fsis import FSISNetwork
from fewseg.refinement import Refinement
from fewseg.session import InteractiveSession

torch.set_num_threads(1)

HEIGHT, WIDTH, SIDE = 22, 30, 32


def picture(seed, height=HEIGHT, width=WIDTH):
    return np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)


def annotation(seed, height=HEIGHT, width=WIDTH):
    return np.random.RandomState(100 + seed).randint(0, 2, (height, width)).astype(np.uint8)


def model(name, **hyper_parameters):
    torch.manual_seed(0)
    made = fewseg.create_model(name, encoder="tiny", **hyper_parameters)
    for parameter in made.network.parameters():  # zero-initialised scores would answer 0 whatever is asked
        if parameter.ndim > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return made


MODELS = {
    "late": (("GuidedNet", {}), {}),
    "local": (("GuidedNet", {"locality": "local"}), {}),
    "early": (("GuidedNet", {"fusion": "early"}), {}),
    "prototypes": (("PANet", {}), {}),
    "clicks": (("DIOS", {}), {}),
    "both": (("FSIS", {}), {}),
    "class-blind": (("FgBg", {}), {}),
    "mirrored": (("GuidedNet", {}), {"flip": True}),
    "mirrored clicks": (("FSIS", {}), {"flip": True}),
    "refined": (("GuidedNet", {}), {"refinement": Refinement("features", max_evaluations=3)}),
    "refined junction": (("FSIS", {}), {"refinement": Refinement("AJ", max_evaluations=3)}),
    "zoomed": (("DIOS", {}), {"zoom_in": True}),
    "all of it": (
        ("FSIS", {}),
        {"zoom_in": True, "flip": True, "refinement": Refinement("BJ", first_click=2, max_evaluations=2)},
    ),
}
BUILT = {}


def built(name):
    if name not in BUILT:
        (cls, hyper_parameters), options = MODELS[name]
        BUILT[name] = model(cls, **hyper_parameters), options
    return BUILT[name]


def session_of(name):
    made, options = built(name)
    return InteractiveSession(made, picture(0), SIDE, **options)


def apply(session, edit):
    """One edit; those that make no sense at the moment are refused and change nothing."""
    kind, number, row, col, label = edit
    if kind == "click":
        session.click(row, col, positive=bool(label))
    elif kind == "move":
        session.move_click(number, row, col)
    elif kind == "remove":
        session.remove_click(number)
    elif kind == "shot":
        session.add_shot(picture(number + 1), annotation(number))
    elif kind == "annotate":
        session.annotate_shot(number, annotation(row))
    elif kind == "remove shot":
        session.remove_shot(number)
    else:
        session.undo()


def same(actual, expected):
    np.testing.assert_allclose(actual.probs, expected.probs, atol=1e-5)


EDITS = st.tuples(
    st.sampled_from(["click", "click", "click", "move", "remove", "shot", "annotate", "remove shot", "undo"]),
    st.integers(0, 2),
    st.integers(0, HEIGHT - 1),
    st.integers(0, WIDTH - 1),
    st.integers(0, 1),
)


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(edits=st.lists(st.tuples(EDITS, st.booleans()), min_size=1, max_size=8))
def test_every_answer_is_that_of_a_new_session(name, edits):
    session, kept = session_of(name), [[]]  # the edits that a new session would have to repeat, before every undo
    for edit, asks in edits:
        try:
            apply(session, edit)
        except FewsegError:
            continue
        kept = kept[:-1] if edit[0] == "undo" else [*kept, [*kept[-1], edit]]
        if asks:
            session.answer()
    fresh = session_of(name)
    for edit in kept[-1]:
        apply(fresh, edit)
    assert session.clicks == fresh.clicks
    assert session.n_shot == fresh.n_shot
    same(session.answer(), fresh.answer())


def test_moving_and_removing_leave_what_never_was_moved():
    session, other = session_of("late"), session_of("late")
    session.add_shot(picture(1), annotation(1))
    for row, col, positive in ((3, 4, True), (9, 9, False), (12, 20, True)):
        session.click(row, col, positive)
    session.move_click(0, 5, 6)
    session.remove_click(1)
    session.add_shot(picture(2), annotation(2))
    session.remove_shot(0)
    other.add_shot(picture(2), annotation(2))
    other.click(5, 6)
    other.click(12, 20)
    assert session.clicks == (Click(5, 6, 1), Click(12, 20, 1))
    same(session.answer(), other.answer())


def test_a_session_of_examples_is_segment_image():
    made = model("PANet")
    session = InteractiveSession(made, picture(0), SIDE)
    session.add_shot(picture(1), annotation(1))
    expected = fewseg.segment_image(made, [(picture(1), annotation(1))], picture(0), SIDE)
    assert np.array_equal(session.answer().mask, expected)


def test_an_unchanged_image_is_encoded_once():
    made = model("GuidedNet")
    seen = []
    made.network.encoder.register_forward_hook(lambda *_: seen.append(1))
    session = InteractiveSession(made, picture(0), SIDE)
    session.add_shot(picture(1), annotation(1))
    session.click(3, 3)
    session.answer()
    assert len(seen) == 2
    session.click(9, 9, positive=False)
    session.annotate_shot(0, annotation(5))
    session.answer()
    session.undo()
    session.remove_shot(0)
    session.answer()
    assert len(seen) == 2


def test_the_same_question_costs_nothing_twice():
    session = session_of("late")
    session.click(3, 3)
    assert sum(session.answer().seconds) > 0
    assert sum(session.answer().seconds) == 0


def test_without_any_guidance_all_is_background():
    answer = session_of("late").answer()
    assert answer.mask.shape == (HEIGHT, WIDTH)
    assert not answer.mask.any()
    assert not answer.probs.any()


def test_a_refined_answer_tells_its_objective():
    session = session_of("refined")
    session.click(3, 4)
    before, after = session.answer().objective
    assert after <= before
    assert session_of("late").answer().objective is None


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (("click", 0, HEIGHT, 3, 1), "click: got (22, 3), expected a pixel of the image of 22 x 30"),
        (("click", 0, -1, 3, 1), "click: got (-1, 3), expected a pixel of the image of 22 x 30"),
        (("click", 0, 5, 5, 0), "click: got (5, 5), which was clicked with the other label, expected one label a"),
        (("move", 3, 5, 5, 0), "number: got 3, expected a number from 0 to 0"),
        (("move", 0, 5, WIDTH, 0), "click: got (5, 30), expected a pixel of the image"),
        (("remove", 1, 0, 0, 0), "number: got 1, expected a number from 0 to 0"),
        (("remove shot", 0, 0, 0, 0), "number: got 0, expected a session with shots"),
    ],
)
def test_a_bad_edit_is_one_line_and_changes_nothing(edit, message):
    session = session_of("late")
    session.click(5, 5)
    before = session.answer()
    with pytest.raises(FewsegError) as error:
        apply(session, edit)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
    assert session.clicks == (Click(5, 5, 1),)
    same(session.answer(), before)
    session.undo()
    with pytest.raises(FewsegError, match="undo: got a session without edits"):
        session.undo()


def test_a_click_may_not_move_onto_its_opposite_and_needs_whole_numbers():
    session = session_of("late")
    session.click(5, 5)
    session.click(7, 7, positive=False)
    with pytest.raises(FewsegError, match="clicked with the other label"):
        session.move_click(0, 7, 7)
    with pytest.raises(FewsegError, match=r"click: got \(2.7, 3\), expected two whole numbers"):
        session.click(2.7, 3)
    assert session.clicks == (Click(5, 5, 1), Click(7, 7, 0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "256"}, "size: got 256, expected a side of at least 1 pixel"),
        ({"size": (3, 4, 5)}, "size: got"),
        ({"threshold": 2.0}, "threshold: got 2.0, expected a probability"),
        ({"refinement": "features"}, "refinement: got 'features', expected a Refinement or None"),
    ],
)
def test_bad_options_are_one_line(options, message):
    with pytest.raises(FewsegError, match=message):
        InteractiveSession(built("late")[0], picture(0), **options)


def test_examples_for_a_method_that_reads_none_are_told():
    with pytest.warns(UserWarning, match="DIOS reads clicks and no examples"):
        fewseg.segment_image(model("DIOS"), [(picture(1), annotation(1))], picture(0), SIDE)


def test_clicks_have_no_limit_and_a_label_may_repeat():
    session = session_of("both")
    for number in range(25):
        session.click(number % HEIGHT, number % WIDTH, positive=number % 2 == 0)
    session.click(0, 0)
    assert len(session.clicks) == 26
    assert np.isfinite(session.answer().probs).all()


def test_a_refinement_that_the_network_lacks_is_refused_at_once():
    with pytest.raises(FewsegError, match="refine: got AJ, expected one of image, features for GuidedNet"):
        InteractiveSession(model("GuidedNet"), picture(0), refinement=Refinement("AJ"))


@pytest.mark.parametrize("protocol", ["interactive", "interactive-component"])
def test_the_robot_clicks_in_a_session_where_the_answer_errs_most(protocol):
    made = model("FSIS")
    dataset = Shapes5i(n_train=120, n_val=60)
    data = FewShotDataModule(dataset, protocol, n_shot=1, n_clicks=4, size=SIDE, n_episodes=2, refine="AJ", flip=True)
    batch = next(iter(data.test_dataloader()))
    replies = evaluation.interact(made, batch, data)
    truth, spec = batch.targets[0].numpy(), batch.specs[0]
    mask, clicks = np.zeros_like(truth), ()
    assert 1 <= len(replies) <= 4
    for reply in replies:
        clicks = (*clicks, next_click(truth, mask, clicks, data.evaluation_part.robot))
        assert reply.clicks == clicks
        assert reply.objective[1] <= reply.objective[0]
        mask = reply.mask
    assert truth[clicks[0].row, clicks[0].col] == 1
    session = InteractiveSession(
        made, dataset.image(spec.query_id), SIDE, Refinement("AJ", threshold=0.49), flip=True, threshold=0.49
    )
    support, label = dataset.pair(spec.support_ids[0])
    session.add_shot(support, annotation_map(label, spec.class_id))
    for row, col, label in clicks:
        session.click(row, col, positive=label == 1)
    assert np.array_equal(session.answer().mask, mask)
    rows = evaluation.click_rows(batch, replies, data.evaluation_part, [7])
    assert [(row.episode, row.click, row.object_id) for row in rows] == [
        (7, n + 1, spec.object_id) for n in range(len(replies))
    ]
    assert rows[-1].tp == int((mask & (truth == 1)).sum())
    assert all(row.seconds_refine > 0 and row.seconds_robot > 0 for row in rows)


def asked_for(truth):
    """A data module and its batch of one made-up episode without supports."""
    data = FewShotDataModule(Shapes5i(n_train=120, n_val=60), "interactive", n_shot=0, size=SIDE, n_clicks=25)
    batch = data.batch_of([dataclasses.replace(data.episode_list().specs[0], support_ids=())])
    image = torch.zeros(1, 3, *truth.shape, dtype=torch.uint8)
    return data, dataclasses.replace(batch, query_images=image, targets=(truth,), query_masks=truth[None])


def answering(value):
    """A model that segments everything or nothing, whatever is clicked."""

    class Stubborn(FSISNetwork):
        def segment(self, features, guidance, clicks=None):
            margin = torch.full((1, 1, *features.image_size), value)
            return torch.cat([-margin, margin], 1)

    made = model("FSIS")
    made.network.__class__ = Stubborn
    return made


@pytest.mark.parametrize("place", [(0, 0), (5, 5)])
def test_an_object_of_one_pixel_is_clicked_once(place):
    truth = torch.zeros(SIDE, SIDE, dtype=torch.uint8)
    truth[place] = 1
    data, batch = asked_for(truth)
    (reply,) = evaluation.interact(answering(-9.0), batch, data)  # all that is wrong has been clicked
    assert reply.clicks == (Click(*place, 1),)


def test_an_image_without_the_object_is_clicked_once_and_negative():
    data, batch = asked_for(torch.zeros(SIDE, SIDE, dtype=torch.uint8))
    (reply,) = evaluation.interact(answering(-9.0), batch, data)
    assert (reply.clicks, reply.mask.any()) == ((Click(0, 0, 0),), False)
    (row,) = evaluation.click_rows(batch, [reply], data.evaluation_part, [0])
    assert (row.tp, row.fp, row.fn, row.tn) == (0, 0, 0, SIDE * SIDE)


def test_more_than_twenty_clicks_are_given_where_they_are_asked_for():
    truth = torch.zeros(SIDE, SIDE, dtype=torch.uint8)
    truth[:, : SIDE // 2] = 1
    data, batch = asked_for(truth)
    assert len(evaluation.interact(answering(9.0), batch, data)[-1].clicks) == 25


def test_a_perfect_answer_ends_the_clicking():
    class Knowing(FSISNetwork):
        """Answers with the truth, which is the left half."""

        def segment(self, features, guidance, clicks=None):
            height, width = features.image_size
            margin = torch.where(torch.arange(width) < width // 2, 9.0, -9.0).expand(1, 1, height, width)
            return torch.cat([-margin, margin], 1)

    made = model("FSIS")
    made.network.__class__ = Knowing
    truth = torch.zeros(SIDE, SIDE, dtype=torch.uint8)
    truth[:, : SIDE // 2] = 1
    data, batch = asked_for(truth)
    (reply,) = evaluation.interact(made, batch, data)
    assert np.array_equal(reply.mask, truth.numpy())
