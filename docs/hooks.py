"""Makes pages of what was written to be read elsewhere.

Documents of the repository's root become pages: their links go through
`docs/`, and those of pages to them through `../`, so that they also work where
the repository is browsed. Names such as `ka.prune`, in pages and docstrings,
become links to the reference, and doctests become code. Comments of tutorials,
`<!-- Figure: ... -->`, become the alternative texts of the figures below them.
"""

import html
import logging
import posixpath
import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

LOG = logging.getLogger("mkdocs.hooks")  # Warnings fail a strict build.
ROOT = Path(__file__).parents[1]
ROOT_PAGES = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
REFERENCE = {
    name
    for page in (ROOT / "docs/reference").glob("*.md")
    for name in re.findall(r"^::: (\S+)", page.read_text(), re.MULTILINE)
}
# A name in code, with or without arguments, which is not a link already.
NAME = re.compile(r"(?<!\[)`ka(\.[\w.]+)(?:\([^`]*\))?`")
# The last part of one alone, as in "see `PruningCallback`".
SEE = re.compile(r"(?<=[Ss]ee )`(\w+)`")
BY_LAST_PART = {name.rpartition(".")[2]: name for name in REFERENCE}
# What is left as it is: code, doctests, headings and directives.
VERBATIM = re.compile(
    r"(^ *```.*?^ *```|^ *>>> .*?(?=\n\n|\Z)|^(?:#|::: ).*?$)",
    re.MULTILINE | re.DOTALL,
)
DOCTEST = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)
# What a figure shows, in the text above it; and a figure without such a text,
# as nbconvert writes it.
FIGURE = re.compile(
    r"<!-- Figure: (?P<text>.*?) -->"
    r'|alt="No description has been provided for this image"',
    re.DOTALL,
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for each document of the root."""
    for document, page in ROOT_PAGES.items():
        text = (ROOT / document).read_text().replace("](docs/", "](")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links documents of the root, and names of the reference."""
    for document, page in ROOT_PAGES.items():
        markdown = markdown.replace(f"](../{document}", f"]({page}")
    return link_names(markdown)


def on_page_content(content: str, page: Any, files: Files, **_: Any) -> str:
    """Links and describes in tutorials, which are HTML from the start."""
    if not page.file.src_uri.startswith("tutorials/"):
        return content

    def to_page(link: re.Match[str]) -> str:
        path = posixpath.normpath(f"tutorials/{link[1]}")
        path = path.removeprefix("../")  # A document of the root.
        found = files.get_file_from_path(ROOT_PAGES.get(path, path))
        if found is None:
            LOG.warning("%s links to %s", page.file.src_uri, link[1])
            return link[0]
        return f'href="{found.url_relative_to(page.file)}{link[2] or ""}"'

    def to_reference(name: re.Match[str]) -> str:
        full = f"keras_apoptosis{name[1]}"
        if full not in REFERENCE:
            return name[0]
        return f'<autoref identifier="{full}">{name[0]}</autoref>'

    content = re.sub(r'href="([\w./]+\.(?:md|py))(#[\w-]*)?"', to_page, content)
    content = re.sub(r"<code>ka(\.[\w.]+)</code>", to_reference, content)
    return describe_figures(content, page.file.src_uri)


def describe_figures(content: str, name: str) -> str:
    """Gives each figure the text above it, and warns where there is none."""
    text = None

    def describe(found: re.Match[str]) -> str:
        nonlocal text
        if found["text"]:
            text = " ".join(found["text"].split())
            return ""
        if text is None:
            LOG.warning("%s has a figure without a text", name)
            return found[0]
        described, text = f'alt="{html.escape(text)}"', None
        return described

    return FIGURE.sub(describe, content)


def link_names(text: str) -> str:
    """Makes links of the names that the reference has."""
    parts = VERBATIM.split(text)
    for n in range(0, len(parts), 2):
        part = NAME.sub(
            lambda name: linked(name[0], f"keras_apoptosis{name[1]}"), parts[n]
        )
        parts[n] = SEE.sub(
            lambda name: linked(name[0], BY_LAST_PART.get(name[1], "")), part
        )
    return "".join(parts)


def linked(text: str, name: str) -> str:
    """Returns a link to a name, or the text if the reference has it not."""
    return f"[{text}][{name}]" if name in REFERENCE else text


class Docstrings(griffe.Extension):
    """Adapts docstrings before they are parsed, and finds all functions."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Reads docstrings; then functions hide the files of their names."""
        adapt(pkg)
        for path in REFERENCE:
            *parents, name = path.split(".")[1:]
            parent = pkg[".".join(parents)] if parents else pkg
            found = parent.members[name]
            if found.is_module:
                parent.members[name] = griffe.Alias(
                    name, found[name], parent=parent
                )


def adapt(obj: griffe.Object) -> None:
    """Links names, and puts a fence around each doctest, in all of it."""
    if obj.docstring:
        text = link_names(obj.docstring.value)
        text = DOCTEST.sub(r"```pycon\n\g<0>\n```", text)
        text = re.sub(r"^Example:", "**Example:**", text, flags=re.M)
        obj.docstring.value = text
    for member in obj.members.values():
        if not member.is_alias:
            adapt(member)
