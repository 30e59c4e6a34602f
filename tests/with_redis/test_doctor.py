"""The doctor names each thing that can be wrong, in a line with what to do, and mends what it can."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console
from rq import SimpleWorker
from werkzeug.serving import make_server

from ml_backend import access
from ml_backend.connect import run
from ml_backend.doctor import visit
from ml_backend.errors import AddressBlocked, RequestRefused, UnusableConfig
from ml_backend.web import create_app
from tests.stand_in_label_studio import StandInLabelStudio, answers, is_slow, stand_in_label_studio
from workers.device_use import DeviceUse
from workers.leased import LeasedWorker, Pace, Stop
from workers.notices import Trouble
from workers.queue import JobQueue
from workers.settings import Settings
from workers.worker import WarmWorker

VERSION = "tiny@1"


@dataclass
class Hospital:
    """Everything that the doctor looks at, and the doctor."""

    queue: JobQueue
    label_studio: StandInLabelStudio
    environ: dict[str, str]
    workers: dict[str, SimpleWorker] = field(default_factory=dict)

    def settings(self) -> Settings:
        return Settings.load(self.environ)

    def connect(self, **options: Any) -> list[str]:
        wanted = {"project_id": 1, "new_title": None, "url": None, "title": None, **options}
        return list(run(self.settings(), **wanted))

    def visit(self, *, project: int | None = 1, fix: bool = False, as_json: bool = False) -> tuple[bool, str]:
        """Whether all is right, and what was said."""
        console = Console(file=io.StringIO(), width=80)
        right = visit(self.environ, project, console, fix=fix, as_json=as_json)
        return right, console.file.getvalue()  # type: ignore[attr-defined]

    def lines(self, **options: Any) -> dict[str, str]:
        """The line of each check; where it has several, the first that is not right."""
        said: dict[str, str] = {}
        for line in self.visit(**options)[1].splitlines():
            state, check = line[:8].strip(), line[8:22].strip()
            if check not in said or (said[check].startswith("right") and state != "right"):
                said[check] = line
        return said

    def wrong(self, **options: Any) -> dict[str, str]:
        return {check: line for check, line in self.lines(**options).items() if line.startswith("wrong")}

    def add_predictions(self, version: str = VERSION, label: str = "target") -> None:
        for number in sorted(self.label_studio.tasks):
            region = {"id": "r", "from_name": "mask", "to_name": "image", "type": "brushlabels"}
            region |= {"original_width": 8, "original_height": 8, "image_rotation": 0}
            region["value"] = {"format": "rle", "rle": [0, 0, 1, 0], "brushlabels": [label]}
            held = {"task": number, "model_version": version, "score": 0.5, "result": [region], "project": 1}
            count = len(self.label_studio.predictions) + 1
            self.label_studio.predictions[count] = {"id": count, **held}


@contextmanager
def web(settings: Settings, queue: JobQueue, port: int = 0) -> Iterator[int]:
    server = make_server("127.0.0.1", port, create_app(settings, queue), threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def hospital(queue: JobQueue, settings: Settings) -> Iterator[Hospital]:
    """Everything runs; the project is new and nobody has connected it."""
    with stand_in_label_studio() as label_studio, web(settings, queue) as port:
        label_studio.config = "<View></View>"
        label_studio.tasks = set()
        environ = {
            "LABEL_STUDIO_URL": label_studio.url,
            "LABEL_STUDIO_API_KEY": label_studio.key,
            "REDIS_URL": str(settings.redis_url),
            "RSREFSEG_DATA": str(settings.data),
            "RSREFSEG_PORT": str(port),
        }
        worker = WarmWorker(queue, queue.gpu, VERSION, "cpu", Stop(), Pace(), DeviceUse(None))
        courier = LeasedWorker(queue.label_studio, Stop(), Pace(), prefix="courier-")
        for one in (worker, courier):
            one.register_birth()
        yield Hospital(queue, label_studio, environ, {"worker": worker, "courier": courier})


@pytest.fixture
def connected(hospital: Hospital) -> Hospital:
    hospital.connect()
    return hospital


def test_a_new_project_is_wrong_in_each_link_and_connect_makes_it_right(hospital: Hospital) -> None:
    wrong = hospital.wrong()
    assert set(wrong) == {"config", "backend"}
    assert "connect --project 1" in wrong["backend"]
    assert len(hospital.connect()) == 5
    assert hospital.visit()[0]
    assert hospital.wrong() == {}


def test_connect_does_nothing_twice(connected: Hospital) -> None:
    held = json.dumps([connected.label_studio.backends, connected.label_studio.hooks, connected.label_studio.project])
    assert connected.connect()[0] == "All was right already."
    assert held == json.dumps([
        connected.label_studio.backends,
        connected.label_studio.hooks,
        connected.label_studio.project,
    ])


def test_connect_gives_the_webhook_the_secret_that_the_web_process_asks_for(connected: Hospital) -> None:
    [hook] = connected.label_studio.hooks
    assert access.check(connected.queue, 1, hook["headers"]["Authorization"], required=True)
    assert not access.check(connected.queue, 1, None)


def test_fix_makes_a_new_project_right_and_says_what_it_did(hospital: Hospital) -> None:
    right, said = hospital.visit(fix=True)
    assert right
    assert "Registered http://127.0.0.1" in said
    assert "new secret" in said
    assert hospital.label_studio.project["model_version"] == "RSRefSeg"


def test_a_new_project_can_be_made(hospital: Hospital) -> None:
    done = hospital.connect(project_id=None, new_title="Harbour")
    assert "Harbour" in done[0]
    assert hospital.label_studio.project["sampling"] == "Uncertainty sampling"
    assert 'value="$expression"' in hospital.label_studio.config


def test_a_config_follows_the_fields_of_the_tasks(hospital: Hospital) -> None:
    hospital.label_studio.tasks = {1}
    hospital.label_studio.data = {1: {"id_of_scene": "7", "scene": "s3://scenes/7.png", "caption": "the ship"}}
    hospital.connect()
    assert 'value="$scene"' in hospital.label_studio.config
    assert 'value="$caption"' in hospital.label_studio.config


def test_a_config_that_somebody_wrote_is_left_alone(hospital: Hospital) -> None:
    hospital.label_studio.config = '<View><Text name="t" value="$text"/></View>'
    with pytest.raises(UnusableConfig, match="Image"):
        hospital.connect()
    assert "<Image" in hospital.wrong(fix=True)["config"]
    assert hospital.label_studio.config.startswith('<View><Text name="t"')


def drop_hooks(hospital: Hospital) -> None:
    hospital.label_studio.hooks.clear()


def change(row: str, **fields: Any) -> Callable[[Hospital], None]:
    def breaks(hospital: Hospital) -> None:
        getattr(hospital.label_studio, row)[0].update(fields)

    breaks.__name__ = f"{row} {fields}"
    return breaks


def set_project(**fields: Any) -> Callable[[Hospital], None]:
    def breaks(hospital: Hospital) -> None:
        hospital.label_studio.project |= fields

    breaks.__name__ = f"project {fields}"
    return breaks


def drop_backend(hospital: Hospital) -> None:
    hospital.label_studio.backends.clear()


def forget_secret(hospital: Hospital) -> None:
    access.forget(hospital.queue, 1)


def change_secret(hospital: Hospital) -> None:
    access.install(hospital.queue, 1)


def get_all_predictions_under_uncertainty(hospital: Hospital) -> None:
    hospital.label_studio.tasks = {7, 8}
    hospital.add_predictions()


MENDABLE = [
    (drop_backend, "backend", "not registered"),
    (change("backends", is_interactive=False), "interactive", "does not ask"),
    (change("backends", auto_update=False), "backend", "does not follow"),
    (drop_hooks, "webhook", "There is none"),
    (change("hooks", is_active=False), "webhook", "switched off"),
    (change("hooks", send_payload=False), "webhook", "all events with their content"),
    (change("hooks", headers={}), "webhook", "no secret"),
    (forget_secret, "webhook", "does not know"),
    (change_secret, "webhook", "another secret"),
    (set_project(show_collab_predictions=False, model_version=""), "predictions", "hidden from annotators"),
    (set_project(model_version=""), "predictions", "shows none"),
    (set_project(model_version="tiny@0"), "predictions", 'shows those of "tiny@0"'),
    (get_all_predictions_under_uncertainty, "sampling", "no effect"),
]


@pytest.mark.parametrize(("breaks", "check", "said"), MENDABLE, ids=[case[0].__name__ for case in MENDABLE])
def test_what_is_broken_is_named_and_mended(
    connected: Hospital, breaks: Callable[[Hospital], None], check: str, said: str
) -> None:
    breaks(connected)
    right, _ = connected.visit()
    assert not right
    wrong = connected.wrong()
    assert set(wrong) == {check}
    assert said in wrong[check]
    assert connected.visit(fix=True)[0]
    assert connected.visit()[0]


def test_a_project_with_a_champion_goes_by_its_version_and_not_by_the_base(connected: Hospital) -> None:
    connected.queue.keep_champion(1, "tiny@c")
    connected.label_studio.tasks = {7, 8}
    connected.add_predictions()
    assert "prelabel" in connected.wrong()["predictions"], "those are the base's"
    connected.label_studio.predictions.clear()
    connected.add_predictions("tiny@c")
    lines = connected.lines()
    assert "tiny@c" in lines["champion"]
    assert "promises tiny@c" in lines["web"]
    connected.visit(fix=True)
    assert connected.label_studio.project["model_version"] == "tiny@c", "all tasks have its masks"
    assert connected.visit()[0]


def kill(who: str) -> Callable[[Hospital], None]:
    def breaks(hospital: Hospital) -> None:
        hospital.workers[who].register_death()

    breaks.__name__ = f"kill the {who}"
    return breaks


def serve_another_version(hospital: Hospital) -> None:
    hospital.label_studio.tasks = {7, 8}
    hospital.add_predictions("tiny@0")


def promote_what_cannot_be_loaded(hospital: Hospital) -> None:
    hospital.queue.keep_champion(1, "tiny@c")
    trouble = Trouble(version="tiny@c", reason="The weights are damaged.", at=datetime.now(UTC))
    hospital.queue.keep_trouble(1, "gpu-7", trouble)


def change_the_label(hospital: Hospital) -> None:
    hospital.label_studio.tasks = {7, 8}
    hospital.add_predictions(label="pier")
    hospital.label_studio.project["model_version"] = VERSION


def put_another_backend_first(hospital: Hospital) -> None:
    other = {"id": 9, "url": "http://10.0.0.1:1", "title": "SAM", "state": "CO"}
    hospital.label_studio.backends.insert(0, {**hospital.label_studio.backends[0], **other})


def use_a_short_name(hospital: Hospital) -> None:
    hospital.label_studio.backends[0]["url"] = "http://backend:9090"
    hospital.label_studio.hooks.clear()


def lose_append_only(hospital: Hospital) -> None:
    hospital.queue.redis.config_set("appendonly", "no")


def evict(hospital: Hospital) -> None:
    hospital.queue.redis.config_set("maxmemory", "100mb")
    hospital.queue.redis.config_set("maxmemory-policy", "allkeys-lru")


def environ(**names: str) -> Callable[[Hospital], None]:
    def breaks(hospital: Hospital) -> None:
        hospital.environ |= names

    breaks.__name__ = f"environ {names}"
    return breaks


OTHERS_MOVE = [
    (kill("worker"), "workers", "rsrefseg-worker run"),
    (kill("courier"), "courier", "rsrefseg-backend courier"),
    (serve_another_version, "predictions", "prelabel --project 1"),
    (promote_what_cannot_be_loaded, "champion", "gpu-7"),
    (change_the_label, "predictions", "do not fit the labeling config"),
    (put_another_backend_first, "backend", '"SAM"'),
    (use_a_short_name, "webhook", "without a dot"),
    (change("backends", state="ER", error_message="422 no <Image>"), "backend", "no <Image>"),
    (change("backends", state="DI", readable_state="Disconnected"), "backend", "ML_BLOCK_LOCAL_IP=false"),
    (change("backends", url="http://127.0.0.1:9", state="DI"), "web", "rsrefseg-backend web"),
    (lose_append_only, "redis", "appendonly yes"),
    (evict, "redis", "noeviction"),
    (environ(RSREFSEG_PROT="1"), "settings", "RSREFSEG_PORT"),
    (environ(LABEL_STUDIO_API_KEY="0" * 40), "key", "personal access token"),
    (environ(LABEL_STUDIO_API_KEY=""), "key", "Account & Settings"),
    (environ(LABEL_STUDIO_URL="http://127.0.0.1:9"), "label studio", "LABEL_STUDIO_URL"),
    (environ(RSREFSEG_BASIC_USER="us", RSREFSEG_BASIC_PASSWORD="x"), "", ""),
]


@pytest.mark.parametrize(("breaks", "check", "said"), OTHERS_MOVE, ids=[case[0].__name__ for case in OTHERS_MOVE])
def test_what_somebody_else_has_to_mend_is_named_with_the_move(
    connected: Hospital, breaks: Callable[[Hospital], None], check: str, said: str
) -> None:
    breaks(connected)
    wrong = connected.wrong()
    if check:
        assert said in wrong[check]
    assert connected.visit()[0] is not bool(check)
    assert "Traceback" not in connected.visit()[1]


def test_a_redis_that_is_away_hides_only_what_it_knows(connected: Hospital) -> None:
    connected.environ["REDIS_URL"] = "redis://:hush@127.0.0.1:9/0"
    lines = connected.lines()
    assert lines["redis"].startswith("wrong")
    assert lines["workers"].startswith("unknown")
    assert lines["webhook"].startswith("unknown")
    for check in ("label studio", "key", "project", "config", "backend", "interactive", "predictions"):
        assert lines[check].startswith("right"), check
    assert "hush" not in "".join(lines.values())


def test_a_label_studio_that_hangs_holds_nothing_up(connected: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ml_backend.chain.CALL_S", 0.5)
    connected.label_studio.away = is_slow(5)
    began = time.monotonic()
    lines = connected.lines()
    assert lines["label studio"].startswith("wrong")
    assert lines["courier"].startswith("right")
    assert time.monotonic() - began < 5


def test_a_label_studio_that_stumbles_is_a_finding_and_no_stack_trace(connected: Hospital) -> None:
    connected.label_studio.tasks = {7}
    connected.add_predictions()
    connected.label_studio.misbehave("GET", answers(500))
    lines = connected.lines()
    assert "answered 500" in lines["predictions"]
    assert lines["webhook"].startswith("right")


def test_another_label_studio_than_the_tested_one_is_worth_a_note(connected: Hospital) -> None:
    connected.label_studio.version = "1.30.0"
    assert connected.lines()["label studio"].startswith("note")
    assert connected.visit()[0]


def test_a_web_process_on_another_redis_is_found(connected: Hospital) -> None:
    connected.queue.announce("tiny@2")
    connected.environ["REDIS_URL"] = connected.environ["REDIS_URL"].removesuffix("/0") + "/1"
    assert "another Redis" in connected.wrong()["web"]


@pytest.mark.parametrize("kind", ["backends", "webhooks"])
def test_a_blocked_private_address_names_both_switches(hospital: Hospital, kind: str) -> None:
    hospital.label_studio.blocks = (kind,)
    with pytest.raises(AddressBlocked, match=r"ML_BLOCK_LOCAL_IP=false.*SSRF_PROTECTION_ENABLED=false"):
        hospital.connect()
    right, said = hospital.visit(fix=True)
    assert not right
    assert "SSRF_PROTECTION_ENABLED=false" in said


def test_a_webhook_to_a_short_name_is_refused_with_a_way_out(hospital: Hospital) -> None:
    with pytest.raises(RequestRefused, match="without a dot"):
        hospital.connect(url="http://backend:9090")


def test_a_web_process_that_moved_takes_its_webhook_along(connected: Hospital) -> None:
    connected.connect(url="http://127.0.0.2:9090/", title="Harbour masks")
    [backend], [hook] = connected.label_studio.backends, connected.label_studio.hooks
    assert backend["url"] == "http://127.0.0.2:9090"
    assert hook["url"] == "http://127.0.0.2:9090/webhook"
    assert connected.label_studio.project["model_version"] == backend["title"] == "Harbour masks"


def test_a_name_and_a_password_go_to_label_studio(hospital: Hospital) -> None:
    secured = {"RSREFSEG_BASIC_USER": "label-studio", "RSREFSEG_BASIC_PASSWORD": "hush"}
    hospital.environ |= secured
    with web(hospital.settings(), hospital.queue) as port:
        hospital.environ["RSREFSEG_PORT"] = str(port)
        hospital.connect()
        assert hospital.visit()[0]
        hospital.environ["RSREFSEG_BASIC_PASSWORD"] = "other"
        assert "RSREFSEG_BASIC_PASSWORD" in hospital.wrong()["web"]
        assert hospital.label_studio.backends[0]["basic_auth_pass"] == "hush"


def test_tasks_without_a_mask_are_worth_a_note(connected: Hospital) -> None:
    connected.label_studio.tasks = {7, 8}
    line = connected.lines()["sampling"]
    assert line.startswith("note")
    assert "prelabel --project 1" in line


def test_without_a_project_each_one_with_our_backend_has_a_line(hospital: Hospital) -> None:
    assert "None of 1 projects" in hospital.lines(project=None)["projects"]
    hospital.connect()
    assert hospital.lines(project=None)["project"].startswith("right")
    hospital.label_studio.hooks.clear()
    assert ": webhook." in hospital.wrong(project=None)["project"]


def test_every_finding_is_one_line_in_a_narrow_pipe(hospital: Hospital) -> None:
    _, said = hospital.visit()
    assert all(line.split()[0] in ("right", "note", "wrong", "unknown") for line in said.splitlines())


def test_a_script_gets_one_object(hospital: Hospital) -> None:
    right, said = hospital.visit(as_json=True, fix=True)
    report = json.loads(said)
    assert right
    assert report["right"] is True
    assert {finding["state"] for finding in report["findings"]} <= {"right", "note"}
    assert any("Registered" in done for done in report["mended"])
