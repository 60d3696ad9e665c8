"""``mmvicreg look``: a contact sheet and statistics of shards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmvicreg.cli.model_options import ModelOptions, Shards
from mmvicreg.cli.output import Output
from mmvicreg.errors import WrongOptionError

if TYPE_CHECKING:
    from mmvicreg.evaluation.report.content import SampleContent, Shown
    from mmvicreg.exploration.data_statistics import DataStatistics, Repeats
    from mmvicreg.modalities.modality import Modality
    from mmvicreg.shards.index import ShardIndex
    from mmvicreg.stream.reader import Reader


@dataclass(frozen=True)
class LookConfig:
    """Write one self-contained HTML page about shards: what is in them, how long, how large, and what repeats."""

    data: Shards
    """shards, with {000..009} and * expanded"""
    run: str = ""
    """run whose tokenizer counts caption lengths, and whose branches say where captions and other members are"""
    captions: tuple[str, ...] = ()
    """where captions are, member suffixes or json:FIELD; where the run's are, or txt, if empty"""
    out: str = "look.html"
    """page to write"""
    samples: int = 100_000
    """samples to look at, evenly spread; it bounds the memory"""
    shown: int = 24
    """samples on the contact sheet"""
    threads: int = 2
    """threads that read and decode"""
    recipe: str | None = None
    """recipe file that defines the run's own modalities; it is executed"""

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise WrongOptionError(f"--samples is {self.samples}; expected a number at least 1")


def look(config: LookConfig) -> Output:
    """Measure the shards, write the page, and print what to know."""
    from mmvicreg.evaluation.report.content import SampleContent
    from mmvicreg.exploration.contact_sheet import ContactSheet, findings_of, write_contact_sheet
    from mmvicreg.exploration.data_statistics import statistics_of
    from mmvicreg.modalities.text import TextReader
    from mmvicreg.shards.index import open_index

    readers = {name: each.reader() for name, each in _modalities(config).items()}
    texts = {name: reader for name, reader in readers.items() if isinstance(reader, TextReader)}
    places = config.captions or tuple(place for each in texts.values() for place in each.places) or ("txt",)
    index = open_index(config.data)
    found = statistics_of(
        index,
        places=places,
        readers=texts,
        others=_others(readers),
        samples=config.samples,
        threads=config.threads,
    )
    content = SampleContent(_shown_readers(readers, places), index)
    sheet = ContactSheet(
        title=f"{Path(config.data).name}: {len(index):,} samples",
        statistics=found,
        samples=_samples(content, index, config.shown),
        repeated=_repeated(content, found),
    )
    path = write_contact_sheet(sheet, Path(config.out))
    findings = [f"{each.level}: {each.text}" for each in findings_of(found)]
    data = {"written": str(path), "findings": findings, **statistics_json(found)}
    return Output(data, (*_lines(found), *findings, f"written: {path}"))


def statistics_json(found: DataStatistics) -> dict[str, Any]:
    """Every number of the statistics as JSON values; distributions without their values."""

    def plain(items: list[tuple[str, Any]]) -> dict[str, Any]:
        return {name: value for name, value in items if name != "values"}

    return asdict(found, dict_factory=plain)


def _modalities(config: LookConfig) -> Mapping[str, Modality]:
    return ModelOptions(recipe=config.recipe).load(config.run).modalities if config.run else {}


def _others(readers: Mapping[str, Reader]) -> dict[str, tuple[str, ...]]:
    """Members of the branches that are neither texts nor what is measured in any case."""
    from mmvicreg.modalities.decoding.formats import IMAGES, RECORDINGS
    from mmvicreg.modalities.text import TextReader

    return {
        name: reader.members
        for name, reader in readers.items()
        if not isinstance(reader, TextReader) and not set(reader.members) & {*IMAGES, *RECORDINGS}
    }


def _shown_readers(readers: Mapping[str, Reader], places: tuple[str, ...]) -> dict[str, Reader]:
    """The readers of the run, and plain ones of what it does not read."""
    from mmvicreg.exploration.plain_reader import PlainReader
    from mmvicreg.modalities.decoding.formats import IMAGES, RECORDINGS

    plain = {"(image)": PlainReader(IMAGES), "(audio)": PlainReader(RECORDINGS)}
    used = {member for reader in readers.values() for member in reader.members}
    shown: dict[str, Reader] = {name: each for name, each in plain.items() if not used & set(each.members)}
    return {**shown, **readers, "(caption)": PlainReader(places=places)}


def _samples(content: SampleContent, index: ShardIndex, count: int) -> list[Any]:
    import numpy as np

    from mmvicreg.evaluation.report.examples import samples_of

    return samples_of(content, np.linspace(0, len(index) - 1, count).round().astype(int)) if count else []


def _repeated(content: SampleContent, found: DataStatistics) -> list[tuple[str, list[Shown]]]:
    """The first six samples of the largest groups of each kind."""
    named: dict[str, Repeats | None] = {"images": found.images, "captions": found.captions}
    return [
        (
            f"Repeated {what}, group {place}: {len(group):,} items",
            [shown for number in group[:6] for shown in content.items(int(number))[:1]],
        )
        for what, repeats in named.items()
        if repeats is not None
        for place, group in enumerate(repeats.groups[:3], 1)
    ]


def _lines(found: DataStatistics) -> list[str]:
    from mmvicreg.exploration.contact_sheet import spreads_of

    lines = [f"{count:,} samples with {name}" for name, count in found.combinations.items()]
    return lines + [
        f"{name}: median {each.median:g}, 95% below {each.percentile_95:g}, {each.minimum:g} to {each.maximum:g}"
        for name, each in spreads_of(found).items()
    ]
