"""Docstrings as they are written in mtlib: plain sentences, `code`, and lines that begin with a name and a colon.

Such a line may go on in indented ones. Indented lines behind a blank one are code.
"""

import re

CODE = re.compile(r"(`[^`]+`)")
NAMES = re.compile(r'((?:[\w]+(?: "\w+")?, )*\w+(?: "\w+")?)( \[[^]]*\])?: (?=\S)')


def line_of(text: str) -> str:
    """One line as reStructuredText: code literal, nothing else with a meaning."""
    parts = CODE.split(text)
    parts[::2] = [re.sub(r"([\\*|_`])", r"\\\1", part) for part in parts[::2]]
    parts[1::2] = [f"``{part[1:-1].strip()}``" for part in parts[1::2]]
    for place in range(2, len(parts), 2):
        if parts[place][:1].isalnum() or parts[place][:1] in ("(", "["):
            parts[place] = r"\ " + parts[place]  # a literal ends before a space or punctuation
    return "".join(parts)


def rewritten(lines: list[str]) -> list[str]:
    """A docstring's lines as reStructuredText: a paragraph for each line that explains a name, code as code."""
    found, before, is_code = [""], "", False
    for text in lines:
        indented = text.startswith(" ")
        if indented and not before and not is_code:
            found += [".. code-block:: python", ""]
        is_code = bool(text and indented and (is_code or not before)) or (is_code and not text)
        names = len(found) > 1 and NAMES.match(text)
        if (before.startswith(" ") and text and not indented) or names:
            found.append("")
        if is_code:
            found.append(text)
        elif names:
            found.append(f"``{names[1]}``{line_of(names[2] or '')}: {line_of(text[names.end() :])}")
        else:
            found.append(line_of(text.strip()))
        before = text
    return found


def paragraphs(app, what, name, obj, options, lines: list[str]) -> None:
    """Autodoc's hook: rewrite `lines` in place."""
    lines[:] = rewritten(lines)


def fields(app, what, name, obj, options, signature, returns):
    """Autodoc's hook: a pydantic model is called with its fields; their constraints are in its docstring."""
    if what != "class" or not hasattr(obj, "model_fields"):
        return None
    shown = [n if field.is_required() else f"{n}={field.default!r}" for n, field in obj.model_fields.items()]
    return f"(*, {', '.join(shown)})", None


def skipped(app, what, name, obj, skip, options) -> bool | None:
    """Autodoc's hook: what pydantic adds to a class is not documented."""
    return True if name == "model_config" else None


def setup(app) -> dict[str, bool]:
    """Register the hooks."""
    app.connect("autodoc-process-docstring", paragraphs)
    app.connect("autodoc-process-signature", fields)
    app.connect("autodoc-skip-member", skipped)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
