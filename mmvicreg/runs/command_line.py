"""The command line of a recipe: every field of its configuration is an option, and ``--help`` shows them in groups."""

from __future__ import annotations

import dataclasses
import io
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass
from types import MappingProxyType
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

Config = TypeVar("Config")


@dataclass(frozen=True)
class Group:
    """Plain fields that ``--help`` shows together."""

    title: str
    line: str
    """what they are about"""
    fields: tuple[str, ...]


GROUPS = (
    Group(
        "run",
        "What is trained or solved on what, for how long, and where the run goes.",
        ("train", "validation", "out", "init", "epochs", "batch_size", "seed", "precision", "ema_decay"),
    ),
    Group("pairs", "What of the pairs is used.", ("pairs", "augmented_views")),
    Group(
        "reading",
        "Order of the samples, threads and precomputed representations.",
        ("order", "threads", "feature_cache"),
    ),
    Group(
        "hardware",
        "Memory, devices and processes.",
        ("cpu", "parallel", "gradient_cache_size", "activation_checkpointing", "compile", "peak_tflops"),
    ),
    Group(
        "checkpoints",
        "Checkpoints, the log, and continuing a run.",
        ("resume", "allow_change", "checkpoint_every", "checkpoint_minutes", "keep_checkpoints", "best_metric",
         "log_every", "trackers"),
    ),
)  # fmt: skip
"""Fields of the base configurations; those that a recipe adds stand in a group of their own, before these."""
RECIPE = Group("recipe", "Options of this recipe.", ())


def print_what_the_locale_lacks() -> None:
    """Let standard output and errors show characters that their encoding lacks as escapes: they would end a command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a notebook's is not one, and is UTF-8
            stream.reconfigure(errors="backslashreplace")


def expand_home(argument: str) -> str:
    """``~/x`` as a path, also where the shell left it: in quotes and after ``--option=``."""
    option, equals, value = argument.partition("=")
    if option.startswith("--") and equals:
        return f"{option}={os.path.expanduser(value)}"
    return os.path.expanduser(argument) if argument.startswith("~/") else argument


def parse_command_line(config: type[Config], *, args: Sequence[str] | None = None) -> Config:
    """An instance of the dataclass ``config`` from the command line, or from ``args``.

    Every field is an option: ``batch_size`` is ``--batch-size``, and field x of a nested dataclass y is ``--y.x``.
    ``--help`` shows the docstrings of the fields, the modalities and other nested dataclasses in groups of their own.
    Wrong options, and a ValueError of the dataclass's own checks, are printed with exit status 2.
    """
    import tyro

    print_what_the_locale_lacks()
    describe(config)
    hints, every = get_type_hints(config, include_extras=True), _fields(config)
    nested = [each for each in every if _dataclasses_in(hints[each.name])]
    groups = _grouped([each for each in every if each not in nested], hints)
    parts = [*groups, *((each.name, hints[each.name], _copied(each)) for each in nested)]
    options = make_dataclass(config.__name__, parts, kw_only=True, frozen=True)
    found: Any = tyro.cli(
        options,
        args=[expand_home(argument) for argument in (sys.argv[1:] if args is None else args)],
        description=_description(config),
    )
    values = {each.name: getattr(found, each.name) for each in nested}
    for name, _, _ in groups:
        values |= vars(getattr(found, name))
    try:
        return config(**values)
    except ValueError as error:
        print(f"{os.path.basename(sys.argv[0])}: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def describe(config: type) -> None:
    """Give every field of a dataclass, and of those nested in it, its docstring as help text, in one line.

    tyro would keep the line breaks that a docstring has in the source file.
    """
    import docstring_parser

    for owner in (config, *_nested(config)):
        documented: dict[str, str] = {}
        for each in reversed(owner.__mro__):
            if is_dataclass(each):
                found = docstring_parser.parse_from_object(each).params
                documented |= {one.arg_name: one.description for one in found if one.description}
        for item in _fields(owner):
            if item.name in documented:
                text = " ".join(documented[item.name].split())
                item.metadata = MappingProxyType({**item.metadata, "help": text})


def _fields(config: Any) -> tuple[dataclasses.Field[Any], ...]:
    return fields(config)


def _nested(config: type) -> Iterator[type]:
    for hint in get_type_hints(config, include_extras=True).values():
        for inner in _dataclasses_in(hint):
            yield inner
            yield from _nested(inner)


def _dataclasses_in(hint: Any) -> list[type]:
    """The dataclasses that a type hint names, in unions and containers too."""
    if isinstance(hint, type) and is_dataclass(hint):
        return [hint]
    return [found for part in get_args(hint) for found in _dataclasses_in(part)]


def _grouped(plain: Sequence[dataclasses.Field[Any]], hints: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Name, annotation and default of a dataclass for each group that has fields."""
    import tyro

    known = {name for group in GROUPS for name in group.fields}
    recipe = dataclasses.replace(RECIPE, fields=tuple(each.name for each in plain if each.name not in known))
    by_name = {each.name: each for each in plain}
    found = []
    for group in (recipe, *GROUPS):
        held = [by_name[name] for name in group.fields if name in by_name]
        if not held:
            continue
        made: Any = make_dataclass(
            group.title,
            [(each.name, hints[each.name], _copied(each)) for each in held],
            kw_only=True,
            frozen=True,
        )
        annotation = Annotated[
            made, tyro.conf.OmitArgPrefixes, tyro.conf.arg(name=group.title, help=group.line)
        ]
        required = any(_required(each) for each in held)
        found.append(
            (f"group_{group.title}", annotation, field() if required else field(default_factory=made))
        )
    return found


def _required(item: dataclasses.Field[Any]) -> bool:
    return item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING


def _copied(item: dataclasses.Field[Any]) -> Any:
    """A field with the same default and help."""
    if item.default is not dataclasses.MISSING:
        return field(default=item.default, metadata=item.metadata)
    if item.default_factory is not dataclasses.MISSING:
        return field(default_factory=item.default_factory, metadata=item.metadata)
    return field(metadata=item.metadata)


def _description(config: type) -> str:
    """The docstring of the dataclass, and the commands at the head of the recipe."""
    header = sys.modules[config.__module__].__doc__ or ""
    starts = ("python ", "accelerate ", "mmvicreg ")
    commands = [line.strip() for line in header.splitlines() if line.startswith("    ")]
    examples = [f"  {line}" for line in commands if line.startswith(starts)]
    about = " ".join((config.__doc__ or "").split())
    return "\n".join([about, "", "Examples:", *examples] if examples else [about])


def hint_at_quotes(arguments: list[str]) -> None:
    """Say so where the shell has put the names of shards in the place of a pattern."""
    shards = [argument for argument in arguments if argument.endswith(".tar") and os.path.isfile(argument)]
    if len(shards) > 1:
        pattern = os.path.join(os.path.dirname(shards[0]), "*.tar")
        print(
            f"{len(shards)} shards were given where one pattern is expected: the shell has expanded it. Put it in "
            f"quotes: '{pattern}'",
            file=sys.stderr,
        )
