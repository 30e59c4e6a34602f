"""What is counted is what happened, under labels that do not grow without end."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from prometheus_client import REGISTRY

from tests.factories import make_task_corrections
from workers import metrics
from workers.corrections import TaskCorrections
from workers.device_use import DeviceUse, synchronise


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def corrected(version: str, iou: float | None = 0.75, origin: str = "changed", minute: int = 0) -> TaskCorrections:
    task = make_task_corrections(corrections=1, updated_at=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minute))
    record = task.annotations[0]
    one = record.corrections[0].model_copy(update={"iou": iou, "origin": origin})
    return task.model_copy(
        update={"annotations": (record.model_copy(update={"model_version": version, "corrections": (one,)}),)}
    )


def versions_shown() -> set[str]:
    name = "rsrefseg_prediction_annotation_iou_count"
    samples = [sample for family in REGISTRY.collect() for sample in family.samples if sample.name == name]
    return {sample.labels["model_version"] for sample in samples}


def test_a_correction_is_counted_once_for_each_form_of_its_annotation() -> None:
    before = value("rsrefseg_corrections_total", origin="changed")
    held = value("rsrefseg_prediction_annotation_iou_sum", model_version="tiny@once")
    first, again = corrected("tiny@once"), corrected("tiny@once", iou=0.5, minute=1)
    metrics.count_corrections(None, first)
    metrics.count_corrections(first, first)
    metrics.count_corrections(first, again)
    assert value("rsrefseg_corrections_total", origin="changed") - before == 2
    assert value("rsrefseg_prediction_annotation_iou_sum", model_version="tiny@once") - held == pytest.approx(1.25)
    assert value("rsrefseg_prediction_annotation_iou_bucket", model_version="tiny@once", le="0.5") == 1


def test_what_was_drawn_from_nothing_has_no_iou() -> None:
    before = versions_shown()
    metrics.count_corrections(None, corrected("tiny@drawn", iou=None, origin="drawn"))
    assert versions_shown() == before


@pytest.mark.parametrize("foreign", ["", "somebody else's model", "a" * 500, "yolo", "<b>@1"])
def test_predictions_of_others_share_one_label(foreign: str) -> None:
    before = value("rsrefseg_prediction_annotation_iou_count", model_version="other")
    metrics.count_corrections(None, corrected(foreign))
    assert value("rsrefseg_prediction_annotation_iou_count", model_version="other") == before + 1
    assert foreign not in versions_shown()


def test_the_versions_met_last_keep_a_label_of_their_own() -> None:
    for number in range(metrics.VERSIONS + 5):
        metrics.count_corrections(None, corrected("tiny@stays"))
        metrics.count_corrections(None, corrected(f"tiny@{number}"))
    shown = versions_shown() - {"other"}
    assert len(shown) == metrics.VERSIONS
    assert {"tiny@stays", f"tiny@{metrics.VERSIONS + 4}"} <= shown
    assert "tiny@0" not in shown


def test_images_found_encoded_are_counted_as_they_become_more() -> None:
    use = SimpleNamespace(hits=3, misses=1)
    device = DeviceUse(SimpleNamespace(cache=SimpleNamespace(use=use)))
    hits, misses = (value("rsrefseg_embedding_cache_total", result=result) for result in ("hit", "miss"))
    device.note()
    use.hits = 5
    device.note()
    assert value("rsrefseg_embedding_cache_total", result="hit") - hits == 5
    assert value("rsrefseg_embedding_cache_total", result="miss") - misses == 1
    assert value("rsrefseg_device_memory_bytes") > 1e6


def test_a_worker_says_what_it_holds_and_how_busy_it_is() -> None:
    device = DeviceUse()
    metrics.BUSY_SECONDS.inc(0.05)
    time.sleep(0.1)
    said = device.note()
    assert int(said["device_memory_bytes"]) > 1e6
    assert 0.05 < float(said["device_busy_share"]) <= 0.5
    metrics.BUSY_SECONDS.inc(1000)
    assert device.note()["device_busy_share"] == "1.000"


def test_a_stage_on_a_gpu_is_timed_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[float] = []

    class Gpu:
        """Returns at once, and is done a little later."""

        is_initialized = staticmethod(lambda: True)

        def synchronize(self) -> None:
            time.sleep(max(0.0, begun[-1] + 0.05 - time.monotonic()))

    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=Gpu()))
    before = value("rsrefseg_stage_seconds_sum", stage="test")
    with metrics.timed("test"):
        begun.append(time.monotonic())
        synchronise()
    assert value("rsrefseg_stage_seconds_sum", stage="test") - before >= 0.05


def test_without_a_gpu_nothing_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asleep = SimpleNamespace(is_initialized=lambda: False)  # It has no synchronize: asking would raise.
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=asleep))
    synchronise()
