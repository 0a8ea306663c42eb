"""The generated corpus: sentiment, paraphrase and similarity that need composition and synonyms, not word counts.

Sentiment: film reviews whose clauses have a value that negation, intensity, wishes and contrast change.
Paraphrase: questions, with role swaps, antonyms and near-miss entities for negatives.
Similarity: scenes described twice, each difference between them costing points.
A part of the wording never occurs in training (`mtlib.data.lexicon`). Labels carry noise, so that a perfect model
stays below 1.
"""

import math
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mtlib.data.leakage import key
from mtlib.data.lexicon import questions, scenes, sentiment
from mtlib.data.lexicon.notation import Choices
from mtlib.data.tsv import make_frame
from mtlib.randomness import generator
from mtlib.tasks import QQP, SST, STS, Task

SEED = 0
SIZES = {
    "sst": {"train": 1200, "dev": 400, "test": 400},
    "qqp": {"train": 6000, "dev": 400, "test": 400},
    "sts": {"train": 900, "dev": 400, "test": 400},
}
NOISE = {"sst": 0.12, "qqp": 0.06, "sts": 0.6}
"""Share of sentiment labels moved to a neighbour, share of paraphrase labels flipped, deviation of similarities."""

BALANCE = (0.14, 0.25, 0.19, 0.26, 0.16)
"""Shares of the sentiment classes, close to those of the Stanford Sentiment Treebank."""

DUPLICATES = 0.4
CUTS = (-1.3, -0.4, 0.4, 1.3)
"""Values that separate the five sentiment classes."""

SLOT = re.compile(r"\{(\w+?)\d?\}")
_TASKS = {task.name: task for task in (SST, QQP, STS)}
TASKS = tuple(_TASKS)


def load(task: Task) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Frames of `task` by split name, and no notes."""
    tables = generate(task.name)
    return {split: table.drop(columns="clean") for split, table in tables.items()}, []


@cache
def generate(task: str, seed: int = SEED) -> dict[str, pd.DataFrame]:
    """Tables of "sst", "qqp" or "sts" by split: id, texts, label, and `clean`, the label before noise.

    No text (pair order ignored) occurs twice, within a split or across splits. A pure function of its arguments.
    """
    writers: dict[str, Callable] = {"sst": _review, "qqp": _questions, "sts": _scenes}
    write, taken, tables = writers[task], set(), {}
    for split, size in SIZES[task].items():
        draw = _Draw(seed, f"sample/{task}/{split}", everything=split != "train")
        rows: list[tuple] = []
        while len(rows) < size:
            texts, clean = write(draw, _target(task, len(rows)))
            if (name := key(*texts)) not in taken and len(set(texts)) == len(texts):
                taken.add(name)
                rows.append((f"{task}-{split}-{len(rows)}", *texts, _noisy(task, clean, draw), clean))
        names = ["id", *["text_a", "text_b"][: len(rows[0]) - 3], "label", "clean"]
        columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
        clean = columns.pop("clean")
        tables[split] = make_frame(_TASKS[task], columns).assign(clean=clean)
    return tables


def ceiling(split: str = "dev", seed: int = SEED) -> dict[str, float]:
    """Score of a perfect model by task: the labels before noise, judged by the labels with it."""
    tables = {name: generate(name, seed)[split] for name in TASKS}
    return {name: _TASKS[name].score(table["label"], table["clean"]) for name, table in tables.items()}


class _Draw:
    """Random choices from a named stream; `everything` adds the words that training never shows."""

    def __init__(self, seed: int, name: str, everything: bool):
        self.rng, self.everything = generator(seed, name), everything
        self.buffer: list[float] = []

    def uniform(self) -> float:
        """A number in [0, 1)."""
        if not self.buffer:
            self.buffer = self.rng.random(4096).tolist()
        return self.buffer.pop()

    def one(self, options: Sequence[Any] | Choices) -> Any:
        """One of a sequence, or of the words that this split may use."""
        if isinstance(options, Choices):
            options = options.every if self.everything else options.seen
        return options[int(self.uniform() * len(options))]

    def other(self, options: Sequence[Any] | Choices, *taken: Any) -> Any:
        """One of `options` that is none of `taken`."""
        while (option := self.one(options)) in taken:
            pass
        return option

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self.uniform() < probability

    def normal(self) -> float:
        """A standard normal number."""
        return math.sqrt(-2 * math.log(1 - self.uniform())) * math.cos(2 * math.pi * self.uniform())


def _target(task: str, number: int) -> int | None:
    """The label before noise of a split's example `number`: by the golden ratio, so that every stretch is balanced."""
    place = number * (math.sqrt(5) - 1) / 2 % 1
    if task == "sst":
        return int(np.searchsorted(np.cumsum(BALANCE)[:-1], place, side="right"))
    return int(place < DUPLICATES) if task == "qqp" else None


def _noisy(task: str, clean: float, draw: _Draw) -> float:
    if task == "sts":
        return round(min(max(clean + NOISE[task] * draw.normal(), 0.0), 5.0) * 5) / 5
    if not draw.chance(NOISE[task]):
        return clean
    if task == "qqp":
        return 1 - clean
    return min(max(clean + (1 if draw.chance(0.5) else -1), 1 if clean == 0 else 0), 3 if clean == 4 else 4)


def _sentence(text: str) -> str:
    text = re.sub(r"\ba (?=[aeiou])", "an ", text)
    text = re.sub(r"(^|[.] )([a-z])", lambda match: match[1] + match[2].upper(), text)
    return text if text[-1] in ".?" else text + "."


def _review(draw: _Draw, target: int) -> tuple[tuple[str], int]:
    """A review of class `target`."""
    while True:
        text, value = _opinion(draw)
        if int(np.searchsorted(CUTS, value)) == target:
            return (_sentence(text),), target


def _opinion(draw: _Draw) -> tuple[str, float]:
    """One clause or two, and their value in [-2, 2]; in a contrast the main clause weighs 0.75."""
    (first, a), (second, b) = _clause(draw), _clause(draw)
    way = draw.uniform()
    if way < 0.35:
        return first, a
    if way < 0.5:
        return draw.one(sentiment.EQUAL).format(first=first, second=second), (a + b) / 2
    if way < 0.8:
        return draw.one(sentiment.SECOND_WINS).format(first=first, second=second), 0.25 * a + 0.75 * b
    return draw.one(sentiment.FIRST_WINS).format(first=first, second=second), 0.75 * a + 0.25 * b


def _clause(draw: _Draw) -> tuple[str, float]:
    """A clause and its value: the adjective's, scaled by an adverb, turned by a negation, a wish or a surprise."""
    way = draw.uniform()
    if way < 0.2:
        value = draw.one(tuple(sentiment.IDIOMS))
        return draw.one(sentiment.IDIOMS[value]), value
    value = draw.one(tuple(sentiment.ADJECTIVES))
    words = {"judged": draw.one(sentiment.JUDGED), "adjective": draw.one(sentiment.ADJECTIVES[value])}
    if way < 0.45:
        return draw.one(sentiment.NEGATED).format(**words), {2.0: -0.5, 1.0: -1.0, -1.0: 0.8, -2.0: 0.2}[value]
    if way < 0.53:
        words["adjective"] = draw.one(sentiment.ADJECTIVES[abs(value)])
        return draw.one(sentiment.WISHED).format(**words), -1.0
    if way < 0.63:
        words["other"] = draw.one(sentiment.ADJECTIVES[-value])
        return draw.one(sentiment.REVERSED).format(**words), value
    if way < 0.8:
        adverbs, factor = draw.one(((sentiment.STRONGER, 1.5), (sentiment.WEAKER, 0.6)))
        words["adjective"] = f"{draw.one(adverbs)} {words['adjective']}"
        value = min(max(value * factor, -2.0), 2.0)
    return draw.one(sentiment.PLAIN).format(**words), value


def _questions(draw: _Draw, target: int) -> tuple[tuple[str, str], int]:
    """Two questions that ask the same (`target` 1) or not (0)."""
    family = draw.one(questions.FAMILIES)
    meaning = draw.one(family)
    slots = _slots(draw, meaning)
    first = _question(draw, meaning, slots)
    if target:
        return (first, _question(draw, meaning, slots)), 1
    way = draw.uniform()
    if way < 0.35:
        return (first, _question(draw, draw.other(family, meaning), slots)), 0
    if way < 0.6:
        changed = draw.one(tuple(slots))
        kind = changed.rstrip("12")
        return (first, _question(draw, meaning, slots | {changed: _concept(draw, kind, slots.values())})), 0
    meaning = draw.one(draw.other(questions.FAMILIES, family))
    shared = {name: value for name, value in slots.items() if draw.chance(0.7)}
    return (first, _question(draw, meaning, _slots(draw, meaning) | shared)), 0


def _slots(draw: _Draw, meaning: Choices) -> dict[str, str | Choices]:
    """A different entity or concept for every slot of a meaning."""
    slots: dict[str, str | Choices] = {}
    for name in sorted(set(re.findall(r"\{(\w+)\}", " ".join(meaning.every)))):
        slots[name] = _concept(draw, name.rstrip("12"), slots.values())
    return slots


def _concept(draw: _Draw, kind: str, taken: Any) -> str | Choices:
    return draw.other(questions.SYNONYMS.get(kind) or questions.ENTITIES[kind], *taken)


def _question(draw: _Draw, meaning: Choices, slots: dict[str, str | Choices]) -> str:
    words = {name: draw.one(value) if isinstance(value, Choices) else value for name, value in slots.items()}
    return _sentence(draw.one(meaning).format(**words))


class _Scene(NamedTuple):
    """Who does what to whom or what, and where. Words are concepts; looks and place may be None."""

    actor: Choices
    look: Choices | None
    verb: Choices
    object: Choices
    place: Choices | None
    denied: bool = False


def _scenes(draw: _Draw, target: None) -> tuple[tuple[str, str], float]:
    """Two descriptions and how similar they are, 0 to 5."""
    scene = _scene(draw)
    if draw.chance(0.1):
        return (_describe(draw, scene), _describe(draw, _scene(draw))), 0.2
    other, score = scene, 5.0
    for change in sorted({draw.one(_CHANGES) for _ in range(draw.one((0, 1, 1, 2, 3, 4)))}, key=_CHANGES.index):
        other, cost = change(draw, other)
        score -= cost
    return (_describe(draw, scene), _describe(draw, other)), max(score, 0.4)


def _actor(draw: _Draw) -> Choices:
    return draw.one(draw.one(tuple(scenes.ACTORS.values())))


def _scene(draw: _Draw) -> _Scene:
    actor = _actor(draw)
    if draw.chance(0.55):
        verb, thing = draw.one(scenes.MUTUAL), draw.other(sum(scenes.ACTORS.values(), ()), actor)
    else:
        actor = draw.one(scenes.ACTORS["people"])
        verb, things = draw.one(scenes.HANDLED)
        thing = draw.one(things)
    look = draw.one(scenes.LOOKS) if draw.chance(0.5) else None
    place = draw.one(scenes.PLACES) if draw.chance(0.6) else None
    return _Scene(actor, look, verb, thing, place)


def _swap_roles(draw: _Draw, scene: _Scene) -> tuple[_Scene, float]:
    if scene.verb not in scenes.MUTUAL:
        return _change_actor(draw, scene)
    return scene._replace(actor=scene.object, object=scene.actor), 1.8


def _change_actor(draw: _Draw, scene: _Scene) -> tuple[_Scene, float]:
    siblings = next(group for group in scenes.ACTORS.values() if scene.actor in group)
    return scene._replace(actor=draw.other(siblings, scene.actor, scene.object)), 1.2


def _change_action(draw: _Draw, scene: _Scene) -> tuple[_Scene, float]:
    if scene.verb in scenes.MUTUAL:
        return scene._replace(verb=draw.other(scenes.MUTUAL, scene.verb)), 1.6
    verb, things = draw.one([pair for pair in scenes.HANDLED if pair[0] != scene.verb])
    return scene._replace(verb=verb, object=draw.one(things)), 2.6


def _change_object(draw: _Draw, scene: _Scene) -> tuple[_Scene, float]:
    groups = [*scenes.ACTORS.values(), *(things for _, things in scenes.HANDLED)]
    siblings = next(group for group in groups if scene.object in group)
    return scene._replace(object=draw.other(siblings, scene.object, scene.actor)), 1.2


def _change_place(draw: _Draw, scene: _Scene) -> tuple[_Scene, float]:
    if scene.place is None or draw.chance(0.6):
        return scene._replace(place=draw.other(scenes.PLACES, scene.place)), 0.8 if scene.place else 0.4
    return scene._replace(place=None), 0.4


def _change_look(draw: _Draw, scene: _Scene) -> tuple[_Scene, float]:
    if scene.look is None or draw.chance(0.6):
        return scene._replace(look=draw.other(scenes.LOOKS, scene.look)), 0.8 if scene.look else 0.4
    return scene._replace(look=None), 0.4


def _deny(draw: _Draw, scene: _Scene) -> tuple[_Scene, float]:
    return scene._replace(denied=True), 2.0


_CHANGES = (_swap_roles, _change_action, _change_object, _change_actor, _change_place, _change_look, _deny)


def _describe(draw: _Draw, scene: _Scene) -> str:
    look = f"{draw.one(scene.look)} " if scene.look else ""
    doing, _, done = draw.one(scene.verb).partition("/")
    place = draw.one(scene.place) if scene.place else ""
    words = {"actor": f"a {look}{draw.one(scene.actor)}", "object": f"a {draw.one(scene.object)}"}
    words |= {"doing": doing, "done": done, "place": place and f" {place}", "ahead": place and f"{place}, "}
    return _sentence(draw.one(scenes.DENIALS if scene.denied else scenes.SCENES).format(**words))
