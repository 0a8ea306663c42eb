"""How words and frames are written down: behind a bar stands what training never shows.

Synonyms are separated by commas, concepts by line. Only dev and test draw from behind the bar, so a model has to
know those words from pretraining.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Choices:
    """Alternatives: those that training may use, and all of them."""

    seen: tuple[str, ...]
    every: tuple[str, ...]


def choices(text: str, separator: str = ",") -> Choices:
    """Choices written as `a, b | c`: a and b are seen in training, c is not."""
    seen, _, held_out = text.partition("|")
    split = [tuple(word.strip() for word in part.split(separator) if word.strip()) for part in (seen, held_out)]
    return Choices(split[0], split[0] + split[1])


def concepts(text: str) -> tuple[Choices, ...]:
    """One Choices a line."""
    return tuple(choices(line) for line in text.strip().splitlines())


def frames(text: str) -> Choices:
    """Choices of sentence frames, one a line; those below a line with a bar are held out."""
    return choices(text, "\n")
