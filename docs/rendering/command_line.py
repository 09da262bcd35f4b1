"""The directive ``command-line``: a section for each command, made from the command line itself."""

from __future__ import annotations

from collections.abc import Iterator

import click
import typer.main
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from protocol.cli import build_app
from rendering.markdown import table, target


def commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """Yield every command that does something, with the words that call it."""
    if isinstance(command, click.Group):
        for name, inner in sorted(command.commands.items()):
            yield from commands(inner, f"{path} {name}")
    else:
        yield path, command


def section(path: str, command: click.Command) -> list[str]:
    """Return a command's usage, what it does and what it takes, as Markdown."""
    context = click.Context(command, info_name=path)
    given = [p for p in command.params if not getattr(p, "hidden", False)]
    text = [
        target(path.replace(" ", "-"), path, 3),
        f"```sh\n{path} {' '.join(command.collect_usage_pieces(context))}\n```",
        escaped(command.help or ""),
    ]
    if given:
        text.append(table(("argument or option", "values", "", "meaning"), list(map(row, given))))
    if command.epilog:
        text.append(f"```sh\n{command.epilog.removeprefix('Example: ')}\n```")
    return text


def row(parameter: click.Parameter) -> tuple[str, str, str, str]:
    """Return the names, values, default and meaning of an argument or option."""
    names = [parameter.human_readable_name]
    values = ""
    if isinstance(parameter, click.Option):
        names = [*parameter.opts, *parameter.secondary_opts]
        values = "" if parameter.is_flag else escaped(_values(parameter))
    needed = "required" if parameter.required else _default(parameter)
    return ", ".join(f"`{n}`" for n in names), values, needed, escaped(_help(parameter))


def _values(option: click.Option) -> str:
    if isinstance(option.type, click.Choice):
        return ", ".join(map(str, option.type.choices))
    return option.metavar or option.type.name


def _default(parameter: click.Parameter) -> str:
    default = parameter.default
    shown = getattr(parameter, "show_default", False)
    plain = isinstance(default, int | float | str) and not isinstance(default, bool)
    return f"default `{default}`" if shown and plain and default != "" else ""


def _help(parameter: click.Parameter) -> str:
    return getattr(parameter, "help", None) or ""


def escaped(text: str) -> str:
    """Return plain text as Markdown that shows it letter for letter."""
    text = text.replace("\b", "")
    for letter in "\\*_<>[]#|":
        text = text.replace(letter, f"\\{letter}")
    return text


class CommandLine(SphinxDirective):
    """``command-line``: all commands, sorted."""

    def run(self) -> list[nodes.Node]:
        """Return the sections."""
        self.env.note_reread()  # no file tells that the command line has changed
        everything = commands(typer.main.get_command(build_app()), "fedprint")
        parts = [part for path, command in everything for part in section(path, command)]
        text = "\n\n".join(["## All of them", *parts])  # a target before any heading would be lost
        return list(self.parse_text_to_nodes(text, allow_section_headings=True))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("command-line", CommandLine)
    return {"parallel_read_safe": True}
