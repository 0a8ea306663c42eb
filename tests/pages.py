"""The texts of the project: their code blocks, links and headings."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
NAMED = re.compile(r"`([\w-]+\.(?:py|yaml))`[^`\n]*:\n\n\Z")
LINK = re.compile(r"\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its code, and the file that the text before it says it is."""

    language: str
    code: str
    file: str = ""


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text, found = page.read_text(encoding="utf-8"), []
    for match in FENCED.finditer(text):
        named = NAMED.search(text[: match.start()])
        found.append(Block(match[1], match[2], named[1] if named else ""))
    return found


def prose(page: Path) -> str:
    """The page without its code."""
    return re.sub(r"`[^`\n]*`", "", FENCED.sub("", page.read_text(encoding="utf-8")))


def links(page: Path) -> list[str]:
    """Targets of the page's links and pictures."""
    return LINK.findall(FENCED.sub("", page.read_text(encoding="utf-8")))


def anchors(page: Path) -> set[str]:
    """What links can name behind a #: the headings, as GitHub writes them."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(code: str) -> list[str]:
    """The lines of a shell block, continued ones joined, what is fed to a command's input left out."""
    code = re.sub(r"<<'EOF'\n.*?^EOF\n", "\n", code, flags=re.DOTALL | re.MULTILINE)
    lines = code.replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]


def run(code: str, names: dict | None = None, where: str = "page") -> dict:
    """Execute a block, in the names of the blocks before it; the names."""
    names = {"__name__": "page"} if names is None else names
    exec(compile(code, where, "exec"), names)
    return names
