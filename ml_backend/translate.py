"""Task -> PredictJob, Answer -> prediction: pure functions between Label Studio's words and ours."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from ml_backend.errors import Unaskable
from ml_backend.gesture import Gesture, expressions_in
from ml_backend.label_config import ImageTag, LabelConfig, Target
from ml_backend.protocol import Task
from workers.contract import ASKS_LIMIT, EXPRESSION_LIMIT, Answer, Ask, Pointed, PredictJob
from workers.failures import Failure, shown

IMAGE_URI_LIMIT = 4_000_000
"""Longest image address accepted; only data URIs come near it."""


def task_to_job(
    task: Task, project_id: int, config: LabelConfig, model_version: str = "", gesture: Gesture | None = None
) -> PredictJob:
    """Ask for the regions of a task.

    The expressions are what a person just typed in the editor, or typed before pointing there; else, for each image,
    what the task's own field says; where the config names no such field, each label asks for itself.

    Args:
        task: The task.
        project_id: Its project.
        config: The tags of the project's labeling config.
        model_version: The version that /setup promised.
        gesture: What a person did in the editor, if one waits there.

    Returns:
        The job.

    Raises:
        Unaskable: If the task lacks an image that is asked about, or an expression, or has more than one job can carry.
    """
    if gesture is not None:
        config = config.about({gesture.to_name})
        wanted = [(image, _gestured(task, gesture, image)) for image in config.images]
    else:
        wanted = [(image, _own_asks(task, image)) for image in config.images]
    asked = [(image, asks) for image, asks in wanted if asks]
    if not asked:
        raise Unaskable(
            f'Task {task.id} has no expression: its data has no text under "{config.images[0].expression_field}"; '
            f"write there what to look for, such as: the ship at the pier"
        )
    asks = [ask.model_copy(update={"image": n}) for n, (_, asks) in enumerate(asked) for ask in asks]
    if len(asks) > ASKS_LIMIT:
        raise Unaskable(f"Task {task.id} asks for {len(asks)} expressions; at most {ASKS_LIMIT} go with one task.")
    return PredictJob(
        project_id=project_id,
        task_id=task.id,
        image_uris=tuple(_image_uri(task, image) for image, _ in asked),
        asks=tuple(asks),
        model_version=model_version,
        interactive=gesture is not None,
        rules=config.rules,
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
        image_uri=shown(str(task.data.get(config.images[0].field, ""))),
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
        The prediction; Label Studio's uncertainty sampling shows low scores first.
    """
    from ml_backend.regions import regions  # OpenCV, which a web process needs only once somebody types in the editor

    return {
        "result": regions(answer),
        "score": answer.score,
        "model_version": answer.model_version,
    }


def _gestured(task: Task, gesture: Gesture, image: ImageTag) -> list[Ask]:
    if gesture.pointed is None:
        if not gesture.expressions:
            raise Unaskable("Nothing is typed in the text area.")
        return _asks(task, gesture.expressions, image)
    # Without words it is SAM's mask of what was pointed at.
    return _asks(task, gesture.expressions or ("",), image, gesture)


def _image_uri(task: Task, image: ImageTag) -> str:
    uri = task.data.get(image.field)
    if not isinstance(uri, str) or not uri.strip():
        raise Unaskable(f'Task {task.id} has no image: its data has no address under "{image.field}".')
    if len(uri) > IMAGE_URI_LIMIT:
        raise Unaskable(f"Task {task.id} carries its image in {len(uri)} characters; import such images as files.")
    return uri


def _own_asks(task: Task, image: ImageTag) -> list[Ask]:
    if image.expression_field is not None:
        return _asks(task, expressions_in(task.data.get(image.expression_field)), image)
    return [_ask(target.label.expression[:EXPRESSION_LIMIT], target) for target in image.targets]


def _asks(task: Task, expressions: Sequence[str], image: ImageTag, gesture: Gesture | None = None) -> list[Ask]:
    longest = max(map(len, expressions), default=0)
    if longest > EXPRESSION_LIMIT:
        raise Unaskable(
            f"Task {task.id} has an expression of {longest} characters; at most {EXPRESSION_LIMIT} are read."
        )
    if gesture is None:
        return [_ask(words, image.target_for(words)) for words in expressions]
    # Whoever points has chosen a label to point with.
    chosen = next((target for target in image.targets if target.label.value == gesture.label), None)
    return [_ask(words, chosen or image.target_for(words), gesture.pointed) for words in expressions]


def _ask(words: str, target: Target, pointed: Pointed | None = None) -> Ask:
    return Ask(expression=words, label=target.label.value, output=target.output, pointed=pointed)
