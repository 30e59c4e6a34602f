"""The one table of settings that the web process, the courier and the worker read at their start."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, RedisDsn, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from workers.contract import PIXELS_LIMIT
from workers.errors import SettingsError

__all__ = ["Settings", "SettingsError"]

PREFIX = "RSREFSEG_"
"""What the name of every setting of our own begins with."""


class Settings(BaseSettings):
    """What the processes need to know of their surroundings."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", populate_by_name=True, use_attribute_docstrings=True
    )

    label_studio_url: Annotated[str, Field(validation_alias="LABEL_STUDIO_URL", pattern=r"^https?://[^/\s]+")] = (
        "http://localhost:8080"
    )
    """Where Label Studio is, as this process reaches it."""
    label_studio_public_url: Annotated[str, Field(pattern=r"^https?://[^/\s]+")] | None = None
    """Where people's browsers find Label Studio, for links, if not at LABEL_STUDIO_URL."""
    label_studio_api_key: Annotated[SecretStr, Field(validation_alias="LABEL_STUDIO_API_KEY")] = SecretStr("")
    """A legacy token or a personal access token of Label Studio; opens its images and its API."""
    redis_url: Annotated[RedisDsn | None, Field(validation_alias="REDIS_URL", repr=False)] = None
    """Where jobs wait; without it the processes of one machine share an embedded Redis under RSREFSEG_DATA."""

    data: Path = Path("~/.local/share/rsrefseg")
    """Where the embedded Redis, the corrections and the model versions are kept."""
    preset: str = "tiny"
    """Which model of the package a worker loads."""
    checkpoint: Path | None = None
    """A directory with a checkpoint to load in place of the preset's own weights."""
    device: Literal["cpu", "cuda"] | None = None
    """Where the model runs; without it a GPU where there is one."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """What a worker computes with; bfloat16 is faster on most GPUs and on a CPU with avx512_bf16."""
    cache_bytes: Annotated[int, Field(ge=0)] = 256 * 1024 * 1024
    """Most memory of a worker's device for images that may be asked about again, in bytes; 0 for none."""
    versions_kept: Annotated[int, Field(ge=1)] = 16
    """Most projects' model versions that a worker keeps in memory beside its own, those asked for last."""

    host: str = "127.0.0.1"
    """The address that the web process listens on."""
    port: Annotated[int, Field(gt=0, lt=65536)] = 9090
    """The port that the web process listens on."""
    basic_user: Annotated[str, Field(pattern="^[^:]*$")] = ""
    """The name that callers of the web process must show, by HTTP Basic; without it everybody may call."""
    basic_password: Annotated[SecretStr, Field(validate_default=True)] = SecretStr("")
    """The password that goes with RSREFSEG_BASIC_USER; Label Studio is told both where the model is connected."""
    public_url: Annotated[str, Field(pattern=r"^https?://[^/\s]+")] | None = None
    """Where Label Studio finds the web process, if that is not where it listens: http://backend.internal:9090."""
    rate_limit: Annotated[int, Field(ge=0)] = 500
    """Most requests a second of one address, which is Label Studio's for all annotators; 0 for no limit."""
    guess_limit: Annotated[int, Field(ge=0)] = 30
    """Most wrong passwords a minute of one address, for each route; 0 for no limit."""
    proxies: Annotated[int, Field(ge=0, le=10)] = 0
    """How many proxies in front of the web process append to X-Forwarded-For, of which it then takes the address."""
    web_threads: Annotated[int, Field(gt=0)] = 128
    """How many requests the web process answers at once; all but four of them may be people who wait for a mask."""
    open_wait_s: Annotated[float, Field(ge=0)] = 5.0
    """How long the answer for one opened task may wait for its prediction, in seconds."""
    interactive_wait_s: Annotated[float, Field(gt=0)] = 20.0
    """How long a person who typed an expression in the editor may wait for the mask, in seconds."""

    queue_limit: Annotated[int, Field(gt=0)] = 500_000
    """Most requests that may be on their way at once; beyond it new ones are refused for the time being."""
    project_limit: Annotated[int, Field(gt=0)] = 200_000
    """The same for those of one project."""
    answers_limit: Annotated[int, Field(gt=0)] = 10_000
    """With so many masks to deliver workers pause, so that a Label Studio that is away does not fill Redis."""
    chunk_s: Annotated[float, Field(gt=0)] = 2.0
    """After how long a worker puts back what is left of its chunk, so that others get their turn, in seconds."""
    batch_images: Annotated[int, Field(gt=0)] = 8
    """Most images that a GPU encodes at once; too many for its memory are halved. A CPU takes one at a time."""
    second_look: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Most of a worker's answers that are asked again in mirrors and other words to know their worth; 0 for none."""
    predict_timeout_s: Annotated[int, Field(gt=0)] = 100
    """Longest that one step may take, in seconds: a batch of images, or the masks of one image."""
    thumbnails: Annotated[int, Field(ge=0, le=200)] = 24
    """How many of the last predictions the status page shows as small pictures, which are kept in Redis; 0 for none."""
    failure_days: Annotated[int, Field(gt=0)] = 7
    """How long a failure stays on the list, in days."""

    image_bytes_limit: Annotated[int, Field(gt=0)] = 512 * 1024 * 1024
    """Largest image file, in bytes."""
    image_pixels_limit: Annotated[int, Field(gt=0, le=PIXELS_LIMIT)] = 150_000_000
    """Largest image, height times width."""
    image_memory_limit: Annotated[int, Field(gt=0)] = 2_684_354_560
    """Most memory that decoding one image may take, as its format, size and bands foretell it, in bytes."""
    image_timeout_s: Annotated[float, Field(gt=0)] = 60.0
    """Longest that fetching one image may take in all, in seconds."""
    image_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Hosts on private networks that images may come from, with commas between; *.lan means all within lan."""
    image_hosts_only: bool = False
    """Whether images come from those hosts alone; Label Studio and its cloud storages are allowed in any case."""
    image_cache_bytes: Annotated[int, Field(ge=0)] = 1024**3
    """Most disk space under RSREFSEG_DATA for image files that are asked for again, in bytes; 0 for none."""

    anchor: Path | None = None
    """What projects' models must not forget: referring jsonl with splits train and test; without it drawn scenes."""

    reconcile_s: Annotated[float, Field(gt=0)] = 300.0
    """How often the courier looks through each project for annotations that no webhook told of, in seconds."""

    replaced_s: Annotated[float, Field(ge=0)] = 60.0
    """How long a prediction stays after a newer version's replaced it, in seconds: who has it open submits on it."""
    retrain_after: Annotated[int, Field(ge=0)] = 50
    """After how many new corrections a project is retrained; 0 for never by their number."""
    retrain_least: Annotated[int, Field(gt=0)] = 10
    """How many new corrections are enough after RSREFSEG_RETRAIN_HOURS."""
    retrain_hours: Annotated[float, Field(ge=0)] = 24.0
    """How long fewer new corrections wait for the next training, in hours; 0 for ever."""
    retrain_quiet_s: Annotated[float, Field(ge=0)] = 60.0
    """How long no correction may have come before a training begins by itself, in seconds."""

    hung_s: Annotated[float, Field(validate_default=True)] = 120.0
    """How long a worker may be silent over a job before it is killed, in seconds; longer than any one step may take."""
    stop_s: Annotated[float, Field(gt=0)] = 60.0
    """How long workers may take to end the batch in hand after SIGTERM, in seconds; then they are killed."""

    metrics_port: Annotated[int, Field(gt=0, lt=65536)] | None = None
    """Where a courier, or the workers of one command together, show their metrics; without it nowhere."""
    metrics_host: str = "127.0.0.1"
    """The address that goes with RSREFSEG_METRICS_PORT; the web process has its own, /metrics."""

    traces_url: Annotated[str, Field(pattern=r"^https?://[^/\s]+")] | None = None
    """Where OpenTelemetry traces go, by OTLP over HTTP: http://collector:4318/v1/traces; without it nowhere."""
    traces_share: Annotated[float, Field(ge=0, le=1)] = 1.0
    """How many of the traces that begin in this process are told."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """The least serious log line that is written."""

    @property
    def label_studio_for_people(self) -> str:
        """Where links to Label Studio lead."""
        return self.label_studio_public_url or self.label_studio_url

    @field_validator("label_studio_url", "label_studio_public_url", "public_url")
    @classmethod
    def _without_slash(cls, url: str | None) -> str | None:
        return url.rstrip("/") if url else url

    @field_validator("basic_password")
    @classmethod
    def _both_or_neither(cls, password: SecretStr, info: ValidationInfo) -> SecretStr:
        if bool(info.data.get("basic_user")) != bool(password.get_secret_value()):
            raise ValueError("RSREFSEG_BASIC_USER and RSREFSEG_BASIC_PASSWORD go together, both or neither")
        return password

    @field_validator("hung_s")
    @classmethod
    def _above_the_longest_step(cls, hung_s: float, info: ValidationInfo) -> float:
        if hung_s <= max(info.data.get("image_timeout_s", 0), info.data.get("predict_timeout_s", 0)):
            raise ValueError("it must be above RSREFSEG_IMAGE_TIMEOUT_S and RSREFSEG_PREDICT_TIMEOUT_S")
        return hung_s

    @field_validator("data", "checkpoint", "anchor")
    @classmethod
    def _at_home(cls, path: Path | None) -> Path | None:
        return path.expanduser() if path else None

    @field_validator("image_hosts", mode="before")
    @classmethod
    def _split_at_commas(cls, hosts: object) -> object:
        return (
            tuple(host.strip().lower() for host in hosts.split(",") if host.strip())
            if isinstance(hosts, str)
            else hosts
        )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read nothing but what is handed over: `load` is the only reader of the environment.

        Args:
            settings_cls: This class.
            init_settings: What the constructor was given.
            env_settings: Not used.
            dotenv_settings: Not used.
            file_secret_settings: Not used.

        Returns:
            The constructor's arguments alone.
        """
        return (init_settings,)

    @classmethod
    def variables(cls) -> dict[str, str]:
        """List the environment variables that are settings.

        Returns:
            The name of each field by the name of its variable.
        """
        return {str(field.validation_alias or PREFIX + name.upper()): name for name, field in cls.model_fields.items()}

    @classmethod
    def load(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Read the settings; an empty variable counts as unset.

        Args:
            environ: The environment variables.

        Returns:
            The settings.

        Raises:
            SettingsError: If a variable of ours is unknown or its value will not do; one line for each.
        """
        problems = _misspelt(environ, cls.variables())
        source = EnvSettingsSource(cls)
        source.env_vars = {name.lower(): value for name, value in environ.items() if value}
        try:
            settings = cls(**source())
        except ValidationError as exc:
            variables = {field: variable for variable, field in cls.variables().items()}
            problems += [
                # Only the message: the value may be a secret.
                f"{variables.get(str(error['loc'][0]), error['loc'][0])} will not do: {error['msg']}."
                for error in exc.errors(include_url=False, include_context=False, include_input=False)
            ]
        if problems:
            raise SettingsError("\n".join(problems))
        return settings


def _misspelt(environ: Mapping[str, str], known: Mapping[str, str]) -> list[str]:
    problems = []
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            problems.append(f"{name} is not a setting; did you mean {nearest}?")
    return problems
