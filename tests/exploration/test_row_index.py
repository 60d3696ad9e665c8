"""Exact search is exact; approximate search finds nearly all, measured."""

import sys

import numpy as np
import pytest
import torch

from mmvicreg.errors import InvalidValueError
from mmvicreg.exploration import row_index
from mmvicreg.exploration.row_index import RowIndex


def clustered(count, *, seed):
    """Rows float32 (count, 48) about 200 centres, as embeddings of real data lie."""
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(200, 48))
    rows = centres[generator.integers(0, 200, count)] + 0.7 * generator.normal(size=(count, 48))
    return (rows * generator.uniform(0.5, 20, (count, 1))).astype(np.float32)


def brute_force(queries, rows, k):
    unit = lambda x: x.astype(np.float64) / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    cosine = unit(queries) @ unit(rows).T
    order = np.argsort(-cosine, axis=1)[:, :k]
    return np.take_along_axis(cosine, order, axis=1), order


@pytest.fixture(scope="module")
def data():
    rows, queries = clustered(20_000, seed=1), clustered(100, seed=2)
    return rows, queries, *brute_force(queries, rows, 10)


def test_exact_search_is_that_of_every_pair_for_any_block(data, monkeypatch):
    rows, queries, cosine, order = data
    monkeypatch.setattr(row_index, "BLOCK", 3_000)  # seven blocks, the last one shorter
    found = RowIndex(rows, method="exact").search(torch.from_numpy(queries), k=10)
    assert np.array_equal(found[1], order) and np.allclose(found[0], cosine, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ivf", "hnsw"])
def test_approximate_search_finds_95_percent_of_the_nearest_rows(data, method):
    pytest.importorskip("faiss", reason='pip install "mmvicreg[search]"')
    rows, queries, cosine, order = data
    index = RowIndex(rows, method=method)
    found = index.search(torch.from_numpy(queries), k=10)
    recall = np.mean(
        [len(set(a) & set(b)) / 10 for a, b in zip(found[1].tolist(), order.tolist(), strict=True)]
    )
    assert recall >= 0.95
    assert abs(index.recall - recall) < 0.05 and f"{100 * index.recall:.1f}%" in index.description()
    assert np.allclose(found[0][:, 0], cosine[:, 0], atol=1e-5)  # and their cosines are cosines


def test_auto_is_exact_below_a_size_and_approximate_above(data, monkeypatch):
    pytest.importorskip("faiss", reason='pip install "mmvicreg[search]"')
    assert RowIndex(data[0]).method == "exact"
    monkeypatch.setattr(row_index, "APPROXIMATE_ABOVE", 10_000)
    assert RowIndex(data[0]).method == "ivf"


def test_the_recall_that_an_index_tells_falls_where_it_looks_into_few_cells(data, monkeypatch):
    pytest.importorskip("faiss", reason='pip install "mmvicreg[search]"')
    monkeypatch.setattr(row_index, "PROBED", 1)
    assert RowIndex(data[0], method="ivf").recall < 0.9
    assert RowIndex(data[0], method="exact").recall == 1


def test_without_faiss_auto_is_exact_and_a_named_method_says_what_to_install(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)  # importing it raises ImportError
    monkeypatch.setattr(row_index, "APPROXIMATE_ABOVE", 10_000)
    assert RowIndex(data[0]).method == "exact"
    with pytest.raises(
        InvalidValueError, match=r"needs faiss: pip install \"mmvicreg\[search\]\", or use exact"
    ):
        RowIndex(data[0], method="hnsw")


def test_what_cannot_be_compared_is_refused(data):
    rows = data[0][:50].copy()
    with pytest.raises(InvalidValueError, match="width 7, the rows 48"):
        RowIndex(rows).search(torch.ones(1, 7), k=3)
    rows[3, 0] = np.nan
    with pytest.raises(InvalidValueError, match="row 3 of the embedded items"):
        RowIndex(rows)
