"""Hand vectors A, B, C: masks 2 x 4; A and B show class 1, C shows class 2."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewseg.errors import FewsegError
from fewseg.functional.iou import (
    background_iou,
    bootstrap_interval,
    bootstrap_ious,
    confusion_counts,
    fb_iou,
    mean_iou,
    per_class_iou,
    positive_iou,
)


def mask(text: str) -> np.ndarray:
    values = {"0": 0, "1": 1, "v": 255}
    return np.array([[values[c] for c in row] for row in text.split("/")], np.uint8)


A = confusion_counts(mask("1110/0100"), mask("1100/1100"))
B = confusion_counts(mask("0011/0000"), mask("0001/0000"))
C = confusion_counts(mask("0000/0000"), mask("1000/0000"))
CLASS = [1, 1, 2]
TP, FP, FN, TN = (list(c) for c in zip(A, B, C, strict=True))


def test_counts_by_hand():
    assert A == (3, 1, 1, 3)
    assert B == (1, 1, 0, 6)
    assert C == (0, 0, 1, 7)


def test_class_mean_is_neither_per_image_nor_pooled():
    assert per_class_iou(CLASS, TP, FP, FN) == pytest.approx({1: 4 / 7, 2: 0.0})
    assert mean_iou(CLASS, TP, FP, FN) == pytest.approx(2 / 7)
    assert mean_iou(CLASS, TP, FP, FN) != pytest.approx((0.6 + 0.5 + 0) / 3)


def test_pooled():
    assert positive_iou(TP, FP, FN) == 0.5
    assert background_iou(FP, FN, TN) == 0.8
    assert fb_iou(TP, FP, FN, TN) == pytest.approx(0.65)


@pytest.mark.parametrize(
    ("void", "counts"), [("ignore", (3, 0, 1)), ("background", (3, 2, 1)), ("foreground", (5, 0, 1))]
)
def test_void_rules(void, counts):
    result = confusion_counts(mask("1110/1010"), mask("11v0/11v0"), void=void)
    assert result[:3] == counts
    assert sum(result) == (6 if void == "ignore" else 8)
    assert positive_iou(*result[:3]) == pytest.approx({"ignore": 0.75, "background": 0.5, "foreground": 5 / 6}[void])


def test_panet_episode_without_truth():
    tp, fp, fn, tn = confusion_counts(mask("1110/0100"), mask("0000/0000"))
    assert np.isnan(per_class_iou([3], [tp], [fp], [fn], truth_only=True)[3])
    assert np.isnan(mean_iou([3], [tp], [fp], [fn], truth_only=True))
    assert per_class_iou([3], [tp], [fp], [fn]) == {3: 0.0}
    assert background_iou(fp, fn, tn) == 0.5


def test_truth_only_leaves_out_false_positives_of_negative_queries():
    assert mean_iou([1, 1], tp=[2, 0], fp=[0, 6], fn=[2, 0], truth_only=True) == 0.5
    assert mean_iou([1, 1], tp=[2, 0], fp=[0, 6], fn=[2, 0]) == 0.2


def test_empty_union_is_zero():
    assert per_class_iou([1], [0], [0], [0]) == {1: 0.0}
    assert positive_iou([], [], []) == 0.0


def test_tensors_give_the_same_counts():
    torch = pytest.importorskip("torch")
    generator = np.random.RandomState(0)
    for void in ("ignore", "background", "foreground"):
        pred, target = generator.randint(0, 2, (5, 7)), generator.choice([0, 1, 255], (5, 7)).astype(np.uint8)
        expected = confusion_counts(pred, target, void)
        assert confusion_counts(torch.as_tensor(pred), torch.as_tensor(target), void) == expected
        assert confusion_counts(torch.as_tensor(pred).bool(), torch.as_tensor(target), void) == expected


def test_errors_name_the_argument():
    with pytest.raises(FewsegError, match=r"^pred: got shape \(2, 4\), expected \(4, 2\)"):
        confusion_counts(np.zeros((2, 4)), np.zeros((4, 2)))
    with pytest.raises(FewsegError, match=r"^target: "):
        confusion_counts(np.zeros((1, 2)), np.array([[0, 7]]))
    with pytest.raises(FewsegError, match=r"^void: got maybe"):
        confusion_counts(np.zeros((1, 2)), np.zeros((1, 2)), void="maybe")  # type: ignore[arg-type]


def rows(n: int, queries: int, classes: int = 5, seed: int = 0) -> dict[str, np.ndarray]:
    """Random counts; a query image is easy or hard in all its episodes."""
    random = np.random.RandomState(seed)
    cluster = random.randint(queries, size=n)
    quality = random.rand(queries)[cluster]
    size = random.randint(100, 1000, size=n)
    tp = (size * quality).astype(np.int64)
    return {"cluster": cluster, "class_id": random.randint(classes, size=n), "tp": tp, "fp": size - tp, "fn": size - tp}


def point(data: dict[str, np.ndarray]) -> float:
    return mean_iou(**{k: v for k, v in data.items() if k != "cluster"})


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 10), st.integers(1, 4), st.integers(0, 99))
def test_interval_holds_the_point(n, queries, classes, seed):
    data = rows(n, queries, classes, seed)
    low, high = bootstrap_interval(**data, replicates=50)
    assert 0 <= low <= point(data) <= high <= 1


def test_interval_is_wider_with_fewer_images():
    few, many = bootstrap_interval(**rows(1000, 10)), bootstrap_interval(**rows(1000, 1000))
    assert few[1] - few[0] > 3 * (many[1] - many[0])


def test_interval_is_repeatable_and_ignores_the_order_of_rows():
    data = rows(200, 30)
    order = np.random.RandomState(1).permutation(200)
    shuffled = {k: v[order] for k, v in data.items()}
    assert bootstrap_interval(**data) == bootstrap_interval(**data) == bootstrap_interval(**shuffled)
    assert bootstrap_interval(**data) != bootstrap_interval(**data, seed=1)


def test_strata_keep_their_number_of_images():
    """One image per stratum leaves nothing to chance; unstratified, the two images are drawn unevenly."""
    data = {"cluster": ["a", "b"], "class_id": [1, 1], "tp": [9, 1], "fp": [1, 9], "fn": [0, 0]}
    assert bootstrap_interval(**data, stratum=[0, 1]) == (0.5, 0.5)
    assert bootstrap_interval(**data) == (0.1, 0.9)


def test_replicates_equal_a_plain_loop():
    data = rows(40, 7, classes=3)
    classes, ious = bootstrap_ious(**data, replicates=5, seed=3)
    images = np.unique(data["cluster"].astype(str))
    draws = np.random.RandomState(3).randint(len(images), size=(5, len(images)))
    for draw, found in zip(draws, ious, strict=True):
        chosen = np.concatenate([np.flatnonzero(data["cluster"].astype(str) == images[d]) for d in draw])
        expected = per_class_iou(*(data[k][chosen] for k in ("class_id", "tp", "fp", "fn")))
        assert found == pytest.approx([expected.get(c, np.nan) for c in classes], nan_ok=True)


def test_large_lists_are_fast():
    data = rows(10_000, 1_000)
    start = time.perf_counter()
    bootstrap_interval(**data)
    assert time.perf_counter() - start < 5
