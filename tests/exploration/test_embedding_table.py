"""The Parquet table has what embedding-atlas reads: places, neighbours by row number, texts and sources."""

import numpy as np
import pytest

from mmvicreg.cli.main import main

parquet = pytest.importorskip("pyarrow.parquet", reason='pip install "mmvicreg[parquet]"')


@pytest.fixture(scope="module")
def table(pictured_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("table") / "rows.parquet"
    assert main(["embed", str(pictured_run.folder), pictured_run.shards, str(out)]) == 0
    return parquet.read_table(out).to_pylist()


@pytest.mark.slow
def test_neighbours_are_the_nearest_rows_of_the_table_itself_first(table):
    rows = np.array([line["embedding"] for line in table])
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    nearest = np.sort(1 - unit @ unit.T, axis=1)[:, :16]
    for number, line in enumerate(table):
        ids, distances = line["neighbors"]["ids"], line["neighbors"]["distances"]
        assert len(ids) == 16 and np.allclose(distances, nearest[number], atol=1e-5)
        assert np.allclose(distances, 1 - unit[ids] @ unit[number], atol=1e-5)
        assert distances[ids.index(number)] < 1e-5 if number in ids else distances[-1] < 1e-5


def test_places_are_the_two_directions_of_most_variance(table):
    rows = np.array([line["embedding"] for line in table])
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    places = np.array([(line["x"], line["y"]) for line in table])
    expected = np.linalg.svd(unit - unit.mean(0), compute_uv=False)[:2] ** 2
    assert np.allclose((places**2).sum(0), expected, rtol=1e-3)


def test_items_have_text_and_source(table):
    assert {line["view"] for line in table} == {"image", "text"}
    texts = [line for line in table if line["view"] == "text"]
    assert all(line["text"] == line["identity"] for line in texts)
    assert all(line["text"] and line["source"] and line["key"] for line in table)
