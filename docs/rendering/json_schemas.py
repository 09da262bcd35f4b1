"""The directive ``json-schemas``: a section for each JSON Schema of a folder.

Descriptions in the schemas are numpy docstrings: their parameters say what the properties mean.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from rendering.markdown import table, target

Schema = dict[str, Any]

_TITLE = re.compile(r"^(\w[^\n]*)\n-{3,}\n", re.MULTILINE)  # of a section of a docstring
_ENTRY = re.compile(r"^(\S[^:\n]*?)(?: :[^\n]*)?\n((?: +[^\n]*\n?|\n)+)", re.MULTILINE)


def meanings(description: str) -> tuple[str, dict[str, str]]:
    """Return what a numpy docstring says of the whole, and of each parameter."""
    head, *sections = _TITLE.split(description)
    parts = dict(zip(sections[::2], sections[1::2], strict=True))
    found = {}
    for names, text in _ENTRY.findall(parts.get("Parameters", "")):
        found |= {name.strip(): " ".join(text.split()) for name in names.split(",")}
    return head.strip(), found


def type_of(schema: Schema) -> str:
    """Return in words what a schema allows."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#{label_of(name)})"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(type_of(part) for part in schema["anyOf"]))
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return " or ".join(f"`{json.dumps(value)}`" for value in values)
    if schema.get("type") == "array":
        items = schema.get("prefixItems") or [schema.get("items", {})]
        return f"array of {', '.join(map(type_of, items))}"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {type_of(schema['additionalProperties'])}"
    return str(schema.get("type", "any"))


def label_of(name: str) -> str:
    """Return what links to a definition end with."""
    return f"json-{name.lower()}"


def section(schema: Schema) -> list[str]:
    """Return what an object is and its properties, as Markdown."""
    head, known = meanings(schema.get("description", ""))
    rows = []
    for key, inner in schema.get("properties", {}).items():
        text = known.get(key) or meanings(inner.get("description", ""))[0]
        needed = "required" if key in schema.get("required", ()) else _default(inner)
        rows.append((f"`{key}`", type_of(inner), needed, text))
    return [head.replace("``", "`"), table(("key", "type", "", "meaning"), rows)]


def _default(schema: Schema) -> str:
    default = schema.get("default")
    return (
        ""
        if default in (None, "") or isinstance(default, list | dict)
        else f"default `{json.dumps(default)}`"
    )


def page(schemas: dict[str, Schema]) -> str:
    """Return sections of all files, then of the parts that they are made of, each once."""
    text, parts = [], {}
    for name, schema in schemas.items():
        text += [f"## {name}", *section(schema)]
        parts |= {title: part for title, part in schema.get("$defs", {}).items()}
    text.append("## Parts")
    for title, part in sorted(parts.items()):
        described = section(part) if "properties" in part else [type_of(part)]
        text += [target(label_of(title), title, 3), *described]
    return "\n\n".join(text)


class JsonSchemas(SphinxDirective):
    """``json-schemas FOLDER``: FOLDER counts from the page."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the sections."""
        paths = sorted(Path(self.env.relfn2path(self.arguments[0])[1]).glob("*.json"))
        for path in paths:
            self.env.note_dependency(str(path))
        text = page({path.stem: json.loads(path.read_text()) for path in paths})
        return list(self.parse_text_to_nodes(text, allow_section_headings=True))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("json-schemas", JsonSchemas)
    return {"parallel_read_safe": True}
