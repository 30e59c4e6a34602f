"""Everything from nothing: what a small model with untrained towers is taught, from labelled images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from rsrefseg.datasets import Batch, LabelledImage, ReferringBatches
from rsrefseg.datasets.referring import CLASSES, WHOLE, class_words, misspelt
from rsrefseg.encoders import FactorisedEmbedding
from rsrefseg.evaluate import Evaluation, evaluate
from rsrefseg.expressions import Grammar, Thing
from rsrefseg.features import TextFeatures
from rsrefseg.lessons.wishes import wishes_of
from rsrefseg.losses import alignment_loss, choosing_loss, class_cells, drawing_loss, finding_loss, traits_loss
from rsrefseg.model import RSRefSeg
from rsrefseg.places import said_or_alike
from rsrefseg.predictor import Predictor
from rsrefseg.scenes.palette import COLOURS
from rsrefseg.tokenizer import Tokenizer


@dataclass(frozen=True)
class Phase:
    """A stretch of training at one image size: small cuts first, since they teach most for their cost."""

    steps: int
    size: int
    """Side of the cuts, in pixels; a multiple of 64."""
    zoom: tuple[float, float]
    """Smallest and largest share of a scene's side that a cut takes."""
    images: int
    """Images in a batch."""
    expressions: int
    """Most expressions about one image."""
    drawn: int
    """To how many of them a mask is drawn; with none only the towers and their match are trained, at half the cost."""


@dataclass(frozen=True)
class Curriculum:
    """What is taught when, and what each part of the loss weighs."""

    phases: tuple[Phase, ...] = (
        Phase(steps=2500, size=256, zoom=(0.3, 0.75), images=12, expressions=8, drawn=0),
        Phase(steps=6500, size=256, zoom=(0.3, 0.8), images=12, expressions=8, drawn=3),
        Phase(steps=1500, size=448, zoom=(0.45, 0.9), images=6, expressions=20, drawn=4),
        Phase(steps=1500, size=768, zoom=(0.75, 1.0), images=3, expressions=20, drawn=5),
    )
    word_steps: int = 1200
    """Steps of the text tower alone, before the first phase; at 0 the words stay as they are."""
    word_layouts: int = 600
    """Imagined layouts that the words are about."""
    alignment: float = 2.0
    finest: float = 2.0
    traits: float = 1.0
    finding: float = 2.0
    choosing: float = 1.0
    bce: float = 5.0
    dice: float = 2.0
    iou: float = 0.5

    @property
    def steps(self) -> int:
        """Add the phases up."""
        return sum(phase.steps for phase in self.phases)

    def at(self, pace: float) -> Curriculum:
        """Hurry, or take more time.

        Args:
            pace: Share of all steps.

        Returns:
            The same phases, longer or shorter.
        """
        phases = tuple(replace(phase, steps=max(1, round(phase.steps * pace))) for phase in self.phases)
        return replace(self, phases=phases, word_steps=max(min(1, self.word_steps), round(self.word_steps * pace)))

    def wide(self, times: int) -> Curriculum:
        """Learn from more images in each step, as a GPU can.

        Args:
            times: As many images in a batch.

        Returns:
            The same phases otherwise.
        """
        return replace(self, phases=tuple(replace(phase, images=times * phase.images) for phase in self.phases))

    def phase_of(self, step: int) -> Phase:
        """Look up what a step belongs to.

        Args:
            step: From 0, below `steps`.

        Returns:
            Its phase.
        """
        ends = accumulate(phase.steps for phase in self.phases)
        return next(phase for phase, end in zip(self.phases, ends, strict=True) if step < end)

    def going_on(self) -> Curriculum:
        """Leave out what a model knows that was taught all this before.

        Returns:
            The phases in which masks are drawn at a size near that of use, with the words as they are.
        """
        last = max(phase.size for phase in self.phases)
        phases = tuple(phase for phase in self.phases if phase.drawn and 2 * phase.size > last)
        return replace(self, phases=phases, word_steps=0)


@dataclass(frozen=True)
class _Steps(Dataset[Batch]):
    """What each step of a curriculum learns from; other processes get a copy."""

    curriculum: Curriculum
    sources: Sequence[tuple[Sequence[LabelledImage], float]]
    tokenizer: Tokenizer
    seed: int

    def __getitem__(self, step: int) -> Batch:
        phase = self.curriculum.phase_of(step)
        batches = ReferringBatches(
            self.sources, self.tokenizer, self.seed, phase.images, phase.expressions, phase.drawn
        )
        return batches.batch(step, phase.size, phase.zoom)


def _begin_worker(_number: int) -> None:
    cv2.setNumThreads(1)  # as torch does by itself: the others need the processors too


class FromScratch:
    """Teach the towers to agree on classes, to find what expressions single out, and to draw it.

    Args:
        curriculum: What is taught when.
        sources: Labelled square images with each source's share of a batch.
        held_out: Images to score on, by name.
        positions: Longest expression in tokens.
        seed: Of every choice.
        workers: Processes that prepare batches while this one learns; with 0 it prepares them itself.
    """

    def __init__(
        self,
        curriculum: Curriculum,
        sources: Sequence[tuple[Sequence[LabelledImage], float]],
        held_out: Mapping[str, Sequence[LabelledImage]],
        positions: int,
        seed: int,
        workers: int = 0,
    ) -> None:
        self._curriculum = curriculum
        self._sources = sources
        self._held_out = held_out
        self._tokenizer = Tokenizer(positions)
        self._seed = seed
        self._workers = workers
        self._steps = _Steps(curriculum, sources, self._tokenizer, seed)

    def begin(self, model: RSRefSeg) -> None:
        """Teach the text tower what expressions mean, before any image: the class, and what singles out.

        Each class and each distinction gets a direction of its own, and an expression the sum of its own. Without it
        the first thing to be learnt is that most cells match nothing: all words move together, away from the images,
        and take thousands of steps to part again.

        Args:
            model: Changed in place; the classes that it tells apart already keep their directions.
        """
        if self._curriculum.word_steps:
            device = next(model.parameters()).device
            self._teach_words(model.cpu())  # a minute's work of one small tower
            model.to(device)

    def _teach_words(self, model: RSRefSeg) -> None:
        steps = self._curriculum.word_steps
        rng = np.random.default_rng(self._seed)
        corpus = [(self._tokenizer(words), meaning) for words, meaning in self._said(rng)]
        tower = model.text_encoder.train()
        roles = sorted({(place, word) for _, meaning in corpus for place, word in enumerate(meaning)})
        frame = self._frame(model, roles)  # (roles, c), orthonormal
        shares = torch.zeros(len(corpus), len(roles))
        for row, (_, meaning) in enumerate(corpus):
            for place, word in enumerate(meaning):
                shares[row, roles.index((place, word))] = 0.7 if place else 1.0
        meant = functional.normalize(shares @ frame, dim=1)  # (expressions, c)
        lengths = np.array([len(meaning) for _, meaning in corpus])
        often = 1 / np.bincount(lengths)[lengths]  # the long ones, of which there are few, are the hardest
        often /= often.sum()
        self._open_table(model, torch.cat([token_ids for token_ids, _ in corpus]))
        optimiser = torch.optim.AdamW(tower.parameters(), lr=1e-3, fused=True)
        for step in range(steps):
            optimiser.param_groups[0]["lr"] = 1e-3 * (1 - step / steps)
            chosen = rng.choice(len(corpus), size=64, p=often)
            pooled = tower([corpus[int(i)][0] for i in chosen]).pooled
            loss = (1 - functional.cosine_similarity(pooled, meant[torch.from_numpy(chosen)])).mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        self._tell(model, corpus)

    def _tell(self, model: RSRefSeg, corpus: Sequence[tuple[Tensor, tuple[str, ...]]]) -> None:
        # Left is little x: nobody has to find that out from images.
        if model.prompter.comparison is None:
            return
        rng = np.random.default_rng(self._seed)
        with torch.no_grad():
            tower = model.text_encoder.eval()
            words = {c: tower([self._tokenizer(class_words(c, rng)) for _ in range(12)]).pooled for c in CLASSES}
            named = {c: functional.normalize(pooled, dim=1).mean(0) for c, pooled in words.items()}
            corpus = [one for one in corpus if set(one[1][::2]) <= set(named)]  # an absent class may be any word
            nowhere = torch.zeros(model.preset.clip_dim)
            model.prompter.comparison.tell(
                torch.cat([tower([ids for ids, _ in corpus[i : i + 256]]).pooled for i in range(0, len(corpus), 256)]),
                torch.stack([named[meaning[0]] for _, meaning in corpus]),
                torch.stack([named[meaning[2]] if len(meaning) > 2 else nowhere for _, meaning in corpus]),
                wishes_of([meaning for _, meaning in corpus]),
            )

    def batches(self, first: int) -> Iterator[Batch]:
        """Yield what is left of the phases.

        Args:
            first: Number of the first batch, from 0.

        Yields:
            Images with expressions about them.
        """
        # A forked process may hang under OpenMP, so workers are started afresh.
        yield from DataLoader(
            self._steps,
            batch_size=None,
            sampler=range(first, self._curriculum.steps),
            num_workers=self._workers,
            multiprocessing_context="spawn" if self._workers else None,
            worker_init_fn=_begin_worker,
            pin_memory=torch.cuda.is_available(),
        )

    def loss(self, model: RSRefSeg, batch: Batch) -> Tensor:
        """Add up what is owed: the class of every cell and pixel, traits, what each expression finds, the masks.

        Args:
            model: In training mode.
            batch: Images and expressions.

        Returns:
            Scalar.
        """
        owed = self._curriculum
        batch = batch.to(next(model.parameters()).device)
        gt_masks, drawn_masks = batch.gt_masks / WHOLE, batch.drawn_masks / WHOLE
        image = model.encode_image((batch.images / 255).contiguous(memory_format=torch.channels_last))
        text = model.encode_text([*batch.class_token_ids, *batch.token_ids])
        named = len(batch.class_token_ids)
        matched = model.prompter.match(image.clip, text.pooled[:named]).float()  # (b, k, g, g)
        classes = batch.classes.long()
        loss = owed.alignment * alignment_loss(matched, classes, batch.looked_for)
        finest = model.prompter.match_finest(image.quarter, text.pooled[:named])  # (b, k, s/4, s/4)
        loss = loss + owed.finest * alignment_loss(finest, classes, batch.looked_for)
        loss = loss + owed.traits * traits_loss(image.traits, batch.traits)
        found = model.prompter.find(image, text.pooled[named:], batch.image_index)  # (n, g, g)
        counted = batch.counted[batch.image_index].float()
        loss = loss + owed.finding * finding_loss(found, gt_masks, counted)
        kinds = class_cells(classes, named, (found.shape[1], found.shape[2]))[batch.image_index]
        loss = loss + owed.choosing * choosing_loss(found, gt_masks, kinds, batch.traits.weight[batch.image_index])
        if len(batch.drawn) == 0:
            return loss
        asked = TextFeatures(*(part[named:][batch.drawn] for part in text))
        about, counted = batch.image_index[batch.drawn], counted[batch.drawn]
        meant = said_or_alike(asked, batch.said, image.clip, about, batch.pointed)
        decoded = model.decode(image, meant, about, pointed=batch.pointed)
        return loss + drawing_loss(decoded, drawn_masks, counted, bce=owed.bce, dice=owed.dice, iou=owed.iou)

    def score(self, predictor: Predictor) -> dict[str, Evaluation]:
        """Ask about the images that are held out.

        Args:
            predictor: The model as it stands.

        Returns:
            Scores by the name of the set.
        """
        return {name: evaluate(predictor, images) for name, images in self._held_out.items()}

    def described(self) -> dict[str, Any]:
        """Say for a card what is taught.

        Returns:
            The curriculum, and how many images each source has.
        """
        return {**asdict(self._curriculum), "images": [len(source) for source, _ in self._sources]}

    def _said(self, rng: np.random.Generator) -> list[tuple[str, tuple[str, ...]]]:
        # What the grammar says of imagined layouts, where each colour and class is as common as the next, and each
        # class by itself.
        corpus: list[tuple[str, tuple[str, ...]]] = [
            (class_words(name, rng), (name,)) for name in CLASSES for _ in range(40)
        ]
        for _ in range(self._curriculum.word_layouts):
            for referral in Grammar(_imagined(rng), rng).referrals(12, absent_share=0.1):
                corpus.append((referral.expression, referral.meaning))
                corpus.append((misspelt(referral.expression, rng), referral.meaning))
        return corpus

    def _frame(self, model: RSRefSeg, roles: list[tuple[int, str]]) -> Tensor:
        # A direction for each meaning. Classes that the tower parts already keep theirs: the images know them.
        rng = np.random.default_rng(self._seed)
        rows = []
        for place, word in roles:
            row = torch.randn(model.preset.clip_dim)
            if place == 0 and word in CLASSES:
                with torch.no_grad():
                    pooled = model.text_encoder([self._tokenizer(class_words(word, rng)) for _ in range(12)]).pooled
                row = functional.normalize(pooled, dim=1).mean(0)
            rows.append(row)
        if len(roles) > model.preset.clip_dim:  # no room to stand square
            return functional.normalize(torch.stack(rows), dim=1)
        classes = torch.tensor([place == 0 for place, _ in roles])
        frame = torch.stack(rows)
        # Each class is turned as little as can be for all to stand square (Löwdin), and the rest is square to them.
        u, _, vh = torch.linalg.svd(frame[classes], full_matrices=False)
        square = u @ vh
        free = frame[~classes] - frame[~classes] @ square.T @ square
        frame[classes], frame[~classes] = square, torch.linalg.qr(free.T)[0].T
        return frame

    @staticmethod
    def _open_table(model: RSRefSeg, token_ids: Tensor) -> None:
        # Pieces that are never said say nothing; those that now are and said nothing so far start apart.
        embedding = model.text_encoder.tower.token_embedding
        if not isinstance(embedding, FactorisedEmbedding):
            return
        table = embedding.table.weight
        said = torch.zeros(len(table), dtype=torch.bool)
        said[token_ids] = True
        with torch.no_grad():
            silent = said & (table.abs().sum(1) == 0)
            table[silent] = nn.init.normal_(torch.empty(int(silent.sum()), table.shape[1]), std=embedding.std)
        embedding.silence(~said)


def _imagined(rng: np.random.Generator) -> tuple[Thing, ...]:
    # Boxes on a grid of 32 x 32: several of one class, and one of each of some others, to be near to.
    several, *ones = (str(name) for name in rng.choice(CLASSES, size=4, replace=False))
    things = []
    for category in [*[several] * int(rng.integers(1, 6)), *ones[: int(rng.integers(4))]]:
        mask = np.zeros((32, 32), bool)
        (y, x), (h, w) = rng.integers(0, 28, size=2), rng.integers(2, 9, size=2)
        mask[y : y + h, x : x + w] = True
        things.append(Thing(category, mask, str(rng.choice(COLOURS))))
    return tuple(things)
