from __future__ import annotations

import pytest

from tests.factories import make_job
from workers.failures import Failure, shown


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("/data/upload/1/a.png", "/data/upload/1/a.png"),
        ("/data/local-files/?d=scenes/7.png", "/data/local-files/?d=scenes/7.png"),
        ("s3://bucket/7.png", "s3://bucket/7.png"),
        ("https://host.example/7.png?X-Amz-Signature=secret#secret", "https://host.example/7.png"),
        ("https://me:secret@host.example/7.png", "https://host.example/7.png"),
        ("http://[broken", "http://[broken"),
    ],
)
def test_a_uri_is_shown_without_its_passwords(uri: str, expected: str) -> None:
    assert shown(uri) == expected


def test_an_image_inside_a_uri_is_shown_by_its_beginning() -> None:
    failure = Failure.of(make_job(image_uri="data:image/png;base64," + "A" * 10_000), "predict", "ours", "No.")
    assert len(failure.image_uri) == 200
    assert failure.image_uri.startswith("data:image/png;base64,AAA")
    assert Failure.model_validate_json(failure.model_dump_json()) == failure
