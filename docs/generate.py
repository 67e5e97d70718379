"""Puts what the commands say of themselves into docs/commands.md, where it says <!-- commands -->."""

from __future__ import annotations

import re
from typing import Any

import typer.cli

from famkern import cli


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Called by mkdocs for each page."""
    return markdown.replace("<!-- commands -->", commands())


def commands() -> str:
    """The reference of all commands, as Markdown."""
    pages = []
    for name in cli.COMMANDS:
        command = cli.load(name)
        context = typer.Context(command, info_name=f"famkern {name}")  # type: ignore[arg-type]
        text = typer.cli.get_docs_for_click(obj=command, ctx=context, name=f"famkern {name}")
        pages.append(re.sub(r"^(#+) ", r"#\1 ", text, flags=re.MULTILINE))  # below the page's own title
    return "\n\n".join(pages)
