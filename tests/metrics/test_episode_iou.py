import copy
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fewseg.errors import FewsegError  # noqa: E402
from fewseg.functional.iou import fb_iou, mean_iou, positive_iou  # noqa: E402
from fewseg.metrics import EpisodeIoU  # noqa: E402

PREDS = torch.tensor([[[1, 1, 1, 0], [0, 1, 0, 0]], [[0, 0, 1, 1], [0, 0, 0, 0]], [[0] * 4] * 2])
TARGETS = torch.tensor([[[1, 1, 0, 0], [1, 1, 0, 0]], [[0, 0, 0, 1], [0] * 4], [[1, 0, 0, 0], [0] * 4]])
CLASS_IDS = torch.tensor([1, 1, 2])


def test_hand_vectors():
    metric = EpisodeIoU(n_classes=5)
    metric.update(PREDS, TARGETS, CLASS_IDS)
    result = metric.compute()
    assert result["per_class_iou"] == pytest.approx({1: 4 / 7, 2: 0.0})
    assert result["miou"] == pytest.approx(2 / 7)
    assert result["fb_iou"] == pytest.approx(0.65)
    assert result["positive_iou"] == 0.5


def test_counts_and_masks_of_any_size_agree():
    masks, counts = EpisodeIoU(2), EpisodeIoU(2)
    masks.update([PREDS[0], PREDS[1][:, 2:]], [TARGETS[0], TARGETS[1][:, 2:]], [1, 2])
    counts.update(torch.tensor([[3, 1, 1, 3], [1, 1, 0, 2]]), None, [1, 2])
    assert torch.equal(masks.counts, counts.counts)
    assert counts.counts.dtype == torch.int64


def test_two_merged_states_equal_one():
    """What a reduction over processes does: sums of the states."""
    one, left, right = EpisodeIoU(2), EpisodeIoU(2), EpisodeIoU(2)
    one.update(PREDS, TARGETS, CLASS_IDS)
    left.update(PREDS[:1], TARGETS[:1], CLASS_IDS[:1])
    right.update(PREDS[1:], TARGETS[1:], CLASS_IDS[1:])
    assert left._reductions["counts"](torch.stack([left.counts, right.counts])).equal(one.counts)
    left.merge_state(right)
    assert left.compute() == one.compute()


def test_equals_the_functions_on_random_rows():
    random = np.random.RandomState(0)
    class_id, counts = random.randint(1, 6, 50), random.randint(0, 10**7, (50, 4))
    metric = EpisodeIoU(5)
    for part in np.array_split(np.arange(50), 7):
        metric.update(torch.as_tensor(counts[part]), None, class_id[part])
    tp, fp, fn, tn = counts.T
    result = metric.compute()
    assert result["miou"] == pytest.approx(mean_iou(class_id, tp, fp, fn))
    assert result["fb_iou"] == pytest.approx(fb_iou(tp, fp, fn, tn))
    assert result["positive_iou"] == pytest.approx(positive_iou(tp, fp, fn))


def test_reset_copy_and_pickle():
    metric = EpisodeIoU(2)
    metric.update(PREDS, TARGETS, CLASS_IDS)
    for twin in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
        assert twin.compute() == metric.compute()
    metric.reset()
    assert int(metric.counts.sum()) == 0


def test_unknown_class_is_an_error():
    with pytest.raises(FewsegError, match=r"class_ids: got 3, expected 0 to 2"):
        EpisodeIoU(2).update(PREDS, TARGETS, [1, 1, 3])
