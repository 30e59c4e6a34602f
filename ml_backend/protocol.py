"""What Label Studio sends, as far as we read it.

Everything else is dropped at the door: a request carries each task's annotations, drafts and predictions, run lengths
included, and a webhook carries the project's secrets.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, TypeVar

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from ml_backend.errors import BadRequest, Malformed
from ml_backend.options import Options


def _project_id(value: object) -> object:
    # "{id}.{when it was created}"
    return value.partition(".")[0] if isinstance(value, str) else value


def _object(value: object) -> object:
    # People enter the extra parameters as an object or as its JSON text.
    if value is None or value == "":
        return {}
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as exc:
        raise ValueError('extra_params must be a JSON object such as {"expression_field": "caption"}') from exc


ProjectId = Annotated[int, BeforeValidator(_project_id)]


class Sent(BaseModel):
    """What every message of Label Studio has in common: we read what we need and keep nothing else."""

    model_config = ConfigDict(frozen=True, extra="ignore")


SentT = TypeVar("SentT", bound=Sent)


def read_as(kind: type[SentT], text: bytes | str, *where: str | int) -> SentT:
    """Read a message, or a part of one.

    Args:
        kind: What it is.
        text: Its JSON.
        where: Names and numbers that lead to the part.

    Returns:
        The message.

    Raises:
        BadRequest: If a field will not do; it names the first.
        Malformed: If it is not JSON.
    """
    try:
        return kind.model_validate_json(text)
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_context=False, include_input=False)[0]
        if error["type"] == "json_invalid":
            raise Malformed(f"The body is not JSON: {error['msg']}") from None
        field = ".".join(map(str, (*where, *error["loc"])))
        raise BadRequest(f"The field {field} will not do: {error['msg']}", field=field) from None


class SetupRequest(Sent):
    """POST /setup: after every /health, on every page of the Data Manager."""

    project: ProjectId
    label_config: Annotated[str, Field(alias="schema", min_length=1)]
    extra_params: Annotated[Options, BeforeValidator(_object)] = Options()
    """What the person who added the backend wrote there."""


class Task(Sent):
    """A task, without what people and models said about it."""

    id: int
    data: dict[str, Any]


def _at_commas(value: object) -> object:
    # One text for all of a task's predictions; Label Studio cuts it after 500 characters.
    return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value or ()


class ListedTask(Task):
    """A task as the API lists it, with what is to be known of its predictions."""

    model_versions: Annotated[
        tuple[str, ...], BeforeValidator(_at_commas), Field(alias="predictions_model_versions")
    ] = ()


class TaskPage(Sent):
    """GET /api/tasks: some of a project's tasks."""

    tasks: tuple[ListedTask, ...]
    total: int
    """How many there are from the first of this page on."""


class PoolTask(Task):
    """A task that nobody has annotated."""

    score: Annotated[float | None, Field(alias="predictions_score")] = None
    """The mean of its predictions of the version that the project shows; None where it has none, or shows a title."""


class PoolPage(Sent):
    """GET /api/tasks: some of the tasks of a project that nobody has annotated."""

    tasks: tuple[PoolTask, ...]
    total: int
    """How many there are from the first of this page on."""


def _list(value: object) -> object:
    return value if isinstance(value, list) else []


Result = Annotated[tuple[Any, ...], BeforeValidator(_list)]
"""Whatever people, models and scripts left there; who reads it has to look at each part."""


class KeptPrediction(Sent):
    """A prediction with its masks."""

    id: int
    model_version: str | None = None
    result: Result = ()


class KeptAnnotation(Sent):
    """An annotation with its masks; drafts are no annotations."""

    id: int
    updated_at: AwareDatetime
    was_cancelled: bool = False
    completed_by: int | None = None
    lead_time: Annotated[float, Field(allow_inf_nan=False)] | None = None
    parent_prediction: int | None = None
    """The prediction that it began from, as long as that exists."""
    result: Result = ()


class AnnotatedTask(Task):
    """A task with all that was said about it."""

    updated_at: str
    annotations: tuple[KeptAnnotation, ...] = ()
    predictions: tuple[KeptPrediction, ...] = ()


class ChangedTask(Sent):
    """A task, and when something about it changed last: any annotation that comes, changes or goes counts."""

    id: int
    updated_at: Annotated[str, Field(min_length=1)]


class ChangedPage(Sent):
    """GET /api/tasks with as little as can be."""

    tasks: tuple[ChangedTask, ...]
    total: int
    """How many there are from the first of this page on."""


Percent = Annotated[float, Field(allow_inf_nan=False)]
"""Of the image's width or height; what is drawn may reach beyond the edge."""


class Value(Sent):
    """The value of a result: text, or a shape that a smart tool drew."""

    text: str | tuple[str, ...] = ()
    x: Percent = 0
    y: Percent = 0
    width: Percent = 0
    height: Percent = 0
    radius_x: Annotated[Percent, Field(alias="radiusX")] = 0
    radius_y: Annotated[Percent, Field(alias="radiusY")] = 0
    rotation: Percent = 0
    """Degrees, clockwise, about the upper left corner, or about the middle of an ellipse."""
    rle: tuple[Annotated[int, Field(ge=0, le=255)], ...] = ()
    labels: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _labels_of_any_kind(cls, value: object) -> object:
        # keypointlabels, rectanglelabels and so on, beside a plain "labels" or without it.
        if not isinstance(value, dict):
            return value
        named = [labels for name, labels in value.items() if name.endswith("labels") and isinstance(labels, list)]
        return {**value, "labels": named[0] if named else ()}


class Drawn(Sent):
    """One result in the editor when a person waits for an answer."""

    from_name: str = ""
    to_name: str = ""
    type: str = ""
    is_positive: bool = True
    """Of a point: whether it is on what is meant."""
    original_width: Annotated[int, Field(ge=0)] = 0
    """Of the image, in pixels."""
    original_height: Annotated[int, Field(ge=0)] = 0
    value: Value = Value()


class Context(Sent):
    """What a person did in the editor; its presence means that they wait."""

    result: tuple[Drawn, ...] = ()


class Params(Sent):
    """What goes with a /predict."""

    context: Context | None = None


class PredictRequest(Sent):
    """POST /predict: about one task that a person opened or types about, or about all that were selected."""

    tasks: tuple[()]
    """They may be too many to be held at once, and are taken out one by one before this is read."""
    project: ProjectId
    label_config: Annotated[str, Field(min_length=1)]
    params: Params = Params()


class Named(Sent):
    """Anything that has an id."""

    id: int
    updated_at: str | None = None
    task: int | None = None
    """Of an annotation: the id of its task, which is there even where the task itself is not sent."""


def _several(value: object) -> object:
    # Bulk events carry lists where single events carry objects.
    return value if isinstance(value, list) else [value]


OneOrMany = Annotated[tuple[Named, ...], BeforeValidator(_several)]


START_TRAINING = "START_TRAINING"
"""The one event that comes the way of /predict: with its name and password, and without the webhook's headers."""


class Webhook(Sent):
    """POST /webhook: a wake-up; the annotations themselves are pulled later."""

    action: Annotated[str, Field(min_length=1, max_length=100)]
    project: Named | None = None
    """Absent where the webhook is set to send the action alone."""
    annotation: OneOrMany = ()
    annotations: OneOrMany = ()
    task: OneOrMany = ()
    tasks: OneOrMany = ()

    @property
    def fingerprint(self) -> str:
        """What tells the event from others that are not it a second time; empty where that cannot be told."""
        if self.project is None or self.action == START_TRAINING:
            return ""  # Whoever wishes for a training again means another one.
        about = self.annotation + self.annotations + self.task + self.tasks or (self.project,)
        if self.action.endswith("_UPDATED") and about[0].updated_at is None:
            return ""
        what = [self.action, self.project.id, *((one.id, one.updated_at) for one in about)]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()

    @property
    def annotation_ids(self) -> tuple[int, ...]:
        """The annotations it is about."""
        return tuple(annotation.id for annotation in self.annotation + self.annotations)

    @property
    def task_ids(self) -> tuple[int, ...]:
        """The tasks it is about, each once."""
        named = [task.id for task in self.task + self.tasks]
        owners = [annotation.task for annotation in self.annotation if annotation.task is not None]
        return tuple(dict.fromkeys(named + owners))
