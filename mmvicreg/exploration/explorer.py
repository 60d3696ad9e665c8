"""The page of ``mmvicreg explore``: queries of any kind, neighbours to walk along, and a map, for one run or two.

It is served by gradio to this machine only. Nothing on it comes from elsewhere: fonts are the system's, analytics are
off, and a policy in the header of every answer forbids the browser other hosts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmvicreg.errors import InvalidValueError, UserError, printable
from mmvicreg.exploration.projection import Projection, project
from mmvicreg.exploration.searcher import Found, Searcher
from mmvicreg.exploration.server import load_gradio

MAP_ITEMS = 4000
"""Items on the map, evenly spread over the views."""


@dataclass(frozen=True)
class ExplorerOptions:
    """What the page shows."""

    k: int = 12
    """items that a query finds in each view"""
    projection: Projection = "pca"
    labels: str = ""
    """field of the json member that colours the map; the cls member if empty"""


@dataclass(frozen=True)
class Side:
    """One run on the page, with the parts of the page that show what it finds."""

    name: str
    searcher: Searcher
    galleries: dict[str, Any] = field(default_factory=dict)
    """by view, for views whose items are images"""
    tables: dict[str, Any] = field(default_factory=dict)
    """by view, for the others"""

    def outputs(self) -> list[Any]:
        """The parts in the order in which :func:`found_values` fills them."""
        return [*self.galleries.values(), *self.tables.values()]


def build(sides: dict[str, Searcher], options: ExplorerOptions) -> Any:
    """The page as gradio Blocks. Raises InvalidValueError where gradio is not installed."""
    gradio = load_gradio()
    with gradio.Blocks(analytics_enabled=False, title="mmvicreg explore", fill_width=True) as page:
        gradio.Markdown("# " + " and ".join(_plain(name) for name in sides))
        with gradio.Row():
            text = gradio.Textbox(
                label="Query", placeholder="a text", scale=3, elem_id="query", max_length=5000
            )
            button = gradio.Button("Search", variant="primary", elem_id="search")
        with gradio.Row():
            files = _file_inputs(gradio, list(sides.values()))
        message = gradio.Markdown("", elem_id="message")
        with gradio.Row():
            shown = [
                _side(gradio, name, searcher, number) for number, (name, searcher) in enumerate(sides.items())
            ]
        state = gradio.State([{} for _ in shown])
        outputs = [message, state, *(part for side in shown for part in side.outputs())]
        answer = _Answer(shown, options)
        for event in (text.submit, button.click):
            event(answer.to_text, [text], outputs, api_visibility="private")
        for kind, file in files.items():
            file.upload(answer.to_file(kind), [file], outputs, api_visibility="private")
        _walks(gradio, shown, answer, state, outputs)
        with gradio.Accordion("Map of all items", open=False):
            _map(gradio, shown, options)
    return page


def _plain(name: str) -> str:
    """A name inside Markdown: without what Markdown or HTML would obey."""
    return "".join(
        f"\\{c}" if c in "\\`*_{}[]()#+-.!|" else {"<": "&lt;", "&": "&amp;"}.get(c, c) for c in name
    )


def _file_inputs(gradio: Any, searchers: list[Searcher]) -> dict[str, Any]:
    """Inputs for images and recordings, where a run has a branch for them."""
    found = {}
    if any(searcher.branches_of("image") for searcher in searchers):
        found["image"] = gradio.Image(
            label="Image query", type="filepath", image_mode=None, sources=["upload", "clipboard"],
            height=180, elem_id="image-query", buttons=[],
        )  # fmt: skip
    if any(searcher.branches_of("audio") for searcher in searchers):
        found["audio"] = gradio.Audio(
            label="Sound query", type="filepath", sources=["upload", "microphone"], elem_id="audio-query"
        )
    return found


def _side(gradio: Any, name: str, searcher: Searcher, number: int) -> Side:
    side = Side(name, searcher)
    with gradio.Column():
        gradio.Markdown(f"## {_plain(name)}")
        for view in searcher.views():
            label = f"{view} items of {name}"
            if isinstance(searcher.item(view, 0).shown.content, np.ndarray):
                side.galleries[view] = gradio.Gallery(
                    label=label, columns=4, height=None, allow_preview=False, object_fit="contain", buttons=[],
                    elem_id=f"{view}-items-{number}", elem_classes="results", interactive=False,
                )  # fmt: skip
            else:
                side.tables[view] = gradio.Dataframe(
                    label=label, headers=["cosine", "item", "source"], datatype=["number", "str", "str"],
                    interactive=False, wrap=True, elem_id=f"{view}-items-{number}", elem_classes="results", buttons=[],
                )  # fmt: skip
            rows = searcher.rows(view)
            if rows.method != "exact":
                gradio.Markdown(f"{_plain(view)}: {rows.description()}", elem_id=f"{view}-search-{number}")
    return side


def _walks(gradio: Any, sides: list[Side], answer: _Answer, state: Any, outputs: list[Any]) -> None:
    """A click on an item makes it the query, in the run that it was clicked in and in the other one."""
    for number, side in enumerate(sides):
        for view, part in {**side.galleries, **side.tables}.items():

            def walk(places: Any, event: Any, number: int = number, view: str = view) -> list[Any]:
                place = event.index[0] if isinstance(event.index, list | tuple) else event.index
                return answer.to_item(places, (number, view, int(place)))

            walk.__annotations__["event"] = gradio.SelectData  # how gradio knows what to pass
            part.select(walk, [state], outputs, api_visibility="private")


class _Answer:
    """What the page shows after a query: a title, the rows found (``places``), and the parts of every side.

    ``places`` is kept by the browser's session, one {view: rows} a side: a click names an item by its place in it.
    """

    def __init__(self, sides: list[Side], options: ExplorerOptions) -> None:
        self.sides, self.options = sides, options

    def to_text(self, text: str) -> list[Any]:
        if not text.strip():
            return self._nothing("Type a text first.")
        return self._results(f"Text: {_plain(text[:200])}", lambda side: side.searcher.embed_text(text))

    def to_file(self, kind: str) -> Callable[[str | None], list[Any]]:
        def answer(file: str | None) -> list[Any]:
            if not file:
                return self._nothing("")
            title = f"{kind.capitalize()}: {_plain(Path(file).name)}"
            return self._results(title, lambda side: side.searcher.embed_file(Path(file)))

        return answer

    def to_item(self, places: list[dict[str, list[int]]], clicked: tuple[int, str, int]) -> list[Any]:
        """``clicked``: side, view and place of the item."""
        number, view, place = clicked
        rows = places[number].get(view, [])
        if not 0 <= place < len(rows):
            return self._nothing("Search first, then click an item.")
        own = self.sides[number].searcher
        item = own.item(view, rows[place])
        title = item.shown.content if isinstance(item.shown.content, str) else item.shown.name

        def embed(side: Side) -> Any:
            if (
                view in side.searcher.views()
            ):  # all sides have the same shards, so a view's rows are the same items
                return side.searcher.embed_row(view, item.row)
            raise InvalidValueError(f"this run has no items of {view}")

        return self._results(f"Neighbours of {_plain(title)}", embed, (view, item.row))

    def _nothing(self, message: str) -> list[Any]:
        gradio = load_gradio()
        return [message, gradio.skip(), *(gradio.skip() for side in self.sides for _ in side.outputs())]

    def _results(
        self, title: str, embed: Callable[[Side], Any], skip: tuple[str, int] = ("", -1)
    ) -> list[Any]:
        values: list[Any] = []
        places: list[dict[str, list[int]]] = []
        for side in self.sides:
            try:
                found = self._nearest(side.searcher, embed(side), skip)
            except (UserError, KeyError) as error:
                title, found = f"{title}. {_plain(side.name)}: {_plain(printable(str(error)))}", {}
            places.append({view: [each.row for each in items] for view, items in found.items()})
            values += [_gallery(found.get(name, [])) for name in side.galleries]
            values += [_table(found.get(name, [])) for name in side.tables]
        return [title, places, *values]

    def _nearest(self, searcher: Searcher, query_D: Any, skip: tuple[str, int]) -> dict[str, list[Found]]:
        return {
            view: searcher.nearest(query_D, view, k=self.options.k, skip=skip[1] if view == skip[0] else -1)
            for view in searcher.comparable(len(query_D))
        }


def _gallery(found: list[Found]) -> list[tuple[Image.Image, str]]:
    pictures = []
    for each in found:
        array = each.shown.content
        image = (
            Image.fromarray(array) if isinstance(array, np.ndarray) else Image.new("RGB", (64, 64), "white")
        )
        image.thumbnail((256, 256))
        parts = (f"{each.cosine:.3f}", each.shown.caption, each.shown.source)
        pictures.append((image, printable(" · ".join(part for part in parts if part))))
    return pictures


def _table(found: list[Found]) -> list[list[Any]]:
    return [
        [
            round(each.cosine, 3),
            printable(each.shown.content if isinstance(each.shown.content, str) else each.shown.name),
            printable(each.shown.source),
        ]
        for each in found
    ]


def _map(gradio: Any, sides: list[Side], options: ExplorerOptions) -> None:
    """Drawn when asked for: it takes seconds on large data."""
    with gradio.Row():
        run = gradio.Dropdown(
            [side.name for side in sides], value=sides[0].name, label="Run", elem_id="map-run"
        )
        colour = gradio.Radio(["modality", "label"], value="modality", label="Colour", elem_id="map-colour")
        method = gradio.Radio(["pca", "umap"], value=options.projection, label="Projection")
        button = gradio.Button("Draw", elem_id="draw")
    note = gradio.Markdown("", elem_id="map-note")
    plot = gradio.ScatterPlot(
        x="x", y="y", color="colour", tooltip="all", height=520, elem_id="map", buttons=[]
    )

    def draw(name: str, colour: str, method: Projection) -> list[Any]:
        side = next(side for side in sides if side.name == name)
        try:
            return ["", map_table(side.searcher, colour=colour, projection=method, labels=options.labels)]
        except UserError as error:
            return [_plain(str(error)), gradio.skip()]

    button.click(draw, [run, colour, method], [note, plot], api_visibility="private")


def map_table(searcher: Searcher, *, colour: str, projection: Projection, labels: str = "") -> Any:
    """A pandas table of at most ``MAP_ITEMS`` items with x, y, colour, text and source."""
    import pandas

    views = searcher.views()
    chosen = {}
    for view in views:
        count = len(searcher.store.items(view).z)
        wanted = min(count, MAP_ITEMS // len(views))
        chosen[view] = np.unique(np.linspace(0, count - 1, wanted).round().astype(int))
    places = project({view: searcher.store.items(view).z[rows] for view, rows in chosen.items()}, projection)
    lines = []
    for view, rows in chosen.items():
        items = searcher.store.items(view)
        for (x, y), row in zip(places[view].tolist(), rows.tolist(), strict=True):
            number, identity = items.samples[row][0], items.identities[row]
            source, text = searcher.content.describe(view, number, identity)
            group = view if colour == "modality" else searcher.content.label(number, labels) or "no label"
            lines.append((x, y, group, printable(text[:80]), printable(source)))
    return pandas.DataFrame(lines, columns=["x", "y", "colour", "text", "source"])
