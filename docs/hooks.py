"""Puts the documents of the repository's root on the site.

Their links go through `docs/`, and those of pages to them through `../`, so
that they work where the repository is browsed, too.
"""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT_PAGES = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for each document of the root."""
    root = Path(config.config_file_path).parent
    for document, page in ROOT_PAGES.items():
        text = (root / document).read_text().replace("](docs/", "](")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Sends links to documents of the root to their pages."""
    for document, page in ROOT_PAGES.items():
        markdown = markdown.replace(f"](../{document}", f"]({page}")
    return markdown
