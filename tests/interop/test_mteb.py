"""A retrieval task of MTEB on a run, with local pictures: its nDCG@10 and its recall are ours of these names.

What docs/evaluation.md shows, with data at hand.
"""

import io
from pathlib import Path

import numpy as np
import pytest
from photographs import encoded
from PIL import Image
from small_runs import make_run
from towers_small import image_and_captions

from mmvicreg.evaluation.positives import Positives
from mmvicreg.evaluation.retrieval import retrieval_metrics
from mmvicreg.interop.mteb import MtebEncoder

mteb = pytest.importorskip("mteb", reason="pip install 'mmvicreg[mteb]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # of mteb and datasets

WORDS = ["a", "red", "bird", "blue", "boat"]
PICTURES, CAPTIONS = 12, 5


@pytest.fixture(scope="module")
def task_and_captions() -> tuple[object, list[Image.Image], list[str]]:
    """Twelve pictures; a query is a caption with two pictures that match."""
    from datasets import Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    pictures = [Image.open(io.BytesIO(encoded(n, format="PNG"))).convert("RGB") for n in range(PICTURES)]
    captions = [f"{WORDS[n % 5]} {WORDS[(n + 2) % 5]}" for n in range(CAPTIONS)]

    class LocalPictures(AbsTaskRetrieval):
        metadata = TaskMetadata(
            type="Any2AnyRetrieval", name="LocalPictures", main_score="ndcg_at_10", description="local", reference=None,
            dataset={"path": "local", "revision": "local"}, category="t2i", modalities=["image", "text"],
            eval_splits=["test"], eval_langs=["eng-Latn"], date=None, domains=None, task_subtypes=None, license=None,
            annotations_creators=None, dialect=None, sample_creation=None, bibtex_citation=None,
        )  # fmt: skip

        def load_data(self, **options: object) -> None:
            data = {
                "queries": Dataset.from_dict({"id": [f"q{n}" for n in range(CAPTIONS)], "text": captions}),
                "corpus": Dataset.from_dict({"id": [f"d{n}" for n in range(PICTURES)], "image": pictures}),
                "relevant_docs": {f"q{n}": {f"d{n}": 1, f"d{n + 6}": 1} for n in range(CAPTIONS)},
                "top_ranked": None,
            }
            self.dataset, self.data_loaded = {"default": {"test": data}}, True

    return LocalPictures(), pictures, captions


def test_scores_of_a_task_are_ours(task_and_captions, tmp_path: Path) -> None:
    task, pictures, captions = task_and_captions
    run = make_run(tmp_path, image_and_captions(tmp_path, WORDS))
    encoder = MtebEncoder(run, device="cpu")
    found = mteb.evaluate(encoder, [task], cache=None).task_results[0].scores["test"][0]
    query_n = np.repeat(np.arange(CAPTIONS), 2)
    item_n = np.stack([np.arange(CAPTIONS), np.arange(CAPTIONS) + 6], axis=1).ravel()
    positives = Positives.from_pairs(query_n, item_n, num_queries=CAPTIONS, num_items=PICTURES)
    ours = retrieval_metrics(run.encode_text(captions), run.encode_image(pictures), positives)
    assert found["ndcg_at_10"] == pytest.approx(ours.ndcg_at_10, abs=1e-4)  # mteb rounds to five digits
    for k in (1, 5, 10):
        assert found[f"recall_at_{k}"] == pytest.approx(ours.mteb_recall[k], abs=1e-4)
    assert encoder.mteb_model_meta.revision == "step-7"


def test_items_of_several_modalities_are_refused(tmp_path: Path) -> None:
    encoder = MtebEncoder(make_run(tmp_path, image_and_captions(tmp_path, WORDS)), device="cpu")
    for names, message in ((("image", "text"), "image and text"), (("audio",), "audio")):
        with pytest.raises(ValueError, match=message):
            encoder.encode([{name: [] for name in names}], task_metadata=None, hf_split="", hf_subset="")
