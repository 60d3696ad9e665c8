"""Claims that the matched comparison of studies/pairs.py decides: read from its recorded scorings, nothing is trained.

    python studies/claims/matched.py

Every method was tuned with as many trials, chosen on validation pairs, and scored on test pairs once (docs/results.md).
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from claim_record import STUDIES, Claim, Comparison, Config, Figures, main

from mmvicreg.studies.folder import StudyFolder

REGIME = "pairs-1000-split-0"
SETTING = "frozen features, 1,000 training pairs, mean recall of test pairs in percent, five seeds"
VICREG = "VICReg, table 3: COCO retrieval in the setting of VSE++ (arXiv 2105.04906)"
CLAIMS = (
    Claim(
        "vicreg_beats_vse",
        VICREG,
        "VICReg retrieves better than the contrastive VSE++.",
        "R@1 45.2 and 33.6 against 41.3 and 30.3: 1.10 times",
        (Comparison("vicreg", ">=", "vse++", times=1.05),),
        SETTING,
    ),
    Claim(
        "vicreg_beats_barlow",
        VICREG,
        "VICReg retrieves better than Barlow Twins.",
        "R@1 45.2 and 33.6 against 42.9 and 31.4: 1.06 times",
        (Comparison("vicreg", ">=", "barlow", times=1.0), Comparison("vicreg", ">=", "barlow", times=1.05)),
        SETTING,
    ),
    Claim(
        "tuned_contrastive_is_enough",
        "Fini et al. (arXiv 2305.08675)",
        "Against a well-tuned contrastive model, the gain of a non-contrastive loss disappears.",
        "the advantage disappears",
        (Comparison("vicreg", "<=", "infonce_two_models", times=1.02),),
        f"{SETTING}; the contrastive method is an ensemble of two",
    ),
    Claim(
        "small_infonce_helps_vicreg",
        "X-JEPA (2026), matched pairs",
        "A small contrastive term beside the non-contrastive loss retrieves better than InfoNCE alone.",
        "69.4 against 67.9",
        (
            Comparison("vicreg+infonce", ">=", "infonce", times=1.02),
            Comparison("vicreg+infonce", ">=", "vicreg", times=1.02),
        ),
        f"{SETTING}; VICReg in place of latent prediction",
    ),
    Claim(
        "predictor_beats_symmetric_tuned",
        "LeVLJEPA, ablation (arXiv 2607.00784), second-hand",
        "Predictors behind a stop-gradient beat a symmetric MSE, both with SIGReg.",
        "zero-shot 25.2% against 1.8%, at one setting",
        (Comparison("prediction+sigreg", ">=", "sigreg", times=1.1),),
        f"{SETTING}; scored by predictor outputs; both chose SIGReg 0.05",
    ),
    Claim(
        "zero_shot_below_contrastive",
        "LeVLJEPA, DataComp-L (arXiv 2607.00784)",
        "Prediction with SIGReg stays behind InfoNCE and SigLIP.",
        "zero-shot 42.5 against 47.3 and 50.8",
        (
            Comparison("prediction+sigreg", "<=", "infonce", times=0.95),
            Comparison("prediction+sigreg", "<=", "siglip", times=0.95),
        ),
        f"{SETTING}, in place of zero-shot classification",
    ),
)


def measure(config: Config) -> Mapping[str, Figures]:
    """Recorded scores of the methods that each rule names."""
    scores: dict[str, list[float]] = defaultdict(list)
    for line in sorted(
        StudyFolder(STUDIES / "recorded" / "pairs").read_scorings(), key=lambda line: line["seed"]
    ):
        if line["regime"] == REGIME:
            scores[line["method"]].append(100 * line["score"])
    return {claim.name: claim.named(scores) for claim in CLAIMS}


if __name__ == "__main__":
    main(__file__, CLAIMS, measure)
