"""docs/claims.md: which claims of the papers hold here, all in one table and then with their figures."""

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


def claims_page(records: Sequence[Record]) -> str:
    """Markdown: every claim with its verdict, and a table of figures for each script."""
    lines = "".join(
        f"| {_cell(claim.statement)} | {_cell(claim.source)} | {claim.verdict} | "
        f"[{record.script}](#{record.script}), {claim.name} |\n"
        for record in records
        for claim in record.claims
    )
    return TEXT.format(**count_verdicts(records), lines=lines) + "".join(map(_table, records))


def _table(record: Record) -> str:
    shared = [
        part
        for part in record.claims[0].setting.split("; ")
        if part and all(part in claim.setting.split("; ") for claim in record.claims)
    ]
    lines = "".join(_line(claim, shared) for claim in record.claims)
    note = f" Measured: {'; '.join(shared)}." if shared else ""
    return (
        f"\n## {record.script}\n\n`{record.command}`: {record.seconds:.0f} s of processor time, {record.date}, "
        f"commit {record.commit}, {record.hardware}.{note}\n\n"
        f"| claim | verdict | paper's figures | ours | rule |\n|---|---|---|---|---|\n{lines}"
    )


def _line(claim: Judged, shared: Sequence[str]) -> str:
    setting = "; ".join(part for part in claim.setting.split("; ") if part not in shared)
    rule = "; ".join(claim.checks())
    name = f"**{claim.name}**: {claim.statement}" + (f" ({setting})" if setting else "")
    return f"| {' | '.join(map(_cell, (name, claim.verdict, claim.paper, claim.ours(), rule)))} |\n"


def _cell(text: str) -> str:
    return text.replace("|", "∣")


TEXT = """# Claims of the papers

Which statements of the papers hold at the scale that can be run on two CPU cores: {claims_reproduced} are reproduced,
{claims_not_reproduced} are not, {claims_that_differ} differ. Made by `python studies/results.py` from the records in
`studies/recorded/claims`; do not edit.

A claim is reproduced if every comparison of its rule holds, not reproduced if none does, and differs if only some do.
The rules were written in the scripts before the runs, with three exceptions: one comparison of `escapes_from_collapse`
was taken out, the rule of `byol_needs_sharing` was made stricter ([log](log.md)), and `linear_ica_of_two` was added
after its case was known to be easy. Comparisons are of means over seeds; in brackets from the smallest to the largest
seed.

The papers' figures are the papers', at their scale: **a claim that is not reproduced here is not refuted there**. Runs
are short (84 steps for the image encoders), with two or three seeds each, and only the learning rate was tuned, for the
rows of `objectives_table` alone.

| claim | source | verdict | figures |
|---|---|---|---|
{lines}"""
