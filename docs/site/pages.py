"""What MkDocs is told about these pages: which others belong to them, and where their links lead in the site."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
OTHERS = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
MIXERS = sorted(path.stem for path in (ROOT / "fastmix/mixers").glob("*.py") if path.stem != "__init__")
REFERENCE = {
    "loop": ("In your own loop", ["fastmix.engine.method"]),
    "methods": ("Methods", [f"fastmix.mixers.{name}" for name in MIXERS]),
    "plans": ("Plans and targets", ["fastmix.batch", "fastmix.kernels.plan", "fastmix.kernels.mix", "fastmix.targets"]),
    "loaders": ("Loaders", ["fastmix.pipelines.loader", "fastmix.pipelines.view"]),
    "config": ("Configs", ["fastmix.config"]),
}
"""A page's title and the modules whose docstrings are on it."""
HOME = {module: f"reference/{page}.md#{module}" for page, (_, modules) in REFERENCE.items() for module in modules}


def on_files(files, config):
    """The pages that lie elsewhere or are nowhere, but in the docstrings."""
    pages = {page: (ROOT / path).read_text(encoding="utf-8") for page, path in OTHERS.items()}
    for page, (title, modules) in REFERENCE.items():
        pages[f"reference/{page}.md"] = "\n\n".join([f"# {title}", *(f"::: {module}" for module in modules)]) + "\n"
    for page, text in pages.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """The page with links as the site has them, and lists apart from the line before, which MkDocs asks for."""
    up = "../" * page.file.src_uri.count("/")

    def link(match: re.Match) -> str:
        text, target = match.groups()
        target = target.removeprefix("docs/")
        target = {path: name for name, path in OTHERS.items()}.get(target, target)
        module = target.removesuffix(".py").replace("/", ".")
        if module in HOME:
            return f"[{text}]({up}{HOME[module]})"
        there = target.startswith(("http", "#")) or files.get_file_from_path(target.partition("#")[0])
        return f"[{text}]({target})" if there else text

    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.M | re.S)
    for k in range(0, len(parts), 2):
        parts[k] = re.sub(r"(?<![\[!])\[([^\]\[]+)\]\(([^)\s]+)\)", link, parts[k])
        parts[k] = re.sub(r"(?<!\[)`docs/(\w+\.md)`", rf"[\1]({up}\1)", parts[k])
        parts[k] = re.sub(r"!\[([^\]]*)\]\(docs/", rf"![\1]({up}", parts[k])
        parts[k] = re.sub(r"^(?![-|\s]).*\S\n(?=- )", lambda line: line[0] + "\n", parts[k], flags=re.M)
    return "".join(parts)
