from __future__ import annotations

import re

import numpy as np
import pytest
from label_studio_sdk.label_interface import LabelInterface

from ml_backend.label_config import read_label_config
from ml_backend.protocol import Task
from ml_backend.translate import answer_to_prediction, task_to_job
from tests.examples import FOLDER, NAMES, Example
from tests.factories import make_answer


@pytest.mark.parametrize("name", NAMES)
def test_the_tasks_of_an_example_become_predictions_that_its_config_takes(name: str) -> None:
    example = Example.read(name)
    config = read_label_config(example.config, example.options)
    for number, task in enumerate(example.tasks):
        job = task_to_job(Task(id=number, data=task["data"]), 1, config)
        assert set(job.image_uris) == {value for value in task["data"].values() if value.startswith("https://")}
        prediction = answer_to_prediction(make_answer(job, np.eye(60, 80, dtype=bool)))
        assert LabelInterface(example.config).validate_prediction(prediction, return_errors=True) == []
        assert len({region["id"] for region in prediction["result"]}) == len(job.asks)


def test_the_page_about_the_examples_names_each_folder_and_no_other() -> None:
    named = re.findall(r"^\| \[([\w-]+)\]", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert sorted(named) == NAMES
