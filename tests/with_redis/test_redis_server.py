from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from redis import Redis

from tests.with_redis.conftest import wait_for
from workers.errors import RedisServerError
from workers.redis_server import EmbeddedRedis

CLIENT = """
import sys, time
from pathlib import Path
from workers.redis_server import EmbeddedRedis
with EmbeddedRedis.attach(Path(sys.argv[1])) as server:
    print(server.url, flush=True)
    sys.stdin.read()
"""


def start_client(directory: Path) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-c", CLIENT, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    return process, process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> None:
    process.communicate("")
    assert process.returncode is not None


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_server_survives_its_first_client_and_leaves_with_the_last(tmp_path: Path) -> None:
    first, url = start_client(tmp_path)
    second, same_url = start_client(tmp_path)
    assert url == same_url
    with Redis.from_url(url) as redis:
        redis.set("kept", "yes")
        pid = int(redis.info("server")["process_id"])
        first.kill()
        end(first)
        assert redis.get("kept") == b"yes"
    third, _ = start_client(tmp_path)
    end(third)
    assert is_running(pid), "somebody is still there"
    end(second)
    assert not is_running(pid)


def test_a_server_whose_clients_were_all_killed_is_found_by_the_next(tmp_path: Path) -> None:
    client, url = start_client(tmp_path)
    client.kill()
    end(client)
    with EmbeddedRedis.attach(tmp_path) as server:
        assert server.url == url
        pid = server.pid
    assert not is_running(pid)


def test_what_was_accepted_survives_a_killed_server_at_the_same_address(tmp_path: Path) -> None:
    with EmbeddedRedis.attach(tmp_path) as server, Redis.from_url(server.url) as redis:
        redis.set("kept", "yes")
        pid = server.pid
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not is_running(pid))
        with EmbeddedRedis.attach(tmp_path) as again:
            assert again.url == server.url
            assert redis.get("kept") == b"yes"


def test_a_taken_port_is_replaced_by_another(tmp_path: Path) -> None:
    with EmbeddedRedis.attach(tmp_path) as server:
        url = server.url
    with EmbeddedRedis.attach(tmp_path / "other"):
        (tmp_path / "url").write_text((tmp_path / "other" / "url").read_text())
        with EmbeddedRedis.attach(tmp_path) as again, Redis.from_url(again.url) as redis:
            assert again.url != url
            assert redis.ping()


def test_its_secrets_are_for_its_owner_alone_and_it_listens_on_loopback(tmp_path: Path) -> None:
    with EmbeddedRedis.attach(tmp_path / "redis") as server, Redis.from_url(server.url) as redis:
        for name in ("redis.conf", "url"):
            assert (tmp_path / "redis" / name).stat().st_mode & 0o077 == 0
        config = redis.config_get("*")
        expected = {
            "bind": "127.0.0.1",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
        }
        assert {name: config[name] for name in expected} == expected
        assert len(config["requirepass"]) > 30


def test_two_servers_never_share_a_directory(tmp_path: Path) -> None:
    server = EmbeddedRedis.start(tmp_path)
    with pytest.raises(RedisServerError, match="already runs"):
        EmbeddedRedis.start(tmp_path)
    server.stop()
    EmbeddedRedis.start(tmp_path).stop()


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "appendonly.aof").write_text("this was never an append-only file")
    with pytest.raises(RedisServerError, match="append only file"):
        EmbeddedRedis.start(tmp_path)
