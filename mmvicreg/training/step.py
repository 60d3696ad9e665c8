"""What one training step computes, as a function of the weights, the batch and the step's number alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from mmvicreg.branches.model import Embedding, Model
from mmvicreg.objectives.objective import Objective
from mmvicreg.objectives.terms import LossTerms


@dataclass(frozen=True)
class StepOutput:
    """``terms`` of the objective, and the embeddings z (B, D) by view, detached."""

    terms: LossTerms
    z: dict[str, Tensor]


class Step(nn.Module):
    """Inputs of every view to the terms of the objective. One module, so that DDP averages the gradients of
    branches and objective alike."""

    def __init__(self, model: Model, objective: Objective, precomputed: frozenset[str]) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self.precomputed = precomputed

    def forward(
        self,
        inputs: Mapping[str, Tensor],
        present: Mapping[str, Tensor],
        seed: int,
        targets: Mapping[str, Tensor] | None = None,
    ) -> StepOutput:
        embeddings = self.model(inputs, present, precomputed=self.precomputed)
        return self._output(embeddings, present, seed, targets)

    def from_representations(
        self,
        h: Mapping[str, Tensor],
        present: Mapping[str, Tensor],
        seed: int,
        targets: Mapping[str, Tensor] | None = None,
    ) -> StepOutput:
        """The same from representations (B, E) by view: projectors and objective only."""
        return self._output(self.model(h, present, precomputed=frozenset(h)), present, seed, targets)

    def _output(
        self,
        embeddings: Mapping[str, Embedding],
        present: Mapping[str, Tensor],
        seed: int,
        targets: Mapping[str, Tensor] | None,
    ) -> StepOutput:
        z = {view: embedding.z for view, embedding in embeddings.items()}
        terms = self.objective(z, present, branches=self.model.views, seed=seed, targets=targets)
        return StepOutput(terms, {view: value.detach() for view, value in z.items()})
