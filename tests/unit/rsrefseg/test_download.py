import contextlib
import hashlib
import re
import shutil
import threading
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest
from click.testing import CliRunner

from rsrefseg import foundation
from rsrefseg.cli import main
from rsrefseg.download import HubFile, RemoteFile, WebFile, copy, download
from rsrefseg.errors import DownloadFailed, MissingWeights

CONTENT = bytes(range(256)) * 12_000  # three megabytes, so that several blocks come


class Server:
    """A loopback web server that can be told to behave badly."""

    def __init__(self):
        self.asked = []  # (path, Range, Authorization)
        self.behaviours = []  # one for each request; the last stays
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.asked.append((self.path, self.headers["Range"], self.headers["Authorization"]))
                behaviour = server.behaviours.pop(0) if len(server.behaviours) > 1 else server.behaviours[0]
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    behaviour(self)

            def log_message(self, *args):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    @property
    def ranges(self):
        return [asked for _, asked, _ in self.asked]


def serve(content=CONTENT, ranges=True, stop_after=None):
    def behave(handler):
        asked = re.match(r"bytes=(\d+)-", handler.headers["Range"] or "") if ranges else None
        begin = int(asked[1]) if asked else 0
        body = content[begin:]
        handler.send_response(206 if asked else 200)
        if asked:
            handler.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body if stop_after is None else body[:stop_after])

    return behave


def refuse(status):
    def behave(handler):
        handler.send_response(status)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return behave


def send_on(location):
    def behave(handler):
        handler.send_response(302)
        handler.send_header("Location", location)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return behave


@pytest.fixture
def server():
    with Server() as server:
        yield server


def remote(source, content=CONTENT, path="below/weights.bin"):
    return RemoteFile(path, len(content), hashlib.sha256(content).hexdigest(), source)


@pytest.fixture
def file(server):
    return remote(WebFile(f"{server.url}/weights.bin"))


def test_a_file_comes_whole_and_progress_is_told(server, file, tmp_path):
    server.behaviours = [serve()]
    told = []
    path = download(file, tmp_path, told.append)
    assert path == tmp_path / "below/weights.bin"
    assert path.read_bytes() == CONTENT
    assert told[-1] == len(CONTENT)
    assert told == sorted(told)
    assert list(path.parent.iterdir()) == [path]


def test_a_connection_that_breaks_goes_on_where_it_stopped(server, file, tmp_path):
    server.behaviours = [serve(stop_after=1_500_000), serve(stop_after=1_000_000), serve()]
    assert download(file, tmp_path, wait_s=0).read_bytes() == CONTENT
    assert server.ranges[0] is None
    begins = [int(asked.removeprefix("bytes=").removesuffix("-")) for asked in server.ranges[1:]]
    assert len(begins) == 2
    assert 0 < begins[0] < begins[1] < len(CONTENT)


def test_a_later_call_goes_on_where_an_earlier_one_gave_up(server, file, tmp_path):
    server.behaviours = [serve(stop_after=2_000_000), refuse(503)]
    with pytest.raises(DownloadFailed, match=r"answered 503.* of 3\.1 MB are here, another try goes on from there"):
        download(file, tmp_path, wait_s=0)
    assert not (tmp_path / "below/weights.bin").exists()
    server.behaviours, server.asked = [serve()], []
    assert download(file, tmp_path, wait_s=0).read_bytes() == CONTENT
    assert server.ranges[0].startswith("bytes=")


def test_a_server_without_ranges_begins_anew(server, file, tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "below/weights.bin.part").write_bytes(b"x" * 1000)
    server.behaviours = [serve(ranges=False)]
    assert download(file, tmp_path).read_bytes() == CONTENT


def test_a_busy_server_is_asked_again(server, file, tmp_path):
    server.behaviours = [refuse(503), refuse(429), serve()]
    assert download(file, tmp_path, wait_s=0).read_bytes() == CONTENT


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_clear_no_is_taken_at_once(server, file, tmp_path, status):
    server.behaviours = [refuse(status)]
    with pytest.raises(DownloadFailed, match=f"answered {status}"):
        download(file, tmp_path)
    assert len(server.asked) == 1


def test_nobody_listening_is_said(tmp_path):
    with Server() as gone:
        url = gone.url
    with pytest.raises(DownloadFailed, match=r"weights\.bin did not come from"):
        download(remote(WebFile(url)), tmp_path, wait_s=0)


def test_damaged_content_is_removed_and_both_sums_named(server, file, tmp_path):
    wrong = CONTENT[:-1] + b"!"
    server.behaviours = [serve(wrong)]
    with pytest.raises(DownloadFailed, match="came damaged and was removed") as refused:
        download(file, tmp_path)
    assert file.sha256 in str(refused.value)
    assert hashlib.sha256(wrong).hexdigest() in str(refused.value)
    assert list((tmp_path / "below").iterdir()) == []


def test_more_than_was_published_is_refused(server, file, tmp_path):
    server.behaviours = [serve(CONTENT + b"more")]
    with pytest.raises(DownloadFailed, match="sends more than the 3072000 bytes"):
        download(file, tmp_path)
    assert list((tmp_path / "below").iterdir()) == []


def test_a_file_that_is_here_is_not_asked_for(server, file, tmp_path):
    server.behaviours = [serve()]
    download(file, tmp_path)
    server.asked = []
    assert download(file, tmp_path).read_bytes() == CONTENT
    assert server.asked == []


def test_another_file_in_its_place_is_not_overwritten(server, file, tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "below/weights.bin").write_bytes(b"mine")
    with pytest.raises(DownloadFailed, match="move it away"):
        download(file, tmp_path)
    assert (tmp_path / "below/weights.bin").read_bytes() == b"mine"


def test_a_full_disk_is_foreseen(server, file, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("Usage", "total used free")(1, 1, 1000))
    with pytest.raises(DownloadFailed, match=r"has 0\.0 MB left and weights\.bin needs 3\.1 MB: choose another --to"):
        download(file, tmp_path)
    assert server.asked == []


def test_a_folder_that_cannot_be_made_is_named(file, tmp_path):
    (tmp_path / "below").write_bytes(b"a file where the folder should be")
    with pytest.raises(DownloadFailed, match="below cannot be made"):
        download(file, tmp_path)


@pytest.fixture
def hub(server, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_secret")
    return remote(HubFile("google/siglip", "abc123", "model.safetensors", server.url), path="siglip/model.safetensors")


def test_the_hub_is_asked_for_one_revision_and_sends_on(server, hub, tmp_path):
    with Server() as store:
        store.behaviours = [serve(stop_after=1_000_000), serve()]
        server.behaviours = [send_on(f"{store.url}/blob")]
        assert download(hub, tmp_path, wait_s=0).read_bytes() == CONTENT
        assert {path for path, _, _ in server.asked} == {"/google/siglip/resolve/abc123/model.safetensors"}
        assert {token for _, _, token in server.asked} == {"Bearer hf_secret"}
        assert store.ranges[1].startswith("bytes=")
        assert {token for _, _, token in store.asked} == {None}, "the token is for the hub alone"


def test_no_token_reaches_an_error(server, hub, tmp_path):
    server.behaviours = [refuse(403)]
    with pytest.raises(DownloadFailed) as refused:
        download(hub, tmp_path)
    assert "hf_secret" not in str(refused.value)
    assert "https://huggingface.co/google/siglip" in str(refused.value)


def test_a_hub_that_is_switched_off_is_not_asked(server, hub, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadFailed, match=r"HF_HUB_OFFLINE is set.*--from DIR"):
        download(hub, tmp_path)
    assert server.asked == []


def test_a_folder_filled_elsewhere_is_copied_and_verified(file, tmp_path):
    (tmp_path / "stick/deep").mkdir(parents=True)
    (tmp_path / "stick/deep/weights.bin").write_bytes(CONTENT)
    (tmp_path / "stick/weights.bin").write_bytes(b"another of that name")
    told = []
    assert copy(file, tmp_path / "stick", tmp_path / "here", told.append).read_bytes() == CONTENT
    assert told[-1] == len(CONTENT)


def test_a_folder_without_the_file_says_where_it_comes_from(file, tmp_path):
    with pytest.raises(MissingWeights, match=r"weights\.bin is not below .*; it comes from http"):
        copy(file, tmp_path, tmp_path / "here")


def test_a_copy_of_another_size_is_refused(file, tmp_path):
    (tmp_path / "weights.bin").write_bytes(b"short")
    with pytest.raises(DownloadFailed, match="has 5 bytes, the published file has 3072000"):
        copy(file, tmp_path, tmp_path / "here")


def test_a_damaged_copy_is_refused(file, tmp_path):
    (tmp_path / "weights.bin").write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(DownloadFailed, match="came damaged"):
        copy(file, tmp_path, tmp_path / "here")
    assert list((tmp_path / "here/below").iterdir()) == []
    assert (tmp_path / "weights.bin").exists()


@pytest.fixture
def published(server, monkeypatch):
    """The three files of a preset, small and served here."""
    files = tuple(remote(WebFile(f"{server.url}/{name}"), path=name) for name in ("spiece.model", "sam.pth", "siglip"))
    monkeypatch.setattr(foundation, "files_of", lambda _: files)
    monkeypatch.setattr(foundation, "VOCABULARY", files[0])
    server.behaviours = [serve()]
    return files


def fetch(*options):
    return CliRunner().invoke(main, ["weights", "fetch", "--preset", "b", *map(str, options)])


def test_the_command_fetches_everything(published, tmp_path):
    result = fetch("--to", tmp_path)
    assert result.exit_code == 0, result.output
    for file in published:
        assert (tmp_path / file.path).read_bytes() == CONTENT
        assert f"{tmp_path / file.path}: sha256 verified" in result.output


def test_the_command_fetches_the_words_alone(published, tmp_path):
    assert fetch("--to", tmp_path, "--words-only").exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["spiece.model"]


def test_the_command_takes_a_folder_in_place_of_a_network(published, server, tmp_path):
    (tmp_path / "stick").mkdir()
    for file in published:
        (tmp_path / "stick" / file.path).write_bytes(CONTENT)
    assert fetch("--from", tmp_path / "stick", "--to", tmp_path / "here").exit_code == 0
    assert (tmp_path / "here/siglip").read_bytes() == CONTENT
    assert server.asked == []


def test_the_command_fails_with_a_sentence(published, server, tmp_path):
    server.behaviours = [refuse(404)]
    result = fetch("--to", tmp_path)
    assert result.exit_code == 1
    assert "Error: spiece.model did not come from" in result.output
    assert "Traceback" not in result.output


def test_the_published_files_are_known_by_their_sums():
    for file in (foundation.SIGLIP, foundation.VOCABULARY, foundation.SAM_B, foundation.SAM_L):
        assert re.fullmatch(r"[0-9a-f]{64}", file.sha256)
        assert file.source.address.startswith("https://")
    url, _ = foundation.SIGLIP.source.request()
    assert url.startswith("https://huggingface.co/google/siglip-so400m-patch14-384/resolve/9fdffc58")
