"""What MkDocs does not do by itself: pages made from the program, and pages whose text is elsewhere in the repository.

Links in all pages are those that work in the repository; here they become links between pages.
"""

from __future__ import annotations

import posixpath
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# Page → the file of the repository that it shows.
SHOWN = {
    "index.md": "README.md",
    "reference/runtime.md": "runtime/README.md",
    "reference/http-api.md": "server/README.md",
    "benchmarks.md": "benchmarks/README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}


def command_line() -> str:
    """The reference of the command line, from the program itself."""
    command = [
        sys.executable,
        "-m",
        "typer",
        "charrnn.cli",
        "utils",
        "docs",
        "--name",
        "charrnn",
        "--title",
        "Command line",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
    return done.stdout


def openapi() -> str:
    """The endpoints of the server and the fields of requests and responses, from its OpenAPI description."""
    from charrnn_server.app import make_app
    from charrnn_server.options import ServerOptions

    described = make_app({}, ServerOptions()).openapi()
    lines = ["# Fields of the HTTP API", "", "From the description that a server gives at `GET /openapi.json`."]
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            lines += ["", f"## {method.upper()} {path}", "", operation.get("description", operation["summary"]), ""]
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
            lines += [f"Request: {_kind(body)}", ""] if body else []
            lines += ["| status | | |", "|---|---|---|"]
            for status, response in operation["responses"].items():
                kinds = [_kind(content.get("schema", {})) for content in response.get("content", {}).values()]
                lines.append(f"| {status} | {response['description']} | {', '.join(filter(None, kinds))} |")
    for name, schema in described["components"]["schemas"].items():
        lines += ["", f"## {name}", "", schema.get("description", ""), "", "| field | type | |", "|---|---|---|"]
        for field, value in schema.get("properties", {}).items():
            default = f"Default: `{value['default']!r}`." if value.get("default") not in (None, [], "") else ""
            needed = "Required." if field in schema.get("required", []) else default
            lines.append(
                f"| `{field}` | {_kind(value)} | {' '.join(filter(None, [value.get('description'), needed]))} |"
            )
    return "\n".join(lines) + "\n"


def _kind(schema: dict[str, Any]) -> str:
    """A JSON schema in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema or "oneOf" in schema:
        kinds = [_kind(one) for one in schema.get("anyOf") or schema["oneOf"]]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    kind = str(schema.get("type", ""))
    if kind == "array":
        kind = f"list of {_kind(schema.get('items', {}))}"
    names = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {schema[name]:g}" for name, sign in names.items() if name in schema]
    limits += [f"{name[3:].lower()} {name[:3]} {schema[name]}" for name in ("minItems", "maxItems") if name in schema]
    return " ".join([kind, ", ".join(limits)]).strip()


MADE = {"reference/command-line.md": command_line, "reference/openapi.md": openapi}
# Code is matched too, and stays as it is.
_LINK = re.compile(
    r"^```.*?^```$|`[^`\n]+`"
    r"|(?P<before>!?\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\()(?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)",
    re.MULTILINE | re.DOTALL,
)


def linked(markdown: str, page: str, repository: str | None = None) -> str:
    """The text of a page with links between pages in place of those between files of the repository.

    Args:
        markdown: the text.
        page: the page, by its path in ``docs``.
        repository: address of the repository's files; without one, a link to a file that has no page becomes its text.

    Raises:
        FileNotFoundError: a file that is linked does not exist.
    """
    folder = posixpath.dirname(SHOWN.get(page, f"docs/{page}"))
    pages = {source: shown for shown, source in SHOWN.items()}

    def change(found: re.Match[str]) -> str:
        target, anchor = found["target"], found["anchor"] or ""
        if target is None or re.match(r"\w+:", target):
            return found[0]
        path = posixpath.normpath(posixpath.join(folder, target))
        made = path.removeprefix("docs/") in MADE
        if not made and not (ROOT / path).exists():
            raise FileNotFoundError(f"{SHOWN.get(page, page)}: {target} does not exist")
        to = pages.get(path, path.removeprefix("docs/") if path.startswith("docs/") else None)
        if to is not None:
            return f"{found['before']}{posixpath.relpath(to, posixpath.dirname(page) or '.')}{anchor})"
        return f"{found['before']}{repository}{path}{anchor})" if repository else found["text"]

    return _LINK.sub(change, markdown)


def on_files(files: Any, config: Any) -> Any:
    """MkDocs asks for the files: adds the pages that are made or shown."""
    from mkdocs.structure.files import File

    for page, make in MADE.items():
        files.append(File.generated(config, page, content=make()))
    for page, source in SHOWN.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:  # noqa: ARG001  # MkDocs passes them by name
    """MkDocs has read a page."""
    repository = f"{config.repo_url.rstrip('/')}/blob/main/" if config.repo_url else None
    try:
        return linked(markdown, page.file.src_uri, repository)
    except FileNotFoundError as error:
        from mkdocs.exceptions import PluginError

        raise PluginError(str(error)) from error


def on_post_build(config: Any) -> None:
    """MkDocs has written the pages: none of them may load anything from another host.

    Raises:
        PluginError: a page does.
    """
    from mkdocs.exceptions import PluginError

    loads = re.compile(
        r"""<(?:script|img|iframe|source)\b[^>]*\ssrc=["']?(?:https?:)?//[^"'>\s]+|<link\b[^>]*rel=["']?(?:stylesheet|preconnect|icon|preload)[^>]*href=["']?(?:https?:)?//[^"'>\s]+"""
    )
    for path in Path(config.site_dir).rglob("*.html"):
        found = loads.search(path.read_text("utf-8"))
        if found:
            raise PluginError(f"{path}: loads from another host: {found[0]}")
