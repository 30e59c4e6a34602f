"""What an image holds, and the grammar of expressions that name parts of it.

The grammar writes only what is true of the masks it is given: an extreme needs a clear margin, a colour or a size must
single its object out, a relation must have one nearest partner. So it stays true after any flip, turn
or crop, as long as it is asked after them.

    expression  = plain | position | plural | colour | size | relation | absent
    plain       = "the airplane", "the only airplane"                       one object of its class
    position    = "the airplane on the far left", "the top right ship"      several of its class, one clear extreme
    plural      = "all ships", "the ships on the left"                      every object, or every one in a half
    colour      = "the red vehicle", "all white vehicles"                   a colour that only these have
    size        = "the largest storage tank", "the smallest building"       a clear largest or smallest
    relation    = "the airplane nearest the building"                       a clear nearest to an only one
    absent      = a class that is not there                                 nothing to find
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

SYNONYMS: dict[str, tuple[str, ...]] = {
    "airplane": ("airplane", "plane", "aircraft", "aeroplane"),
    "ship": ("ship", "boat", "vessel"),
    "storage tank": ("storage tank", "tank", "oil tank"),
    "baseball diamond": ("baseball diamond", "baseball field"),
    "tennis court": ("tennis court",),
    "basketball court": ("basketball court",),
    "ground track field": ("ground track field", "running track", "athletics track"),
    "harbor": ("harbor", "harbour", "pier", "dock"),
    "bridge": ("bridge",),
    "vehicle": ("vehicle", "car"),
    "building": ("building", "house"),
    "road": ("road", "street"),
    "field": ("field", "crop field"),
    "lake": ("lake", "pond"),
    "river": ("river",),
    "swimming pool": ("swimming pool", "pool"),
}
"""Words for each class; the first is its name and is used most."""

SHORTHAND: dict[str, tuple[str, ...]] = {
    "airplane": ("acft",),
    "ship": ("vsl",),
    "storage tank": ("tk",),
    "baseball diamond": ("bbd",),
    "tennis court": ("tct",),
    "basketball court": ("bct",),
    "ground track field": ("gtf",),
    "harbor": ("hbr",),
    "bridge": ("brg",),
    "vehicle": ("veh",),
    "building": ("bldg",),
    "road": ("rd",),
    "field": ("fld",),
    "lake": ("lk",),
    "river": ("rv",),
    "swimming pool": ("swp",),
}
"""The same classes as an office may call them among its own people; no weights that ship were taught any of it."""

_PLURALS = {"aircraft": "aircraft"}

STRETCHED = frozenset({"road", "river"})
"""Classes without a useful centre or extent: what is seen of them is a matter of what lies across."""


@dataclass(frozen=True)
class Extent:
    """Where an object lies in its image, and how much of it is seen."""

    x: float
    """Centre in [0, 1], from the left."""
    y: float
    """Centre in [0, 1], from the top."""
    area: int
    """In pixels."""


@dataclass(frozen=True)
class Thing:
    """One object in an image: what an expression can talk about."""

    category: str
    """Its class in plain words and singular: "storage tank"."""
    mask: np.ndarray
    """(h, w) bool, the visible pixels only."""
    colour: str | None = None
    """A plain colour word where the object has one colour, else None."""

    @cached_property
    def extent(self) -> Extent:
        """Measured once; the mask must not be empty."""
        moments = cv2.moments(np.ascontiguousarray(self.mask).view(np.uint8), binaryImage=True)
        area, (h, w) = moments["m00"], self.mask.shape
        return Extent(x=(moments["m10"] / area + 0.5) / w, y=(moments["m01"] / area + 0.5) / h, area=round(area))


@dataclass(frozen=True)
class Referral:
    """An expression and the things it refers to."""

    expression: str
    indices: tuple[int, ...]
    """Which things, by position in the sequence given; empty where nothing fits the words."""
    kind: str
    """The rule of the grammar."""
    meaning: tuple[str, ...]
    """What any wording of it says: the class, and after it what singles out: ("ship", "nearest", "bridge")."""


def plural(noun: str) -> str:
    """Form the plural of a class word.

    Args:
        noun: Singular, plain English.

    Returns:
        Its plural.

    >>> plural("storage tank"), plural("aircraft"), plural("bridge")
    ('storage tanks', 'aircraft', 'bridges')
    """
    return _PLURALS.get(noun, noun + "s")


class Grammar:
    """Every expression that is true of one image's things.

    Args:
        things: What the image holds; masks of one size.
        rng: Chooses words and order.
        vocabulary: Classes that were looked for in the image; only these can be called absent.
        names: Words for each class, the first used most.
    """

    MARGIN = 0.06
    """How far an extreme must stand clear of the next, as a share of the image's side."""

    LARGER = 1.4
    """How many times the area of the next the largest must have."""

    def __init__(
        self,
        things: Sequence[Thing],
        rng: np.random.Generator,
        vocabulary: Sequence[str] = tuple(SYNONYMS),
        names: Mapping[str, Sequence[str]] = SYNONYMS,
    ) -> None:
        self._things = things
        self._names = names
        self._vocabulary = vocabulary
        self._rng = rng
        self._extents = [thing.extent for thing in things]
        self._members: dict[str, list[int]] = defaultdict(list)
        for index, thing in enumerate(things):
            self._members[thing.category].append(index)

    def referrals(self, count: int, absent_share: float = 0.08) -> list[Referral]:
        """Choose expressions, each kind as likely as the next where it applies.

        Args:
            count: At most so many.
            absent_share: Probability that one names a class that is not there.

        Returns:
            Different expressions, fewer than `count` where the image has no more to say.
        """
        by_kind: dict[str, list[Referral]] = defaultdict(list)
        for referral in self.all():
            by_kind[referral.kind].append(referral)
        chosen: list[Referral] = []
        while len(chosen) < count and (by_kind or not chosen):
            if not by_kind or self._rng.random() < absent_share:
                chosen.append(self.absent())
                continue
            kind = self._pick(sorted(by_kind))
            options = by_kind[kind]
            referral = options.pop(int(self._rng.integers(len(options))))
            if not options:
                del by_kind[kind]
            chosen.append(referral)
        return chosen

    def all(self) -> list[Referral]:
        """List what can be said, one wording for each.

        Returns:
            Referrals to existing things only.
        """
        said: list[Referral] = []
        for category, members in self._members.items():
            said += self._plain(category, members)
            said += self._position(category, members)
            said += self._plural(category, members)
            said += self._colour(category, members)
            said += self._size(category, members)
            said += self._relation(category, members)
        return said

    def absent(self) -> Referral:
        """Name a class that is not there.

        Returns:
            A referral to nothing.
        """
        category = self._pick([name for name in self._vocabulary if name not in self._members] or ["airport terminal"])
        noun = self._noun(category)
        options = ((f"the {noun}",), (f"all {plural(noun)}",), (f"the largest {noun}", "largest"))
        wording, *rest = (*options, (f"the {noun} on the left", "left"))[int(self._rng.integers(4))]
        return Referral(wording, (), "absent", (category, *rest))

    def _pick(self, options: Sequence[str]) -> str:
        return options[int(self._rng.integers(len(options)))]

    def _noun(self, category: str) -> str:
        words = self._names.get(category, (category,))
        return words[0] if len(words) == 1 or self._rng.random() < 0.6 else self._pick(words[1:])

    def _plain(self, category: str, members: list[int]) -> list[Referral]:
        if len(members) != 1:
            return []
        noun = self._noun(category)
        wording = self._pick([f"the {noun}", f"the {noun}", noun, f"the only {noun}", f"the {noun} in the image"])
        return [Referral(wording, (members[0],), "plain", (category,))]

    def _position(self, category: str, members: list[int]) -> list[Referral]:
        if not 2 <= len(members) <= 12 or category in STRETCHED:
            return []
        said = []
        noun = self._noun(category)
        left = {i: self._extents[i].x for i in members}
        top = {i: self._extents[i].y for i in members}
        right, bottom = {i: -x for i, x in left.items()}, {i: -y for i, y in top.items()}
        for side, words, distance in (
            ("left", ("leftmost {}", "{} on the far left", "{} on the left", "left {}"), left),
            ("right", ("rightmost {}", "{} on the far right", "{} on the right", "right {}"), right),
            ("top", ("topmost {}", "{} at the top", "top {}", "uppermost {}"), top),
            ("bottom", ("bottommost {}", "{} at the bottom", "bottom {}", "lowest {}"), bottom),
        ):
            winner = self._clear_least(distance)
            if winner is not None:
                wording = "the " + self._pick(words).format(noun)
                said.append(Referral(wording, (winner,), "position", (category, side)))
        for name, x, y in (
            ("top left", 0, 0),
            ("top right", 1, 0),
            ("bottom left", 0, 1),
            ("bottom right", 1, 1),
            ("centre", 0.5, 0.5),
        ):
            near = {i: float(np.hypot(self._extents[i].x - x, self._extents[i].y - y)) for i in members}
            winner = self._clear_least(near, margin=2 * self.MARGIN)
            if winner is None or near[winner] > (0.2 if name == "centre" else 0.42):
                continue
            if name == "centre":
                wording = self._pick([f"the {noun} in the centre", f"the {noun} in the middle", f"the central {noun}"])
            else:
                wording = self._pick([
                    f"the {name} {noun}",
                    f"the {noun} in the {name} corner",
                    f"the {noun} at the {name}",
                ])
            said.append(Referral(wording, (winner,), "position", (category, name)))
        return said

    def _plural(self, category: str, members: list[int]) -> list[Referral]:
        if len(members) < 2:
            return []
        nouns = plural(self._noun(category))
        wording = self._pick([
            f"all {nouns}",
            f"all {nouns}",
            f"the {nouns}",
            nouns,
            f"all the {nouns}",
            f"every {self._noun(category)}",
        ])
        said = [Referral(wording, tuple(members), "plural", (category,))]
        for side, inside in (
            ("on the left", [i for i in members if self._extents[i].x < 0.5]),
            ("on the right", [i for i in members if self._extents[i].x >= 0.5]),
            ("at the top", [i for i in members if self._extents[i].y < 0.5]),
            ("at the bottom", [i for i in members if self._extents[i].y >= 0.5]),
        ):
            axis = "x" if side.startswith("on") else "y"
            undecided = any(abs(getattr(self._extents[i], axis) - 0.5) < self.MARGIN for i in members)
            if 2 <= len(inside) < len(members) and not undecided:
                wording = f"{self._pick(['all ', 'the '])}{nouns} {side}"
                said.append(Referral(wording, tuple(inside), "plural", (category, "all " + side)))
        return said

    def _colour(self, category: str, members: list[int]) -> list[Referral]:
        colours = {self._things[i].colour for i in members}
        if len(members) < 2 or None in colours or len(colours) < 2:
            return []
        said = []
        for colour in sorted(c for c in colours if c is not None):
            these = tuple(i for i in members if self._things[i].colour == colour)
            noun = self._noun(category)
            wording = (
                f"the {colour} {noun}" if len(these) == 1 else f"{self._pick(['all ', 'the '])}{colour} {plural(noun)}"
            )
            said.append(Referral(wording, these, "colour", (category, colour)))
        return said

    def _size(self, category: str, members: list[int]) -> list[Referral]:
        if not 2 <= len(members) <= 12 or category in STRETCHED:
            return []
        noun = self._noun(category)
        ranked = sorted(members, key=lambda i: self._extents[i].area)
        said = []
        if self._extents[ranked[-1]].area > self.LARGER * self._extents[ranked[-2]].area:
            wording = f"the {self._pick(['largest', 'biggest'])} {noun}"
            said.append(Referral(wording, (ranked[-1],), "size", (category, "largest")))
        if self.LARGER * self._extents[ranked[0]].area < self._extents[ranked[1]].area:
            wording = f"the {self._pick(['smallest', 'tiniest'])} {noun}"
            said.append(Referral(wording, (ranked[0],), "size", (category, "smallest")))
        return said

    def _relation(self, category: str, members: list[int]) -> list[Referral]:
        if not 2 <= len(members) <= 12 or category in STRETCHED:
            return []
        said = []
        for other, landmarks in self._members.items():
            if other == category or len(landmarks) != 1 or other in STRETCHED:
                continue
            mark = self._extents[landmarks[0]]
            near = {i: float(np.hypot(self._extents[i].x - mark.x, self._extents[i].y - mark.y)) for i in members}
            winner = self._clear_least(near, margin=2 * self.MARGIN)
            if winner is not None:
                words = self._pick(["nearest the", "closest to the", "nearest to the", "next to the"])
                wording = f"the {self._noun(category)} {words} {self._noun(other)}"
                said.append(Referral(wording, (winner,), "relation", (category, "nearest", other)))
        return said

    def _clear_least(self, distance: dict[int, float], margin: float = MARGIN) -> int | None:
        first, second = sorted(distance, key=distance.__getitem__)[:2]
        return first if distance[second] - distance[first] >= margin else None
