"""Label Studio itself on loopback, headless, for the demo and the tests; production runs its own."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

from ml_backend.errors import StartFailed
from workers.ports import free_port

START_LIMIT_S = 180
USERNAME = "admin@example.com"


@dataclass(frozen=True)
class LabelStudioServer:
    """A running Label Studio that this process started."""

    process: subprocess.Popen[bytes]
    url: str
    password: str
    token: str
    """A legacy token of the only user."""
    log: Path
    username: str = USERNAME

    @classmethod
    def start(cls, command: Path, directory: Path, files: Path, port: int | None = None) -> LabelStudioServer:
        """Start and wait until it answers as ours.

        The first start in a directory lays out the database, which takes half a minute; a laid-out one is kept beside
        the command and copied into further directories.

        Args:
            command: The `label-studio` of its own environment.
            directory: Its database, its uploads, its log; made if missing.
            files: The folder below which projects may serve local images.
            port: Where to listen on loopback; a free one by default.

        Returns:
            The server, ready for requests.

        Raises:
            StartFailed: If the command is missing, ends, or does not answer in time.
        """
        if not command.exists():
            raise StartFailed(f"{command} is missing: `make setup` installs Label Studio in its own environment")
        directory.mkdir(parents=True, exist_ok=True)
        port = port or free_port()
        password, token = _credentials(directory)
        log = directory / "label-studio.log"
        environment = _environment(directory, files, password, token, port)
        _lay_out_database(command, directory, environment, log)
        with log.open("ab") as output:
            process = subprocess.Popen(
                [str(command), "start", "--no-browser", "--internal-host", "127.0.0.1", "--port", str(port)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches the demo alone, which then stops this by its pid
            )
        server = cls(process, f"http://127.0.0.1:{port}", password, token, log)
        try:
            server._wait_until_ours()
        except BaseException:
            server.stop()
            raise
        return server

    def stop(self) -> None:
        """End the process, first asking, then insisting."""
        self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _wait_until_ours(self) -> None:
        # Where its port is taken, Label Studio moves to the next one without a word: only our token proves it is ours.
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise StartFailed(f"Label Studio ended with code {self.process.returncode}; its log is {self.log}")
            try:
                answer = httpx.get(
                    f"{self.url}/api/current-user/whoami", headers={"Authorization": f"Token {self.token}"}, timeout=5
                )
                if answer.status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.3)
        raise StartFailed(f"Label Studio did not answer within {START_LIMIT_S} s; its log is {self.log}")


def _credentials(directory: Path) -> tuple[str, str]:
    kept = directory / "credentials"
    if not kept.exists():
        kept.touch(mode=0o600)
        kept.write_text(f"{secrets.token_urlsafe(9)}\n{secrets.token_hex(20)}\n")
    password, token = kept.read_text().split()
    return password, token


def _environment(directory: Path, files: Path, password: str, token: str, port: int) -> dict[str, str]:
    # Built from little, so that a DEBUG or DATABASE_NAME of the caller's surroundings changes nothing.
    inherited = {
        key: os.environ[key] for key in ("PATH", "LANG", "LC_ALL", "TMPDIR", "SSL_CERT_FILE") if key in os.environ
    }
    home = directory / "home"
    home.mkdir(exist_ok=True)
    return inherited | {
        "HOME": str(home),
        "XDG_DATA_HOME": str(home / "data"),
        "XDG_CONFIG_HOME": str(home / "config"),
        "XDG_CACHE_HOME": str(home / "cache"),
        "LABEL_STUDIO_BASE_DATA_DIR": str(directory / "data"),
        "LABEL_STUDIO_USERNAME": USERNAME,
        "LABEL_STUDIO_PASSWORD": password,
        "LABEL_STUDIO_USER_TOKEN": token,
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
        "LOCAL_FILES_SERVING_ENABLED": "true",
        "LOCAL_FILES_DOCUMENT_ROOT": str(files),
        # Both refuse backends on loopback and private addresses, which is where ours is.
        "ML_BLOCK_LOCAL_IP": "false",
        "SSRF_PROTECTION_ENABLED": "false",
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
    }


def _lay_out_database(command: Path, directory: Path, environment: dict[str, str], log: Path) -> None:
    database = directory / "data" / "label_studio.sqlite3"
    if database.exists():
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    template = command.parent.parent / "label_studio-empty.sqlite3"
    if not template.exists():
        with log.open("ab") as output:  # any command applies the migrations; `version` does nothing else
            done = subprocess.run(
                [str(command), "version"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        if done.returncode or not database.exists():
            raise StartFailed(f"Label Studio could not lay out its database; its log is {log}")
        partial = template.with_suffix(f".{os.getpid()}")
        shutil.copyfile(database, partial)
        partial.replace(template)
    else:
        shutil.copyfile(template, database)
