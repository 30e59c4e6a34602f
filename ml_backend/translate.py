"""Task -> PredictJob, Answer -> prediction: pure functions between Label Studio's words and ours."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from ml_backend import brush
from ml_backend.errors import Unaskable
from ml_backend.gesture import Gesture, expressions_in
from ml_backend.label_config import LabelConfig
from ml_backend.protocol import Task
from workers.contract import ASKS_LIMIT, EXPRESSION_LIMIT, Answer, Ask, Found, Output, PredictJob
from workers.failures import Failure, shown

IMAGE_URI_LIMIT = 4_000_000
"""Longest image address accepted; only data URIs come near it."""


def task_to_job(
    task: Task, project_id: int, config: LabelConfig, model_version: str = "", gesture: Gesture | None = None
) -> PredictJob:
    """Ask for the regions of a task.

    The expressions are what a person just typed in the editor, or typed before pointing there; else what the task's
    own field says; where the config names no such field, each label asks for itself.

    Args:
        task: The task.
        project_id: Its project.
        config: The tags of the project's labeling config.
        model_version: The version that /setup promised.
        gesture: What a person did in the editor, if one waits there.

    Returns:
        The job.

    Raises:
        Unaskable: If the task has no image or no expression, or more of it than one job can carry.
    """
    image_uri = task.data.get(config.image_field)
    if not isinstance(image_uri, str) or not image_uri.strip():
        raise Unaskable(f'Task {task.id} has no image: its data has no address under "{config.image_field}".')
    if len(image_uri) > IMAGE_URI_LIMIT:
        raise Unaskable(
            f"Task {task.id} carries its image in {len(image_uri)} characters; import such images as files."
        )
    if gesture is not None:
        asks = _gestured(task, gesture, config)
    elif config.expression_field is not None:
        asks = _asks(task, _written(task, config.expression_field), config)
    else:
        asks = [
            Ask(expression=label.expression[:EXPRESSION_LIMIT], label=label.value, output=_output(config))
            for label in config.labels
        ]
    if len(asks) > ASKS_LIMIT:
        raise Unaskable(f"Task {task.id} asks for {len(asks)} expressions; at most {ASKS_LIMIT} go with one image.")
    return PredictJob(
        project_id=project_id,
        task_id=task.id,
        image_uris=(image_uri,),
        asks=tuple(asks),
        model_version=model_version,
        interactive=gesture is not None,
    )


def unaskable_key(project_id: int, task_id: int) -> str:
    """Name the failure of a task about which nothing can be asked.

    Args:
        project_id: The task's project.
        task_id: The task.

    Returns:
        The key; the same each time the task is asked in vain.
    """
    return f"unaskable-{project_id}-{task_id}"


def unaskable_to_failure(task: Task, project_id: int, config: LabelConfig, reason: Unaskable) -> Failure:
    """Write down that nothing could be asked about a task, so that the annotator finds out why.

    Args:
        task: The task.
        project_id: Its project.
        config: The tags of the project's labeling config.
        reason: What `task_to_job` said.

    Returns:
        The failure.
    """
    return Failure(
        key=unaskable_key(project_id, task.id),
        project_id=project_id,
        task_id=task.id,
        image_uri=shown(str(task.data.get(config.image_field, ""))),
        expressions=(),
        stage="predict",
        move="annotator",
        reason=str(reason),
        at=datetime.now(UTC),
    )


def answer_to_prediction(answer: Answer) -> dict[str, Any]:
    """Write an answer as Label Studio's prediction.

    An expression that refers to nothing in the image gives no region, yet its score counts.

    Args:
        answer: The masks.

    Returns:
        The prediction. Its score is the lowest of its expressions': Label Studio's uncertainty sampling shows low
        scores first, and a mean would hide the one bad mask that somebody should look at.
    """
    masks = [found.mask.to_mask() for found in answer.found]
    return {
        "result": [
            _region(answer.job, index, found, mask)
            for index, (found, mask) in enumerate(zip(answer.found, masks, strict=True))
            if mask.any()
        ],
        "score": min((found.score for found in answer.found), default=0.0),
        "model_version": answer.model_version,
    }


def _gestured(task: Task, gesture: Gesture, config: LabelConfig) -> list[Ask]:
    if gesture.pointed is None:
        if not gesture.expressions:
            raise Unaskable("Nothing is typed in the text area.")
        return _asks(task, gesture.expressions, config)
    # Without words it is SAM's mask of what was pointed at.
    return _asks(task, gesture.expressions or ("",), config, gesture)


def _written(task: Task, field: str) -> tuple[str, ...]:
    expressions = expressions_in(task.data.get(field))
    if not expressions:
        raise Unaskable(
            f'Task {task.id} has no expression: its data has no text under "{field}"; '
            f"write there what to look for, such as: the ship at the pier"
        )
    return expressions


def _asks(task: Task, expressions: Sequence[str], config: LabelConfig, gesture: Gesture | None = None) -> list[Ask]:
    longest = max(map(len, expressions))
    if longest > EXPRESSION_LIMIT:
        raise Unaskable(
            f"Task {task.id} has an expression of {longest} characters; at most {EXPRESSION_LIMIT} are read."
        )
    output = _output(config)
    pointed = gesture.pointed if gesture else None
    # Whoever points has chosen a label to point with.
    chosen = gesture.label if gesture and gesture.label in {label.value for label in config.labels} else None
    return [
        Ask(expression=words, label=chosen or config.label_for(words), output=output, pointed=pointed)
        for words in expressions
    ]


def _output(config: LabelConfig) -> Output:
    return Output(from_name=config.control_name, to_name=config.image_name, type="brushlabels")


def _region(job: PredictJob, index: int, found: Found, mask: np.ndarray) -> dict[str, Any]:
    height, width = mask.shape
    output = job.asks[index].output
    return {
        # The same job gives the same ids, so a delivery that happens twice is recognised.
        "id": f"{job.key[:12]}-{index}",
        "from_name": output.from_name,
        "to_name": output.to_name,
        "type": output.type,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "origin": "prediction",
        "score": found.score,
        "meta": {"text": [found.expression]} if found.expression else {},
        "value": {"format": "rle", "rle": brush.encode(mask), output.type: [found.label]},
    }
