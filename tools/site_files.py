"""MkDocs hook: the site takes in what its pages link to elsewhere in the repository.

Pages are written for the repository, where ``docs/RESULTS.md`` links to ``../results/...`` and the
README to ``docs/...``. On the site, files outside docs/ live below ``repo/`` at their path in the
repository: Markdown as pages, all else as it is. A link to a folder goes to its README.md.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from urllib.parse import quote, unquote

from check_links import links_in
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

OUTSIDE = "repo/"


def repository_path(uri: str) -> str:
    """Path in the repository of a file of the site."""
    return uri.removeprefix(OUTSIDE) if uri.startswith(OUTSIDE) else f"docs/{uri}"


def site_uri(path: str) -> str:
    """The reverse of ``repository_path``."""
    return path.removeprefix("docs/") if path.startswith("docs/") else OUTSIDE + path


def target_of(page: str, link: str, root: Path) -> str:
    """The file that a relative link means, as a path in the repository.

    Raises ``PluginError`` if there is none, or a folder without a README.md.
    """
    path = normpath(PurePosixPath(page).parent / unquote(link))
    if (root / path).is_dir():
        path = f"{path}/README.md"
    if path.startswith("..") or not (root / path).is_file():
        raise PluginError(f"{page}: the link '{link}' leads to no file")
    return path


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add every file outside docs/ that a page links to, and what those pages link to."""
    root = Path(config.config_file_path).parent
    todo = [file.src_uri for file in files.documentation_pages()]
    while todo:
        page = repository_path(todo.pop())
        for link in links_in((root / page).read_text("utf-8")):
            path = link.group().partition("#")[0]
            uri = site_uri(target_of(page, path, root)) if path else ""
            if uri and files.get_file_from_path(uri) is None:
                file = File.generated(config, uri, abs_src_path=str(root / repository_path(uri)))
                files.append(file)
                if file.is_documentation_page():
                    todo.append(uri)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between places in the repository into links between places on the site."""
    root = Path(config.config_file_path).parent
    source = page.file.src_uri
    parts, end = [], 0
    for link in links_in(markdown):
        path, mark, anchor = link.group().partition("#")
        if path:
            uri = site_uri(target_of(repository_path(source), path, root))
            path = quote(relpath(uri, PurePosixPath(source).parent))
        parts += [markdown[end : link.start()], path + mark + anchor]
        end = link.end()
    return "".join([*parts, markdown[end:]])
