from __future__ import annotations

import pytest

from workers.settings import Settings, SettingsError


def test_settings_come_from_the_environment_that_is_handed_over_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RSREFSEG_PORT", "1")
    settings = Settings.load({"LABEL_STUDIO_URL": "https://ls.example/", "RSREFSEG_IMAGE_HOSTS": "a.lan, B.lan"})
    assert settings.label_studio_url == "https://ls.example"
    assert settings.image_hosts == ("a.lan", "b.lan")
    assert settings.port == 9090


def test_an_empty_variable_counts_as_unset() -> None:
    assert Settings.load({"REDIS_URL": "", "RSREFSEG_PRESET": ""}) == Settings()


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("RSREFSEG_PRESETS", "RSREFSEG_PRESET"),
        ("RSREFSEG_QUEUELIMIT", "RSREFSEG_QUEUE_LIMIT"),
        ("RSREFSEG_IMAGE_BYTE_LIMIT", "RSREFSEG_IMAGE_BYTES_LIMIT"),
    ],
)
def test_a_misspelt_setting_is_refused_with_the_right_name(misspelt: str, meant: str) -> None:
    with pytest.raises(SettingsError, match=f"{misspelt} is not a setting; did you mean {meant}?"):
        Settings.load({misspelt: "1"})


def test_every_problem_is_said_at_once_and_no_value_is_repeated() -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.load({
            "RSREFSEG_PORT": "secret",
            "REDIS_URL": "http://:secret@localhost",
            "LABEL_STUDIO_URL": "secret",
            "RSREFSEG_X": "1",
        })
    lines = str(refused.value).splitlines()
    assert sorted(line.split()[0] for line in lines) == [
        "LABEL_STUDIO_URL",
        "REDIS_URL",
        "RSREFSEG_PORT",
        "RSREFSEG_X",
    ]
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("environ", [{"RSREFSEG_HUNG_S": "100"}, {"RSREFSEG_IMAGE_TIMEOUT_S": "120"}])
def test_a_worker_in_the_longest_step_that_it_may_take_cannot_be_taken_for_hung(environ: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=r"RSREFSEG_HUNG_S will not do: .* above RSREFSEG_IMAGE_TIMEOUT_S"):
        Settings.load(environ)
    shorter = {"RSREFSEG_HUNG_S": "3", "RSREFSEG_IMAGE_TIMEOUT_S": "2", "RSREFSEG_PREDICT_TIMEOUT_S": "2"}
    assert Settings.load(shorter).hung_s == 3


def test_secrets_are_not_shown_with_the_settings() -> None:
    settings = Settings.load({"REDIS_URL": "redis://:secret@localhost:1/0", "LABEL_STUDIO_API_KEY": "secret"})
    assert "secret" not in repr(settings)


def test_every_setting_says_what_it_is() -> None:
    assert all(field.description for field in Settings.model_fields.values())
    assert set(Settings.variables().values()) == set(Settings.model_fields)
