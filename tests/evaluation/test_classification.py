"""Classifiers beside scikit-learn on the same features."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    confusion_matrix,
    precision_recall_curve,
    top_k_accuracy_score,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier

from mmvicreg.evaluation.transfer import classification as c
from mmvicreg.evaluation.transfer.multi_label import average_precision, score_labels


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    x = x.astype(np.float32)
    return x[:1000], y[:1000], x[1000:], y[1000:]


def test_knn_equals_scikit_learns_cosine_neighbours(digits):
    x, y, test, labels = digits
    theirs = KNeighborsClassifier(20, metric="cosine", weights=lambda d: np.exp(-d / 0.07)).fit(x, y)
    votes = c.knn_scores(x, y, test, classes=10)
    share = (votes / votes.sum(1, keepdim=True)).numpy()
    np.testing.assert_allclose(share, theirs.predict_proba(test), atol=2e-5)
    plain = c.knn_scores(x, y, test, classes=10, temperature=float("inf"))
    np.testing.assert_allclose(
        plain.numpy() / 20, KNeighborsClassifier(20, metric="cosine").fit(x, y).predict_proba(test), atol=1e-6
    )
    assert c.score_classes(votes, labels).top1 > 0.9


def test_linear_probe_equals_scikit_learns_logistic_regression(digits):
    x, y, test, labels = digits
    probe = c.linear_probe(x, y, penalty=1e-2)
    scaled = [((rows - x.mean(0)) / x.std(0, ddof=1).clip(1e-6)).astype(np.float64) for rows in (x, test)]
    theirs = LogisticRegression(C=1 / (len(x) * 1e-2), max_iter=2000, tol=1e-8).fit(scaled[0], y)
    np.testing.assert_allclose(probe(test).softmax(1).numpy(), theirs.predict_proba(scaled[1]), atol=2e-3)
    assert c.score_classes(probe(test), labels).top1 == pytest.approx(
        theirs.score(scaled[1], labels), abs=0.003
    )


def test_multi_label_probe_and_average_precision_equal_scikit_learns(digits):
    x, y, test, labels = digits
    targets, truth = (np.stack([d % 2 == 0, d > 5, d == 3], 1) for d in (y, labels))
    probe = c.linear_probe(x, targets, penalty=1e-2, multi_label=True)
    scaled = [((rows - x.mean(0)) / x.std(0, ddof=1).clip(1e-6)).astype(np.float64) for rows in (x, test)]
    theirs = OneVsRestClassifier(LogisticRegression(C=1 / (len(x) * 1e-2), max_iter=2000, tol=1e-8))
    expected = average_precision_score(
        truth, theirs.fit(scaled[0], targets).decision_function(scaled[1]), average=None
    )
    np.testing.assert_allclose(average_precision(probe(test), truth), expected, atol=2e-3)
    rounded = probe(test).numpy().round(0)  # many ties
    np.testing.assert_allclose(
        average_precision(rounded, truth), average_precision_score(truth, rounded, average=None)
    )
    assert np.isnan(average_precision(rounded, np.zeros_like(truth))).all()


def test_eleven_point_precision_is_vocs_rule_and_constant_scores_give_chance():
    """Precision at a recall is the best one at that recall or above: the rule, from scikit-learn's curve."""
    random = np.random.default_rng(0)
    scores, truth = random.normal(size=(60, 3)).round(1), random.random((60, 3)) < 0.3
    found = average_precision(scores, truth, eleven_point=True)
    for label in range(3):
        precision, recall, _ = precision_recall_curve(truth[:, label], scores[:, label])
        precision, recall = precision[:-1], recall[:-1]  # its last point is no threshold
        expected = np.mean([precision[recall >= step / 10].max() for step in range(11)])
        assert found[label] == pytest.approx(expected)
    labelled = score_labels(np.zeros((60, 3)), truth)
    assert labelled.mean_average_precision == pytest.approx(labelled.chance)
    assert labelled.mean_eleven_point == pytest.approx(labelled.chance)
    with pytest.raises(ValueError, match="none of the 60 rows has a label"):
        score_labels(scores, np.zeros_like(truth))


def test_votes_of_several_labels_are_those_of_each_alone(digits):
    x, y, test, _ = digits
    several = np.stack([y == digit for digit in range(10)], axis=1)
    torch.testing.assert_close(
        c.knn_scores(x, several, test, classes=10, k=7), c.knn_scores(x, y, test, classes=10, k=7)
    )


def test_accuracies_equal_scikit_learns_and_constant_scores_give_chance(digits):
    x, y, test, labels = digits
    scores = c.linear_probe(x, y)(test)
    found = c.score_classes(scores, labels)
    assert found.top1 == pytest.approx((scores.argmax(1).numpy() == labels).mean())
    assert found.top5 == pytest.approx(top_k_accuracy_score(labels, scores.numpy(), k=5))
    assert found.mean_per_class == pytest.approx(balanced_accuracy_score(labels, scores.argmax(1)))
    np.testing.assert_array_equal(found.confusion, confusion_matrix(labels, scores.argmax(1)))
    constant = c.score_classes(torch.zeros(len(labels), 10), labels)
    assert (constant.top1, constant.top5) == pytest.approx((0.1, 0.5))


def test_the_papers_sgd_probe_learns_and_the_sweep_picks_by_validation(digits):
    x, y, test, labels = digits
    best, found = c.sweep(
        lambda lr: c.sgd_probe(x[:800], y[:800], classes=10, learning_rate=lr, epochs=10),
        [1e-5, 0.02, 0.1],
        x[800:],
        y[800:],
    )
    assert best.learning_rate == max(found, key=lambda rate: found[rate]) != 1e-5
    assert c.score_classes(best(test), labels).top1 > 0.85


def test_class_weights_are_the_normalized_mean_of_normalized_prompts():
    prompts = [np.array([[2.0, 0], [0, 5.0]]), np.array([[0, -3.0]])]
    np.testing.assert_allclose(c.class_weights(prompts), [[0.5**0.5, 0.5**0.5], [0, -1]], atol=1e-6)


def test_bad_labels_are_named():
    with pytest.raises(ValueError, match=r"labels are 0\.\.9, there are 3 classes"):
        c.score_classes(torch.zeros(10, 3), np.arange(10))
    with pytest.raises(ValueError, match="k is 20; there are 5"):
        c.knn_scores(np.ones((5, 2)), np.zeros(5), np.ones((1, 2)), classes=1)
