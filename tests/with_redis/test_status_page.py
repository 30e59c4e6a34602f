"""The page at `/` and its buttons, on a real Redis, and once in a real browser, a phone's window included."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import numpy as np
import pytest
from flask.testing import FlaskClient
from playwright.sync_api import sync_playwright

from ml_backend.again import Asked, ask_again
from ml_backend.label_studio import LabelStudio
from ml_backend.web import create_app
from tests.factories import make_job, make_version
from tests.need import need_browser
from tests.stand_in_label_studio import KEY, StandInLabelStudio
from tests.with_redis.conftest import CONFIG, WorkerProcess, requests_in, wait_for
from workers.contract import PredictJob
from workers.failures import Failure
from workers.ports import free_port
from workers.queue import JobQueue
from workers.redis_server import EmbeddedRedis
from workers.registry import Comparison, Registry, Verdict
from workers.settings import Settings
from workers.thumbnails import Caption, Thumbnails, draw_thumbnail, new_name

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def label_studio(label_studio: StandInLabelStudio) -> StandInLabelStudio:
    label_studio.config, label_studio.tasks = CONFIG, set(range(1, 9))
    return label_studio


@pytest.fixture
def settings(redis_server: EmbeddedRedis, label_studio: StandInLabelStudio, tmp_path: Path) -> Settings:
    return Settings(
        redis_url=redis_server.url, data=tmp_path, label_studio_url=label_studio.url, label_studio_api_key=KEY
    )


@pytest.fixture
def client(queue: JobQueue) -> FlaskClient:
    return create_app(queue.settings, queue).test_client()


def fail(queue: JobQueue, *task_ids: int, reason: str = "The image is away.", version: str = "tiny@0") -> None:
    for task_id in task_ids:
        queue.record_failure(Failure.of(make_job(task_id, model_version=version), "predict", "wait", reason))


def teach(queue: JobQueue, *after: float) -> None:
    """Versions of project 1, an hour and 20 corrections apart; the second is the champion."""
    checkpoint = queue.settings.data / "checkpoint"
    checkpoint.mkdir()
    registry, made = Registry(queue.settings.data), datetime.now(UTC)
    for number, score in enumerate(after):
        held_out = Comparison(samples=9, scenes=3, before=39.0, after=score, low=0.5, high=9.0)
        verdict = Verdict(passed=score > 40, reason=f"It came to {score}.", held_out=held_out)
        facts = {"made_at": made + timedelta(hours=number), "corrections": 30 + 20 * number}
        registry.add(make_version(f"tiny@{number}", verdict=verdict, **facts), checkpoint)
    registry.move(1, "tiny@1", "promoted")


def draw_one(queue: JobQueue, expression: str = "the ship") -> str:
    caption = Caption(
        name=new_name(),
        project_id=1,
        task_id=7,
        expression=expression,
        label="target",
        score=0.87,
        found=True,
        model_version="tiny@1",
        at=datetime.now(UTC),
    )
    Thumbnails(queue.redis, 24).keep(caption, draw_thumbnail(np.zeros((40, 60, 3), np.uint8), [np.eye(40, 60) > 0]))
    return caption.name


def test_an_empty_fleet_is_told_what_to_start(client: FlaskClient) -> None:
    page = client.get("/").text
    for hint in ("rsrefseg-worker run", "rsrefseg-backend prelabel", "Nothing has failed.", "rsrefseg-backend retrain"):
        assert hint in page
    assert "http-equiv" not in page, "nothing is under way"


def test_the_page_shows_what_waits_what_failed_and_how_models_came_along(client: FlaskClient, queue: JobQueue) -> None:
    queue.submit([make_job(number) for number in range(1, 4)])
    fail(queue, 5)
    teach(queue, 40.0, 45.0, 43.0)
    page = client.get("/").text
    assert re.search(r"waiting</dt><dd>3<", page)
    assert "The image is away." in page
    assert "Held-out mIoU of 3 versions, from 40.0 to 45.0, by the time they were made" in page
    assert "Learning curve: held-out mIoU of 3 versions, from 40.0 to 45.0, by corrections; 39.0 without any" in page
    classes = re.findall(r'<circle [^>]*class="(\w+)"', page)
    assert classes == ["refused", "champion", "passed"] + ["passed", "refused", "champion", "passed"]
    assert "tiny@1, 50 corrections: 45.0" in page
    assert page.count(">mIoU, %</text>") == 2
    assert ">corrections learnt from</text>" in page
    assert "served by tiny@1" in page
    assert 'http-equiv="refresh"' in page


def test_what_others_wrote_is_text_and_never_markup(client: FlaskClient, queue: JobQueue) -> None:
    fail(queue, 5, reason=HOSTILE)
    draw_one(queue, HOSTILE)
    answer = client.get("/")
    assert "<script" not in answer.text
    assert answer.text.count("&lt;script&gt;") >= 3
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


@pytest.mark.parametrize("said", [HOSTILE, "Your password has expired: call 0123.", "0" * 32, "../../x"])
def test_a_link_of_a_stranger_puts_no_words_on_the_page(client: FlaskClient, said: str) -> None:
    page = client.get("/", query_string={"said": said}).text
    assert 'role="status"' not in page
    assert "0123" not in page


def test_links_lead_where_people_find_label_studio(queue: JobQueue, settings: Settings) -> None:
    fail(queue, 5)
    draw_one(queue)
    seen = settings.model_copy(update={"label_studio_public_url": "https://labels.example.org/studio"})
    page = create_app(seen, queue).test_client().get("/").text
    assert "https://labels.example.org/studio/projects/1/data?task=5" in page
    assert "https://labels.example.org/studio/projects/1/data?task=7" in page
    assert settings.label_studio_url not in page
    assert settings.label_studio_url in create_app(settings, queue).test_client().get("/").text


def test_pictures_are_the_last_ones_and_no_more_than_are_wanted(client: FlaskClient, queue: JobQueue) -> None:
    names = [draw_one(queue, f"ship {number}") for number in range(26)]
    assert client.get(f"/thumbnails/{names[-1]}.jpg").data.startswith(b"\xff\xd8")
    assert client.get(f"/thumbnails/{names[0]}.jpg").status_code == 404
    assert client.get("/").text.count("<img ") == 24
    assert len(list(queue.redis.scan_iter("rsrefseg:thumbnail:*"))) == 24


def test_a_worker_leaves_a_picture_of_what_it_drew(
    client: FlaskClient, queue: JobQueue, start_worker: Callable[[], WorkerProcess]
) -> None:
    queue.submit([make_job(1)])
    start_worker()
    [caption] = wait_for(lambda: Thumbnails(queue.redis, 24).captions())
    assert (caption.task_id, caption.expression) == (1, "the ship")
    assert client.get(f"/thumbnails/{caption.name}.jpg").content_type == "image/jpeg"


def test_what_a_worker_holds_and_how_busy_it_is_stands_beside_its_device(
    client: FlaskClient, start_worker: Callable[[], WorkerProcess]
) -> None:
    start_worker()
    shown = wait_for(
        lambda: re.search(r'<td>cpu</td><td class="n">([\d.]+) GB</td><td class="n">(\d+) %</td>', client.get("/").text)
    )
    assert 0 < float(shown[1]) < 10
    assert 0 <= int(shown[2]) <= 100


def test_no_pictures_are_kept_where_none_are_wanted() -> None:
    thumbnails = Thumbnails(None, 0)  # type: ignore[arg-type]
    assert not thumbnails.due()


def test_a_button_asks_again_once_however_often_it_is_pressed(client: FlaskClient, queue: JobQueue) -> None:
    queue.announce("tiny@1")
    fail(queue, 1, 2)
    for _ in range(3):
        answer = client.post("/retry", data={"project": "1"}, headers={"Sec-Fetch-Site": "same-origin"})
        assert answer.status_code == 303
    assert sorted(job.task_id for job in requests_in(queue)) == [1, 2]
    assert queue.failures() == []
    assert "There is nothing to try again." in client.get(answer.headers["Location"]).text


def test_one_task_is_asked_again_and_the_others_stay_listed(client: FlaskClient, queue: JobQueue) -> None:
    queue.announce("tiny@1")
    fail(queue, 1, 2)
    client.post("/retry", data={"project": "1", "task": "2"})
    assert [job.task_id for job in requests_in(queue)] == [2]
    assert [failure.task_id for failure in queue.failures()] == [1]


def test_what_fails_again_at_once_stays_listed(
    queue: JobQueue, label_studio: StandInLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.announce("tiny@1")
    fail(queue, 1)
    ask_again(queue, LabelStudio.of(queue.settings), 1)
    [asked] = requests_in(queue)
    queue.record_failure(Failure.of(asked, "predict", "ours", "It broke."))
    submit = queue.submit

    def submit_and_fail(jobs: Sequence[PredictJob], *, front: bool = False) -> int:
        new = submit(jobs, front=front)
        for job in jobs:
            queue.record_failure(Failure.of(job, "predict", "ours", "It broke again."))
        return new

    monkeypatch.setattr(queue, "submit", submit_and_fail)
    ask_again(queue, LabelStudio.of(queue.settings), 1)
    assert [failure.reason for failure in queue.failures()] == ["It broke again."]


def test_tasks_that_are_gone_leave_the_list_and_those_without_words_stay_with_their_reason(
    queue: JobQueue, label_studio: StandInLabelStudio
) -> None:
    queue.announce("tiny@1")
    label_studio.data[2] = {"image": "", "expression": ""}
    fail(queue, 1, 2, 99)
    asked = ask_again(queue, LabelStudio.of(queue.settings), 1)
    assert asked == Asked(tasks=3, again=1, unaskable=1, gone=1)
    assert [failure.task_id for failure in queue.failures()] == [2]


@pytest.mark.parametrize(
    "headers", [{"Sec-Fetch-Site": "cross-site"}, {"Origin": "http://elsewhere.example"}, {"Origin": "null"}]
)
def test_a_form_from_another_site_does_nothing(client: FlaskClient, queue: JobQueue, headers: dict[str, str]) -> None:
    fail(queue, 1)
    assert client.post("/retry", data={"project": "1"}, headers=headers).status_code == 400
    assert requests_in(queue) == []


@pytest.mark.parametrize("form", [{}, {"project": "x"}, {"project": "1", "task": "-1"}, {"project": "9" * 40}])
def test_a_form_that_names_no_project_is_refused(client: FlaskClient, form: dict[str, str]) -> None:
    assert client.post("/retry", data=form).status_code == 400


def test_a_label_studio_that_is_away_is_said_on_the_page(client: FlaskClient, queue: JobQueue) -> None:
    fail(queue, 1)
    away = queue.settings.model_copy(update={"label_studio_url": "http://127.0.0.1:9"})
    answer = create_app(away, queue).test_client().post("/retry", data={"project": "1"}, follow_redirects=True)
    assert answer.status_code == 200
    assert 'role="status"' in answer.text
    assert [failure.task_id for failure in queue.failures()] == [1]


def test_a_redis_that_is_away_is_a_page_too(queue: JobQueue, redis_server: EmbeddedRedis, client: FlaskClient) -> None:
    redis_server.stop()
    answer = client.get("/")
    assert answer.status_code == 503
    assert "Nothing that was accepted is lost" in answer.text


def test_the_page_is_behind_the_password(settings: Settings, queue: JobQueue) -> None:
    locked = Settings(**{**settings.model_dump(), "basic_user": "me", "basic_password": "pw"})
    client = create_app(locked, queue).test_client()
    for path in ("/", "/style.css", "/thumbnails/" + "0" * 32 + ".jpg"):
        assert client.get(path).status_code == 401
    assert client.post("/retry").status_code == 401


def test_in_a_browser_without_javascript_on_a_desk_and_on_a_phone(queue: JobQueue, tmp_path: Path) -> None:
    queue.announce("tiny@1")
    fail(queue, 1, 2, reason="The image at /data/local-files/?d=harbour/7.png does not answer.")
    draw_one(queue)
    teach(queue, 40.0, 45.0, 43.0)
    port = free_port()
    shared = queue.settings
    ours = {
        "REDIS_URL": str(shared.redis_url),
        "RSREFSEG_PORT": str(port),
        "RSREFSEG_DATA": str(shared.data),
        "LABEL_STUDIO_URL": shared.label_studio_url,
        "LABEL_STUDIO_API_KEY": KEY,
    }
    browser_path = need_browser()
    web = subprocess.Popen([sys.executable, "-m", "ml_backend.cli", "web"], env=os.environ | ours)
    url = f"http://127.0.0.1:{port}"

    def is_up() -> bool:
        try:
            return httpx.get(f"{url}/health", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_for(is_up)
        with sync_playwright() as playwright:
            quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
            browser = playwright.chromium.launch(executable_path=browser_path, args=quiet)
            for width in (1280, 390):
                context = browser.new_context(viewport={"width": width, "height": 900}, java_script_enabled=False)
                page = context.new_page()
                page.goto(url)
                assert page.locator(".pictures img").evaluate("image => image.naturalWidth") == 60
                assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing scrolls sideways"
                charts = page.locator("figure svg")
                assert charts.count() == 2
                boxes = [charts.nth(number).bounding_box() for number in range(2)]
                assert all(box and box["width"] > 250 and box["x"] + box["width"] <= width for box in boxes)
                words = page.locator("figure svg text").all_text_contents()
                assert {"mIoU, %", "corrections learnt from", "0", "70"} <= set(words)
                context.close()
            page = browser.new_page(java_script_enabled=False)
            page.goto(url)
            page.get_by_role("button", name="Try task 1 again").click()
            assert page.get_by_role("status").inner_text() == "1 of 1 tasks are on their way again."
            page.get_by_role("button", name="Try all of project 1 again").click()
            assert page.get_by_role("status").inner_text() == "1 of 1 tasks are on their way again."
            browser.close()
    finally:
        web.terminate()
        web.wait(timeout=30)
    assert sorted(job.task_id for job in requests_in(queue)) == [1, 2]
