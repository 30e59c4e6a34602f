from __future__ import annotations

import io
import tracemalloc
from collections.abc import Sequence
from types import SimpleNamespace

from rich.console import Console

from ml_backend.label_studio import PAGE
from ml_backend.prelabel import Prelabel, Tally
from ml_backend.protocol import ListedTask, TaskPage
from workers.contract import PredictJob

CONFIG = """<View><Image name="image" value="$image"/><TextArea name="prompt" toName="image" value="$expression"/>
<BrushLabels name="tag" toName="image"><Label value="target"/></BrushLabels></View>"""


class LargeProject:
    """A Label Studio whose tasks exist only while they are listed."""

    def __init__(self, tasks: int) -> None:
        self.last = tasks

    def label_config(self, _project_id: int) -> str:
        return CONFIG

    def tasks(self, _project_id: int, after: int) -> TaskPage:
        ids = range(after + 1, min(after + PAGE, self.last) + 1)
        data = {"image": "/data/upload/1/a.png", "expression": "the ship"}
        tasks = tuple(ListedTask(id=number, data={**data, "notes": f"{number:04}" * 500}) for number in ids)
        return TaskPage(tasks=tasks, total=self.last - after)


class Drain:
    """A queue that takes everything and keeps nothing."""

    settings = SimpleNamespace(queue_limit=10**9, project_limit=10**9)

    def options(self, _project_id: int) -> None:
        return None

    def model_version(self, _project_id: int) -> str:
        return "tiny@1"

    def submit(self, jobs: Sequence[PredictJob], *, front: bool) -> int:
        assert not front, "people who wait go first"
        return len(jobs)

    def clear_failures(self, keys: Sequence[str]) -> None:
        pass

    def states(self, _project_id: int, keys: Sequence[str]) -> list[str]:
        return ["delivered"] * len(keys)


def run(tasks: int, *, wait: bool = False) -> Tally:
    work = Prelabel(Drain(), LargeProject(tasks), 1, Console(file=io.StringIO()))  # type: ignore[arg-type]
    work.run(wait=wait)
    return work.tally


def test_a_large_project_is_never_held_in_memory() -> None:
    run(PAGE)
    tracemalloc.start()
    tally = run(10_000, wait=True)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tally.tasks, tally.enqueued, tally.delivered, tally.complete) == (10_000, 10_000, 10_000, True)
    assert peak < 8e6, "its tasks are 20 MB"


def test_a_project_of_exactly_one_page_is_looked_through_once() -> None:
    assert run(PAGE).complete
    assert run(0).complete


def test_versions_of_a_listed_task_are_read_as_either_database_writes_them() -> None:
    for text, versions in [
        ("a@1,b@2", ("a@1", "b@2")),
        ("a@1, b@2", ("a@1", "b@2")),
        ("", ()),
        (None, ()),
    ]:
        assert ListedTask(id=1, data={}, predictions_model_versions=text).model_versions == versions


def test_a_tally_says_in_words_what_it_counts() -> None:
    tally = Tally(3, "tiny@1", tasks=10, enqueued=6, already=2, in_flight=1, unaskable=1, delivered=5, failed=2)
    assert str(tally) == (
        "Project 3: of 10 tasks looked at, 6 enqueued, 2 have a prediction of tiny@1, 1 were on their way, "
        "1 cannot be asked. 5 masks delivered, 2 failed. `rsrefseg-worker status` lists the reasons."
    )
