from __future__ import annotations

import pytest
from flask.testing import FlaskClient
from pydantic import ValidationError

from ml_backend.options import Options
from tests.unit.ml_backend.stub_queue import StubQueue
from workers.contract import Rules

CONFIG = """<View><Image name="image" value="$image"/>
<BrushLabels name="tag" toName="image"><Label value="target"/></BrushLabels></View>"""


def setup(client: FlaskClient, extra_params: object) -> tuple[int, str]:
    response = client.post("/setup", json={"project": "3.1", "schema": CONFIG, "extra_params": extra_params})
    return response.status_code, response.status


def test_what_is_kept_is_read_back() -> None:
    options = Options(control="box", instances=True, speck_pixels=5)
    assert options.control == ("box",)
    assert Options.kept(options.to_keep()) == options
    assert Options().to_keep() is None
    assert Options.kept(None) == Options()


def test_rules_travel_only_where_they_are_not_ours() -> None:
    assert Options(rotated=True).rules is None
    assert Options(speck_pixels=5).rules == Rules(speck_pixels=5)


@pytest.mark.parametrize(
    ("extra_params", "said"),
    [
        ({"expresion_field": "caption"}, 'perhaps "expression_field" is meant'),
        ({"instance": True}, 'perhaps "instances" is meant'),
        ({"speck_pixels": -1}, "speck_pixels"),
        ({"control": "box"}, 'choose the control "box"'),
        (["rotated"], "extra_params"),
        ("{", "must be a JSON object"),
    ],
)
def test_an_option_that_will_not_do_is_refused_when_the_backend_is_added(
    client: FlaskClient, queue: StubQueue, extra_params: object, said: str
) -> None:
    status, line = setup(client, extra_params)
    assert status == 422
    assert said in line
    assert queue.options(3) is None


def test_options_are_kept_for_the_project_and_forgotten_when_they_are_gone(
    client: FlaskClient, queue: StubQueue
) -> None:
    assert setup(client, '{"control": ["tag"], "tolerance_px": 2}')[0] == 200
    assert Options.kept(queue.options(3)) == Options(control=("tag",), tolerance_px=2)
    setup(client, None)
    assert queue.options(3) is None


def test_options_cannot_be_misspelt_in_python_either() -> None:
    with pytest.raises(ValidationError, match='perhaps "rotated"'):
        Options.model_validate({"rotate": True})
