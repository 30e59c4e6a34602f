"""Say the same otherwise: in other words, or of the same image in a mirror."""

from __future__ import annotations

import re
from typing import Literal

from rsrefseg.expressions import SYNONYMS, plural

Mirror = Literal["left-right", "top-bottom"]

_TURNED: dict[Mirror, tuple[tuple[str, str], ...]] = {
    "left-right": (
        ("left", "right"),
        ("leftmost", "rightmost"),
        ("west", "east"),
        ("western", "eastern"),
        ("northwest", "northeast"),
        ("southwest", "southeast"),
    ),
    "top-bottom": (
        ("top", "bottom"),
        ("topmost", "bottommost"),
        ("uppermost", "lowest"),
        ("upper", "lower"),
        ("above", "below"),
        ("north", "south"),
        ("northern", "southern"),
        ("northwest", "southwest"),
        ("northeast", "southeast"),
    ),
}
_MIRRORS = {mirror: {**dict(pairs), **{b: a for a, b in pairs}} for mirror, pairs in _TURNED.items()}

_SAME = (("largest", "biggest"), ("smallest", "tiniest"), ("nearest", "closest to"))

_BEFORE = frozenset([
    "the",
    "all",
    "every",
    "only",
    "left",
    "right",
    "top",
    "bottom",
    "central",
    "leftmost",
    "rightmost",
    "topmost",
    "bottommost",
    "uppermost",
    "lowest",
    "largest",
    "biggest",
    "smallest",
    "tiniest",
    "red",
    "orange",
    "yellow",
    "green",
    "blue",
    "white",
    "black",
    "grey",
    "gray",
    "brown",
    "purple",
    "dark",
    "light",
])
"""A noun after one of these is the head of its phrase, which that of "the police car" is not."""

_AFTER = frozenset({
    *("on", "at", "in", "near", "nearest", "next", "closest", "by", "beside", "of", "to", "with", "that", "and"),
})
"""Before one of these too, which that of "the car park" is not."""

_NOUNS = {
    form(one): [form(other) for other in words if other != one]
    for form in (str, plural)
    for words in SYNONYMS.values()
    for one in words
}
"""Words for each class by each of them, singular and plural."""


def mirrored(expression: str, mirror: Mirror) -> str:
    """Say of an image in a mirror what an expression says of the image.

    Args:
        expression: Words.
        mirror: Which sides change places.

    Returns:
        The words, in lower case.

    >>> mirrored("the top left ship", "left-right"), mirrored("the northern-most pier", "top-bottom")
    ('the top right ship', 'the southern-most pier')
    """
    sides = _MIRRORS[mirror]
    return re.sub(r"[a-z]+", lambda word: sides.get(word[0], word[0]), expression.lower())


def rewordings(expression: str) -> list[str]:
    """Find other wordings of an expression's meaning, as far as that is safe in words that anybody may write.

    Args:
        expression: Words.

    Returns:
        Other wordings in lower case, the farthest first; none may be known.

    >>> rewordings("the largest ship"), rewordings("the police car")
    (['the largest boat', 'the largest vessel', 'the biggest ship', 'largest ship'], ['police car'])
    """
    words = " ".join(expression.lower().split())
    found = _nouns(words)
    for pair in _SAME:
        for one, other in (pair, pair[::-1]):
            found.append(re.sub(rf"\b{one}\b", other, words))
    if words.startswith("all "):
        rest = words.removeprefix("all ").removeprefix("the ")
        found += [f"the {rest}", f"all the {rest}"]
    else:
        found.append(words.removeprefix("the ") if words.startswith("the ") else f"the {words}")
    return [one for one in dict.fromkeys(found) if one and one != words]


def _nouns(words: str) -> list[str]:
    # The first class that is named, by each other of its words.
    for one, others in _NOUNS.items():
        for place in re.finditer(rf"\b{one}\b", words):
            before, after = words[: place.start()].split(), words[place.end() :].split()
            if (not before or before[-1] in _BEFORE) and (not after or after[0] in _AFTER):
                return [words[: place.start()] + other + words[place.end() :] for other in others]
    return []
