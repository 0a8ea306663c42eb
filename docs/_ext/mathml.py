"""Formulas as MathML, which browsers draw themselves: no script, no font, no network."""

from xml.etree import ElementTree

from docutils import nodes
from latex2mathml.converter import convert

MATHML = "http://www.w3.org/1998/Math/MathML"
ElementTree.register_namespace("", MATHML)


def displayed(formula: str) -> str:
    """A formula of its own as MathML: what is under min and max stands below them, and arg is a word."""
    tree = ElementTree.fromstring(convert(formula.replace(r"\arg", r"\text{arg}\,"), display="block"))
    for place in tree.iter(f"{{{MATHML}}}msub"):
        if place[0].text in ("min", "max"):
            place.tag = f"{{{MATHML}}}munder"
    return ElementTree.tostring(tree, encoding="unicode")


def inline(translator, node) -> None:
    """A formula in a line of text."""
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def block(translator, node) -> None:
    """A formula of its own."""
    translator.body.append(f'<div class="math">{displayed(node.astext())}</div>')
    raise nodes.SkipNode


def setup(app) -> dict[str, bool]:
    """Register the renderer."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
