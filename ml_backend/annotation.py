"""Annotation -> corrections: what a person says that each expression refers to, beside what they were shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np

from ml_backend.errors import Unaskable
from ml_backend.gesture import expressions_in
from ml_backend.label_config import MASK_CONTROLS, ImageTag, LabelConfig
from ml_backend.protocol import AnnotatedTask, KeptAnnotation, KeptPrediction, Result
from ml_backend.regions import Region, iou, mask_of
from ml_backend.translate import task_to_job
from workers.contract import EXPRESSION_LIMIT, Rle
from workers.corrections import AnnotationRecord, Correction, Mark, Origin, TaskCorrections

RENDERED_ANEW = 0.95
"""IoU from which a mask that the editor calls untouched is: its brush draws soft edges anew."""

SCENE_FIELD = "scene"
"""The key of a task's data by which several tasks may be held out or taught together."""


class Meant(NamedTuple):
    """What a mask is of."""

    image: int
    expression: str
    label: str


@dataclass(frozen=True)
class Drawing:
    """All regions of one meaning, united."""

    region_ids: frozenset[str]
    mask: Rle | None = None
    """None if they cover nothing."""
    origins: frozenset[str] = frozenset()
    """Where the editor says that they come from."""
    readable: bool = True


@dataclass(frozen=True)
class Shown:
    """The prediction that an annotation began from."""

    id: int
    model_version: str | None
    drawings: Mapping[Meant, Drawing]


def task_to_corrections(
    task: AnnotatedTask, project_id: int, config: LabelConfig, before: TaskCorrections | None = None
) -> TaskCorrections:
    """Decode what the annotations of a task say.

    Annotations that were cancelled say nothing. What cannot be read is left out, counted by its reason.

    Args:
        task: The task with its annotations and predictions.
        project_id: Its project.
        config: The tags of the project's labeling config.
        before: What was kept of it before: an annotation that did not change since stays as it was decoded then, and
            one whose prediction was deleted meanwhile still knows it.

    Returns:
        The corrections; without annotations if none counts.
    """
    uris = tuple(uri if isinstance(uri := task.data.get(image.field), str) else "" for image in config.images)
    known = {record.annotation_id: record for record in (before.annotations if before else ())}
    scene = task.data.get(SCENE_FIELD)
    return TaskCorrections(
        mark=Mark(project_id=project_id, task_id=task.id, updated_at=task.updated_at),
        scene=scene if isinstance(scene, str) and scene else "\n".join(uris),
        image_uris=uris,
        annotations=tuple(
            _record(annotation, task, project_id, config, known.get(annotation.id))
            for annotation in task.annotations
            if not annotation.was_cancelled
        ),
    )


def _record(
    annotation: KeptAnnotation,
    task: AnnotatedTask,
    project_id: int,
    config: LabelConfig,
    before: AnnotationRecord | None,
) -> AnnotationRecord:
    if before is not None and before.updated_at == annotation.updated_at:
        return before
    skipped: Counter[str] = Counter()
    shown = _shown(annotation, task, config, before)
    drawn = _drawings(annotation.result, task, config, skipped)
    corrections = [_correction(meant, drawing, shown) for meant, drawing in drawn.items() if drawing.readable]
    if shown is not None:
        left = frozenset(str(region.get("id")) for region in annotation.result if isinstance(region, dict))
        corrections += _rejected(shown.drawings, drawn, left)
        corrections += _still_nothing(task, project_id, config, {*shown.drawings, *drawn})
    return AnnotationRecord(
        annotation_id=annotation.id,
        updated_at=annotation.updated_at,
        annotator=annotation.completed_by,
        lead_time_s=annotation.lead_time,
        prediction_id=shown.id if shown else None,
        model_version=shown.model_version if shown else None,
        corrections=tuple(one for one in corrections if one is not None),
        skipped=dict(skipped),
    )


def _correction(meant: Meant, drawing: Drawing, shown: Shown | None) -> Correction | None:
    was = _counterpart(meant, shown.drawings) if shown else None
    said: dict[str, Any] = {**meant._asdict(), "mask": drawing.mask}
    if was is None or was.mask is None:
        if drawing.mask is None:
            return None  # A region that was begun and never drawn.
        return Correction(**said, origin="drawn" if shown else _by_its_word(drawing), iou=0.0 if shown else None)
    if drawing.mask is None:
        return Correction(**said, shown=was.mask, origin="rejected", iou=0.0)
    before = was.mask if was.mask.size_hw == drawing.mask.size_hw else _lined_up(was.mask, drawing.mask.size_hw)
    iou = _iou(before, drawing.mask)
    untouched = drawing.origins == {"prediction"} and drawing.region_ids == was.region_ids and iou >= RENDERED_ANEW
    same = meant in shown.drawings if shown else False
    origin: Origin = "accepted" if same and (iou == 1 or untouched) else "changed"
    return Correction(**said, shown=before, origin=origin, iou=iou)


def _by_its_word(drawing: Drawing) -> Origin:
    # A suggestion of the editor is no prediction that Label Studio keeps.
    if drawing.origins == {"prediction"}:
        return "accepted"
    return "changed" if any(origin.startswith("prediction") for origin in drawing.origins) else "drawn"


def _counterpart(meant: Meant, shown: Mapping[Meant, Drawing]) -> Drawing | None:
    # Whoever gives a mask another label changes it, and does not draw a new one.
    if meant in shown:
        return shown[meant]
    alike = (was for other, was in shown.items() if other[:2] == meant[:2])
    return next(alike, None)


def _rejected(
    shown: Mapping[Meant, Drawing], drawn: Mapping[Meant, Drawing], left: frozenset[str]
) -> list[Correction | None]:
    # What remains under another label or other words was not rejected; nor is there nothing to find.
    said = {meant[:2] for meant in drawn}
    return [
        Correction(**meant._asdict(), mask=None, shown=was.mask, iou=0.0, origin="rejected")
        for meant, was in shown.items()
        if was.mask is not None and meant[:2] not in said and not was.region_ids & left
    ]


def _still_nothing(
    task: AnnotatedTask, project_id: int, config: LabelConfig, drawn: set[Meant]
) -> list[Correction | None]:
    # What was asked, found nowhere by the model, and drawn nowhere by whoever looked at that.
    try:
        asks = task_to_job(task, project_id, config).asks
    except Unaskable:
        return []
    images = {image.name: n for n, image in enumerate(config.images)}
    said = {meant[:2] for meant in drawn}
    nothing = {Meant(images[ask.output.to_name], ask.expression, ask.label) for ask in asks}
    return [
        Correction(**meant._asdict(), mask=None, iou=1.0, origin="accepted")
        for meant in sorted(nothing)
        if meant[:2] not in said
    ]


def _shown(
    annotation: KeptAnnotation, task: AnnotatedTask, config: LabelConfig, before: AnnotationRecord | None
) -> Shown | None:
    prediction = next((one for one in task.predictions if one.id == annotation.parent_prediction), None)
    if prediction is None and before is not None and before.prediction_id is not None:
        remembered = {
            Meant(one.image, one.expression, one.label): Drawing(frozenset(), one.shown) for one in before.corrections
        }
        return Shown(before.prediction_id, before.model_version, remembered)
    prediction = prediction or _of_these_regions(annotation, task.predictions)
    if prediction is None:
        return None
    drawings = _drawings(prediction.result, task, config, Counter())
    readable = {meant: drawing for meant, drawing in drawings.items() if drawing.readable}
    return Shown(prediction.id, prediction.model_version, readable)


def _of_these_regions(annotation: KeptAnnotation, predictions: Sequence[KeptPrediction]) -> KeptPrediction | None:
    # Regions keep their ids when a prediction becomes an annotation.
    mine = _ids(annotation.result)
    shared = [(len(mine & _ids(prediction.result)), prediction.id, prediction) for prediction in predictions]
    most = max(shared, key=lambda one: one[:2], default=(0, 0, None))
    return most[2] if most[0] else None


def _ids(result: Result) -> set[str]:
    return {str(region["id"]) for region in result if isinstance(region, dict) and region.get("id")}


def _drawings(result: Result, task: AnnotatedTask, config: LabelConfig, skipped: Counter[str]) -> dict[Meant, Drawing]:
    texts = _Texts(result)
    together: dict[Meant, list[Region]] = {}
    for region in result:
        if not isinstance(region, dict):
            skipped["a result is not an object"] += 1
        elif _is_of_a_mask(region):
            try:
                together.setdefault(_meant(region, texts, task, config), []).append(region)
            except ValueError as exc:
                skipped[str(exc)] += 1
    return {meant: _united(regions, skipped) for meant, regions in together.items()}


def _united(regions: Sequence[Region], skipped: Counter[str]) -> Drawing:
    region_ids = frozenset(str(region.get("id")) for region in regions)
    mask: np.ndarray | None = None
    for region in regions:
        try:
            more = mask_of(region)
        except ValueError as exc:
            # Without this part the others would be a wrong mask.
            skipped[str(exc)] += 1
            return Drawing(region_ids, readable=False)
        mask = more if mask is None else mask | _resized(more, (mask.shape[0], mask.shape[1]))
    origins = frozenset(str(region.get("origin") or "manual") for region in regions)
    return Drawing(region_ids, Rle.from_mask(mask) if mask is not None and mask.any() else None, origins)


def _meant(region: Region, texts: _Texts, task: AnnotatedTask, config: LabelConfig) -> Meant:
    number, image = next(
        ((n, image) for n, image in enumerate(config.images) if image.name == region.get("to_name")), (0, None)
    )
    if image is None or all(region.get("from_name") != target.output.from_name for target in image.targets):
        raise ValueError("a region is of a control that the labeling config gives no masks to")
    if not isinstance(task.data.get(image.field), str):
        raise ValueError("a region is on an image that the task does not have")
    value = region.get("value")
    labels = value.get(region["type"]) if isinstance(value, dict) else None
    label = labels[0] if isinstance(labels, list) and labels else None
    if not isinstance(label, str) or not label:
        raise ValueError("a region has no label")
    expression = texts.beside(region) or _noted(region) or _asked(label, texts, task, image)
    if not _is_text(expression) or not _is_text(label):
        raise ValueError("a label or an expression is no text")
    if len(expression) > EXPRESSION_LIMIT:
        raise ValueError("an expression is too long")
    return Meant(number, expression, label)


def _is_of_a_mask(region: Region) -> bool:
    kind = region.get("type")
    return isinstance(kind, str) and kind in MASK_CONTROLS


def _is_text(words: str) -> bool:
    # JSON can hold halves of letters, which nothing can be written to.
    return not any("\ud800" <= letter <= "\udfff" for letter in words)


def _noted(region: Region) -> str:
    meta = region.get("meta")
    return next(iter(expressions_in(meta.get("text") if isinstance(meta, dict) else None)), "")


def _asked(label: str, texts: _Texts, task: AnnotatedTask, image: ImageTag) -> str:
    typed = texts.typed(image.prompt_name)
    written = typed or expressions_in(task.data.get(image.expression_field or ""))
    if len(written) > 1:
        written = tuple(words for words in written if image.target_for(words).label.value == label)
        if len(written) != 1:
            raise ValueError("a region does not say which of the task's expressions it is of")
    if written:
        return written[0]
    own = next((target.label.expression for target in image.targets if target.label.value == label), "")
    if not own:
        raise ValueError("a region has a label that the labeling config does not have, and no words")
    return own


class _Texts:
    """The texts of a result: those of regions, and those that were typed about a whole image.

    Args:
        result: The result.
    """

    def __init__(self, result: Result) -> None:
        objects = [one for one in result if isinstance(one, dict)]
        drawn = {str(one.get("id")) for one in objects if _is_of_a_mask(one)}
        self._of_regions: dict[str, str] = {}
        self._typed: dict[str, tuple[str, ...]] = {}
        for one in objects:
            words = expressions_in(_text(one)) if one.get("type") == "textarea" else ()
            if words and str(one.get("id")) in drawn:
                self._of_regions.setdefault(str(one.get("id")), words[0])
            elif words:
                self._typed[str(one.get("from_name"))] = words

    def beside(self, region: Region) -> str:
        return self._of_regions.get(str(region.get("id")), "")

    def typed(self, name: str | None) -> tuple[str, ...]:
        return self._typed.get(name or "", ())


def _text(textarea: dict[str, Any]) -> object:
    value = textarea.get("value")
    return value.get("text") if isinstance(value, dict) else None


def _lined_up(mask: Rle, size_hw: tuple[int, int]) -> Rle:
    return Rle.from_mask(_resized(mask.to_mask(), size_hw))


def _resized(mask: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    if mask.shape == size_hw:
        return mask
    resized = cv2.resize(mask.view(np.uint8), size_hw[::-1], interpolation=cv2.INTER_NEAREST)
    lined_up: np.ndarray = resized.astype(bool)
    return lined_up


def _iou(one: Rle, other: Rle) -> float:
    return 1.0 if one == other else iou(one.to_mask(), other.to_mask())
