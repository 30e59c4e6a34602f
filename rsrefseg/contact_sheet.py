"""The best and the worst answers of an evaluation on one sheet, as a picture or as a page."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rsrefseg.datasets.sample import CorruptRow, Sample
from rsrefseg.errors import BadRequest
from rsrefseg.predictor import Predictor
from rsrefseg.results import Result

TRUTH, PREDICTED = (255, 214, 10), (255, 45, 120)
"""Colours of the outline of the truth and of the predicted mask, RGB."""

COLUMNS, SIDE, GAP, LINE = 6, 300, 16, 19
_PAPER, _INK, _FAINT = (250, 250, 248), (32, 32, 36), (118, 118, 124)

FORMATS = (".png", ".html")


@dataclass(frozen=True)
class Case:
    """One answer, drawn."""

    result: Result
    expression: str
    picture: np.ndarray
    """(h, w, 3) uint8 RGB, its longer side `SIDE`: the image with the truth outlined and the predicted mask filled."""


def choose(results: Sequence[Result], count: int) -> tuple[list[Result], list[Result]]:
    """Take the best and the worst; of equals those with most pixels at stake, since they show most.

    Args:
        results: Of an evaluation.
        count: Most of each.

    Returns:
        The best, best first, and the worst, worst first; no sample is in both.
    """
    shown = [result for result in results if result.union] or list(results)
    worst = sorted(shown, key=lambda result: (result.overlap.iou, -result.union))
    best = sorted(shown, key=lambda result: (-result.overlap.iou, -result.union))
    count = min(count, (len(shown) + 1) // 2)
    return best[:count], [result for result in worst[:count] if result not in best[:count]]


def draw_cases(
    predictor: Predictor, samples: Iterable[Sample | CorruptRow], chosen: Iterable[Result]
) -> dict[str, Case]:
    """Ask again about the chosen samples, and draw the answers.

    Args:
        predictor: The one that was evaluated.
        samples: The set, read again.
        chosen: Which of them.

    Returns:
        A case for each chosen one that can still be read, by sample.
    """
    wanted = {result.sample_id: result for result in chosen}
    cases: dict[str, Case] = {}
    for sample in samples:
        if isinstance(sample, CorruptRow) or sample.sample_id not in wanted:
            continue
        try:
            image = sample.image()
            truth = sample.gt_mask(image.shape[:2])
            [answer] = predictor.segment(image, [sample.expression])
        except BadRequest:
            continue
        picture = _drawn(image, truth, answer.mask)
        cases[sample.sample_id] = Case(wanted[sample.sample_id], sample.expression, picture)
        if len(cases) == len(wanted):
            break
    return cases


def write_contact_sheet(path: Path, title: str, best: Sequence[Case], worst: Sequence[Case]) -> None:
    """Write the sheet.

    Args:
        path: Ends in .png or .html; an .html needs no other file.
        title: What was evaluated, and the scores.
        best: Drawn first.
        worst: Drawn below.

    Raises:
        BadRequest: If the path ends otherwise.
    """
    if path.suffix not in FORMATS:
        raise BadRequest(f"a contact sheet is a .png or an .html file, {path.name} is neither")
    path.parent.mkdir(parents=True, exist_ok=True)
    sections = [(name, cases) for name, cases in (("Best", best), ("Worst", worst)) if cases]
    if path.suffix == ".html":
        path.write_text(_page(title, sections))
    else:
        _sheet(title, sections).save(path)


def _drawn(image: np.ndarray, truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    # At the size it is seen, so that outlines are crisp and no object is too small to leave a trace.
    h, w = truth.shape
    scale = SIDE / max(h, w)
    size = (max(1, round(w * scale)), max(1, round(h * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    drawn = cv2.resize(image, size, interpolation=how)
    small = [cv2.resize(mask.astype(np.float32), size, interpolation=how) for mask in (truth, predicted)]
    truth, predicted = (mask >= min(0.5, 0.9 * float(mask.max())) if mask.any() else mask > 0 for mask in small)
    drawn[predicted] = (0.5 * drawn[predicted] + 0.5 * np.array(PREDICTED)).astype(np.uint8)
    for mask, colour in ((predicted, PREDICTED), (truth, TRUTH)):
        outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        if colour is TRUTH:
            cv2.drawContours(drawn, outlines, -1, (0, 0, 0), 4, cv2.LINE_AA)
        cv2.drawContours(drawn, outlines, -1, colour, 2 if colour is TRUTH else 1, cv2.LINE_AA)
    return drawn


def _sheet(title: str, sections: Sequence[tuple[str, Sequence[Case]]]) -> Image.Image:
    large, bold, plain = (ImageFont.load_default(size) for size in (24, 20, 16))
    columns = max([3, *(min(COLUMNS, len(cases)) for _, cases in sections)])
    width = GAP + columns * (SIDE + GAP)
    titles = _wrapped(title, large, width - 2 * GAP)
    rows = [
        (name if not first else "", cases[first : first + columns])
        for name, cases in sections
        for first in range(0, len(cases), columns)
    ]
    heights = [(34 if name else 0) + max(_height(case) for case in cases) + GAP for name, cases in rows]
    y = GAP + 30 * len(titles)
    sheet = Image.new("RGB", (width, y + LINE + GAP + sum(heights)), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, text in enumerate(titles):
        pen.text((GAP, GAP + 30 * number), text, _INK, large)
    for number, (colour, words) in enumerate(((TRUTH, "truth, outlined"), (PREDICTED, "predicted, filled"))):
        x = GAP + 180 * number
        pen.rectangle((x, y + 3, x + 16, y + 16), fill=None if colour is TRUTH else colour, outline=colour, width=3)
        pen.text((x + 24, y + 2), words, _FAINT, plain)
    y += LINE + GAP
    for (name, cases), height in zip(rows, heights, strict=True):
        if name:
            pen.text((GAP, y), name, _INK, bold)
        for column, case in enumerate(cases):
            x, top = GAP + column * (SIDE + GAP), y + (34 if name else 0)
            sheet.paste(Image.fromarray(case.picture), (x + (SIDE - case.picture.shape[1]) // 2, top))
            _caption(pen, case, x, top + case.picture.shape[0] + 5)
        y += height
    return sheet


def _height(case: Case) -> int:
    return len(case.picture) + 5 + (1 + len(_words(case))) * LINE + 4


def _words(case: Case) -> list[str]:
    plain = ImageFont.load_default(16)
    lines = _wrapped(case.expression, plain, SIDE)
    lines = [*lines[:2], lines[2] + " ..."] if len(lines) > 3 else lines
    return [_shortened(line, plain, SIDE) for line in lines]


def _caption(pen: ImageDraw.ImageDraw, case: Case, x: int, y: int) -> None:
    plain, faint = ImageFont.load_default(16), ImageFont.load_default(13)
    pen.text((x, y), f"IoU {100 * case.result.overlap.iou:.1f}", _INK, plain)
    pen.text((x + SIDE, y + 3), _shortened(_note(case), faint, SIDE - 100), _FAINT, faint, anchor="ra")
    for number, line in enumerate(_words(case), start=1):
        pen.text((x, y + number * LINE), line, _INK, plain)


def _note(case: Case) -> str:
    return " · ".join(part for part in (case.result.category, case.result.kind, case.result.sample_id) if part)


def _wrapped(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _shortened(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


_STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 24px; background: #fafaf8; color: #202024; }
h1 { font-size: 22px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 24px 0 8px; }
.key { color: #76767c; } .key i { display: inline-block; width: 14px; height: 12px; margin: 0 6px 0 0; }
.cases { display: grid; grid-template-columns: repeat(auto-fill, minmax(260px, 1fr)); gap: 16px; }
figure { margin: 0; } figcaption { overflow-wrap: anywhere; }
img { width: 100%; display: block; }
small { color: #76767c; float: right; }
@media (prefers-color-scheme: dark) { body { background: #18181b; color: #e8e8ea; } }
"""


def _page(title: str, sections: Sequence[tuple[str, Sequence[Case]]]) -> str:
    truth, predicted = (f"rgb{colour}" for colour in (TRUTH, PREDICTED))
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>',
        f"<style>{_STYLE}</style><h1>{html.escape(title)}</h1>",
        f'<p class="key"><i style="border: 3px solid {truth}; box-sizing: border-box"></i>truth, outlined &nbsp; ',
        f'<i style="background: {predicted}"></i>predicted, filled</p>',
    ]
    for name, cases in sections:
        parts.append(f'<h2>{name}</h2><div class="cases">')
        for case in cases:
            words = html.escape(case.expression)
            parts.append(
                f'<figure><img alt="{words}" src="data:image/jpeg;base64,{_jpeg(case.picture)}"><figcaption>'
                f"<b>IoU {100 * case.result.overlap.iou:.1f}</b> <small>{html.escape(_note(case))}</small><br>{words}"
                "</figcaption></figure>"
            )
        parts.append("</div>")
    return "\n".join([*parts, "</html>", ""])


def _jpeg(picture: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=90)
    return base64.b64encode(file.getvalue()).decode()
