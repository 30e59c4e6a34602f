"""Every place where Label Studio says that an image is, read as a worker reads it."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ml_backend.label_studio import LabelStudio
from ml_backend.label_studio_server import LabelStudioServer
from tests.factories import make_image_uri, make_png
from tests.loopback import Answering, serving
from tests.with_label_studio.conftest import Project
from workers.errors import ImageRefused
from workers.image_cache import ImageCache
from workers.images import ImageFetcher

OLD, NEW = make_png((40, 60)), make_png((20, 60))
EXPRESSION = {"expression": "the ship"}


@dataclass
class Bucket:
    """A host of files on loopback, which is also as much of S3 as Label Studio asks of one."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    sent: int = 0


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    bucket = Bucket(files={"/scenes/a.png": OLD})

    class Files(Answering, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            bucket.asked.append(self.path)
            path = self.path.partition("?")[0]
            content = b"" if path.rstrip("/") == "/scenes" else bucket.files.get(path)
            etag = f'"{hash(content)}"'
            changed = self.headers["If-None-Match"] != etag
            self.send_response(404 if content is None else 200 if changed else 304)
            self.send_header("ETag", etag)
            self.send_header("Content-Length", str(len(content or b"") if changed else 0))
            self.end_headers()
            if self.command == "GET" and changed and content:
                bucket.sent += 1
                self.wfile.write(content)

        do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for

    with serving(Files) as bucket.url:
        yield bucket


Fetch = Callable[..., ImageFetcher]


@pytest.fixture
def fetcher(open_fetcher: Fetch, label_studio: LabelStudioServer) -> Fetch:
    return partial(open_fetcher, label_studio_url=label_studio.url, label_studio_api_key=label_studio.token)


def task_of(project: Project, image: str) -> tuple[str, int]:
    """The image as the task holds it, once Label Studio has stored it."""
    [task] = project.add({"image": image, **EXPRESSION})
    raw = project.api.get(f"/api/tasks/{task}", params={"resolve_uri": "false"}).raise_for_status().json()
    return raw["data"]["image"], task


@pytest.mark.filterwarnings("ignore:The `parse_obj` method is deprecated")  # label-studio-sdk 2.1.2
@pytest.mark.parametrize("kind", ["legacy", "personal"])
def test_an_upload_is_opened_by_either_kind_of_token(
    label_studio: LabelStudioServer, project: Project, fetcher: Fetch, personal_token: str, kind: str
) -> None:
    token = personal_token if kind == "personal" else label_studio.token
    uri, task = task_of(project, project.upload("a.png", OLD))
    images = fetcher(label_studio_api_key=token)
    assert images.fetch(uri, task).shape == (40, 60, 3)
    assert images.fetch(uri, task).shape == (40, 60, 3)
    with closing(LabelStudio(label_studio.url, token)) as door:
        assert door.check_key() == label_studio.username


def test_a_stranger_is_told_which_key_to_set(project: Project, fetcher: Fetch) -> None:
    uri, task = task_of(project, project.upload("a.png", OLD))
    with pytest.raises(ImageRefused, match="set LABEL_STUDIO_API_KEY"):
        fetcher(label_studio_api_key="").fetch(uri, task)


def test_a_local_file_is_read_once_until_it_changes(
    label_studio: LabelStudioServer, project: Project, tmp_path: Path, fetcher: Fetch
) -> None:
    folder = label_studio.log.parent / f"scenes {project.id}"
    folder.mkdir()
    file = folder / "a b.png"
    file.write_bytes(OLD)
    uri, task = task_of(project, f"/data/local-files/?d={folder.name}/a b.png")
    images = fetcher()
    with pytest.raises(ImageRefused, match="Local Files storage"):
        images.fetch(uri, task)
    storage = {"project": project.id, "path": str(folder), "use_blob_urls": True}
    project.api.post("/api/storages/localfiles", json=storage).raise_for_status()
    assert images.fetch(uri, task).shape == (40, 60, 3)
    other = make_png((10, 10))
    cache, name = ImageCache(tmp_path / "cache" / "images", 10**6), f"{label_studio.url} {uri}"
    with cache.find(name) as kept:
        assert kept is not None
        cache.keep(name, kept.validators, other)
    assert images.fetch(uri, task).shape == (10, 10, 3), "Label Studio said that it has not changed, and sent nothing"
    file.write_bytes(NEW)
    assert images.fetch(uri, task).shape == (20, 60, 3)


def test_an_image_may_be_inside_the_task(project: Project, fetcher: Fetch) -> None:
    uri, task = task_of(project, make_image_uri((40, 60)))
    assert fetcher().fetch(uri, task).shape == (40, 60, 3)


def test_another_host_is_asked_without_the_token_if_it_may_be(
    label_studio: LabelStudioServer, project: Project, bucket: Bucket, fetcher: Fetch
) -> None:
    uri, task = task_of(project, f"{bucket.url}/scenes/a.png")
    with pytest.raises(ImageRefused, match=r"add 127\.0\.0\.1 to RSREFSEG_IMAGE_HOSTS"):
        fetcher().fetch(uri, task)
    assert bucket.asked == []
    images = fetcher(image_hosts="127.0.0.1")
    for _ in range(2):
        assert images.fetch(uri, task).shape == (40, 60, 3)
    assert bucket.sent == 1
    bucket.files["/scenes/a.png"] = NEW
    assert images.fetch(uri, task).shape == (20, 60, 3)


@pytest.mark.parametrize("presign", [True, False], ids=["presigned", "through Label Studio"])
def test_a_cloud_image_is_read_with_the_storages_credentials_which_stay_in_label_studio(
    label_studio: LabelStudioServer, project: Project, bucket: Bucket, fetcher: Fetch, presign: bool
) -> None:
    storage = {
        "project": project.id,
        "bucket": "scenes",
        "s3_endpoint": bucket.url,
        "region_name": "us-east-1",
        "aws_access_key_id": "key",
        "aws_secret_access_key": "secret",
        "use_blob_urls": True,
        "presign": presign,
    }
    project.api.post("/api/storages/s3", json=storage).raise_for_status()
    uri, task = task_of(project, "s3://scenes/a.png")
    assert uri == "s3://scenes/a.png"
    bucket.asked.clear()
    images = fetcher()
    for _ in range(2):
        assert images.fetch(uri, task).shape == (40, 60, 3)
    assert ("X-Amz-Signature" in bucket.asked[-1]) == presign
    assert bucket.sent == (1 if presign else 2)
    bucket.files["/scenes/a.png"] = NEW
    assert images.fetch(uri, task).shape == (20, 60, 3)
    with pytest.raises(ImageRefused, match="has no s3://elsewhere"):
        images.fetch("s3://elsewhere/a.png", task)


def test_a_photo_lies_as_the_annotator_sees_it(
    label_studio: LabelStudioServer, project: Project, fetcher: Fetch
) -> None:
    exif = Image.Exif()
    exif[274] = 6
    photo = make_png((40, 60), format="JPEG", quality=100, exif=exif)
    uri, task = task_of(project, "data:image/jpeg;base64," + base64.b64encode(photo).decode())
    image = fetcher().fetch(uri, task)
    assert image.shape == (60, 40, 3)
    assert np.median(image[:25, 25:]) > 250
