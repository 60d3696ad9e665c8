"""The section of docs/results.md on the claims of the papers, and how many of them hold."""

from __future__ import annotations

from collections.abc import Sequence

from claim_record import Judged, Record

VERDICTS = {
    "reproduced": "claims_reproduced",
    "not reproduced": "claims_not_reproduced",
    "differs": "claims_that_differ",
}


def count_verdicts(records: Sequence[Record]) -> dict[str, int]:
    """Number of claims by verdict."""
    verdicts = [claim.verdict for record in records for claim in record.claims]
    return {name: verdicts.count(verdict) for verdict, name in VERDICTS.items()}  # type: ignore[arg-type]


def claims_section(records: Sequence[Record]) -> str:
    """Markdown: a table for each script. Empty without records."""
    if not records:
        return ""
    counts = count_verdicts(records)
    return TEXT.format(**counts) + "".join(map(_table, records))


def _table(record: Record) -> str:
    lines = "".join(_line(claim) for claim in record.claims)
    return (
        f"\n### {record.script}\n\n`{record.command}`: {record.seconds:.0f} s of processor time, {record.date}, "
        f"commit {record.commit}, {record.hardware}.\n\n"
        f"| claim | source | paper's figures | ours | rule | verdict |\n|---|---|---|---|---|---|\n{lines}"
    )


def _line(claim: Judged) -> str:
    setting = f" ({claim.setting})" if claim.setting else ""
    rule = "; ".join(
        f"{text}: {'yes' if held else 'no'}" for text, held in zip(claim.rule, claim.held, strict=True)
    )
    cells = (
        f"**{claim.name}**: {claim.statement}{setting}",
        claim.source,
        claim.paper,
        claim.ours(),
        rule,
        claim.verdict,
    )
    return f"| {' | '.join(cell.replace('|', '∣') for cell in cells)} |\n"


TEXT = """
## Claims of the papers

Which statements of the papers hold at the scale that can be run here: {claims_reproduced} are reproduced,
{claims_not_reproduced} are not, {claims_that_differ} differ. Each rule was written in its script before the run: a
claim is reproduced if every comparison of its rule holds, not reproduced if none does, and differs if only some do.
Comparisons are of means over seeds; in brackets from the smallest to the largest seed. The papers' figures are the
papers', at their scale.
"""
