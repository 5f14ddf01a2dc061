"""The cache of models, with a real HTTP server, real files and real locks."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from avatar_runtime import errors, model_lock
from avatar_runtime.__main__ import main
from avatar_runtime.tools import download, model_cache
from localcluster.fakes.file_server import FileServer, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

UNET, VAE = bytes(range(256)) * 4096, b"vae" * 1000
FOLDER = "/musetalk/"
WEIGHTS = f"{FOLDER}musetalkV15/unet.safetensors"


@pytest.fixture
def server() -> Iterator[FileServer]:
    with running() as found:
        found.files = {WEIGHTS: UNET, f"{FOLDER}sd-vae/config.json": VAE}
        yield found


@pytest.fixture
def sha(server: FileServer) -> str:
    return server.add_manifest(FOLDER)


def request(server: FileServer, sha: str, **changes: Any) -> model_cache.Request:
    values: dict[str, Any] = {
        "url": f"{server.url}{FOLDER}SHA256SUMS",
        "sha256": sha,
        "hosts": ("127.0.0.1",),
        "max_bytes": 10 << 20,
    }
    return model_cache.Request(**values | changes)


class Clock:
    """A clock that sleeping moves."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def ensure(root: Path, wanted: model_cache.Request, clock: Clock | None = None) -> Any:
    clock = clock or Clock()
    return model_cache.ModelCache(root, wanted, clock=clock, sleep=clock.sleep).ensure()


def files(root: Path, sha: str) -> dict[str, bytes]:
    folder = root / sha / "files"
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != model_lock.LOCK)
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def is_complete(root: Path, sha: str) -> bool:
    found = files(root, sha)
    return found["musetalkV15/unet.safetensors"] == UNET and found["sd-vae/config.json"] == VAE


def test_a_cold_cache_downloads_the_model_and_a_warm_one_nothing(
    server: FileServer, sha: str, tmp_path: Path
) -> None:
    cold = ensure(tmp_path, request(server, sha))
    assert is_complete(tmp_path, sha)
    assert cold.downloaded_bytes > len(UNET) + len(VAE)
    asked = len(server.requests)
    warm = ensure(tmp_path, request(server, sha))
    assert (warm.downloaded_bytes, warm.files) == (0, 2)
    assert warm.cached_bytes == len(UNET) + len(VAE)
    assert len(server.requests) == asked
    assert not (tmp_path / sha / "parts").exists()


def test_a_connection_that_breaks_is_continued_where_it_broke(
    server: FileServer, sha: str, tmp_path: Path
) -> None:
    server.cut_after[WEIGHTS] = [300_000, 200_000]
    clock = Clock()
    ensure(tmp_path, request(server, sha), clock)
    assert is_complete(tmp_path, sha)
    ranges = [sent for path, sent in server.requests if path == WEIGHTS]
    assert ranges == ["", "bytes=300000-", "bytes=500000-"]
    assert server.sent[WEIGHTS] == len(UNET)
    assert clock.slept == [1.0, 2.0]


def test_a_process_that_was_killed_leaves_a_part_that_the_next_one_continues(
    server: FileServer, sha: str, tmp_path: Path
) -> None:
    part = tmp_path / sha / "parts" / download_name(UNET)
    part.parent.mkdir(parents=True)
    part.write_bytes(UNET[:1000])
    ensure(tmp_path, request(server, sha))
    assert is_complete(tmp_path, sha)
    assert (WEIGHTS, "bytes=1000-") in server.requests


def download_name(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


def test_a_part_of_another_file_is_discarded_once(
    server: FileServer, sha: str, tmp_path: Path
) -> None:
    part = tmp_path / sha / "parts" / download_name(UNET)
    part.parent.mkdir(parents=True)
    part.write_bytes(b"another version" * 100)
    ensure(tmp_path, request(server, sha))
    assert is_complete(tmp_path, sha)


@pytest.mark.parametrize("size", [len(UNET), len(UNET) + 5], ids=["as-long", "longer"])
def test_a_part_that_is_as_long_as_the_file_or_longer_does_not_stop_the_download(
    server: FileServer, sha: str, tmp_path: Path, size: int
) -> None:
    part = tmp_path / sha / "parts" / download_name(UNET)
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * size)
    ensure(tmp_path, request(server, sha))
    assert is_complete(tmp_path, sha)


def test_a_server_without_ranges_sends_the_file_again(
    server: FileServer, sha: str, tmp_path: Path
) -> None:
    server.ranges = False
    server.cut_after[WEIGHTS] = [300_000]
    ensure(tmp_path, request(server, sha))
    assert is_complete(tmp_path, sha)


def test_a_file_with_another_hash_is_refused_and_leaves_nothing(
    server: FileServer, sha: str, tmp_path: Path
) -> None:
    server.files[WEIGHTS] = b"forged" + UNET
    with pytest.raises(errors.FetchError, match=r"unet\.safetensors: its SHA-256 is \w+, must be"):
        ensure(tmp_path, request(server, sha))
    assert "musetalkV15/unet.safetensors" not in files(tmp_path, sha)
    assert not any((tmp_path / sha / "parts").iterdir())


def test_a_manifest_with_another_hash_is_refused(
    server: FileServer, sha: str, tmp_path: Path
) -> None:
    server.files[f"{FOLDER}SHA256SUMS"] += b"\n"
    with pytest.raises(errors.FetchError, match=rf"SHA256SUMS: its SHA-256 is \w+, must be {sha}"):
        ensure(tmp_path, request(server, sha))


def test_a_damaged_file_of_the_cache_is_downloaded_again(
    server: FileServer, sha: str, tmp_path: Path
) -> None:
    ensure(tmp_path, request(server, sha))
    damaged = tmp_path / sha / "files" / "musetalkV15" / "unet.safetensors"
    damaged.write_bytes(b"x" + UNET[1:])
    again = ensure(tmp_path, request(server, sha))
    assert is_complete(tmp_path, sha)
    assert again.downloaded_bytes == len(UNET)


def test_redirects_are_followed_without_the_credentials(
    server: FileServer, sha: str, tmp_path: Path
) -> None:
    with running() as other:
        other.files["/elsewhere"] = UNET
        server.redirects[WEIGHTS] = f"{other.url}/elsewhere"
        ensure(tmp_path, request(server, sha, authorization="Bearer secret"))
        assert is_complete(tmp_path, sha)
        assert server.authorizations == {"Bearer secret"}
        assert other.authorizations == {""}


def test_a_redirect_to_a_host_that_is_not_allowed_is_refused(
    server: FileServer, sha: str, tmp_path: Path
) -> None:
    server.redirects[WEIGHTS] = "http://169.254.169.254/latest"
    with pytest.raises(errors.FetchError, match=r"169\.254\.169\.254 is not among the allowed"):
        ensure(tmp_path, request(server, sha))


def test_a_busy_server_is_asked_again_and_then_reported(
    server: FileServer, sha: str, tmp_path: Path
) -> None:
    server.statuses[WEIGHTS] = [503, 429]
    ensure(tmp_path, request(server, sha))
    assert is_complete(tmp_path, sha)
    server.statuses[WEIGHTS] = [503] * 20
    clock = Clock()
    with pytest.raises(errors.FetchFailed, match="status is 503"):
        ensure(tmp_path / "other", request(server, sha), clock)
    assert len(clock.slept) == download.ATTEMPTS - 1


def test_a_file_larger_than_the_cache_is_refused_before_it_is_received(
    server: FileServer, sha: str, tmp_path: Path
) -> None:
    server.declared[WEIGHTS] = 1 << 40
    with pytest.raises(errors.FetchError, match=f"its size is {1 << 40} bytes or more"):
        ensure(tmp_path, request(server, sha))
    assert server.sent[WEIGHTS] <= len(UNET)


def test_a_model_that_does_not_fit_says_what_to_change(
    server: FileServer, sha: str, tmp_path: Path
) -> None:
    (tmp_path / "other" / "files").mkdir(parents=True)
    (tmp_path / "other" / "files" / "weights").write_bytes(bytes(1 << 20))
    clock = Clock()
    (tmp_path / "other" / "used").touch()
    os.utime(tmp_path / "other" / "used", (clock.now, clock.now))
    with pytest.raises(errors.CacheError, match=r"raise modelCache\.maxMiB of the chart"):
        ensure(tmp_path, request(server, sha, max_bytes=3 << 19), clock)
    assert (tmp_path / "other").exists()


def _old_model(root: Path, name: str, age_s: float, now: float) -> Path:
    folder = root / name
    (folder / "files").mkdir(parents=True)
    (folder / "files" / model_lock.LOCK).touch()
    (folder / "files" / "weights").write_bytes(bytes(1 << 20))
    (folder / "download").touch()
    (folder / "used").touch()
    os.utime(folder / "used", (now - age_s, now - age_s))
    return folder


def test_the_model_that_was_not_used_for_the_longest_time_makes_room(
    server: FileServer, sha: str, tmp_path: Path
) -> None:
    clock = Clock()
    older = _old_model(tmp_path, "older", 9000, clock.now)
    newer = _old_model(tmp_path, "newer", 5000, clock.now)
    result = ensure(tmp_path, request(server, sha, max_bytes=(5 << 20) // 2), clock)
    assert result.removed == ("older",)
    assert newer.exists()
    assert not older.exists()


def test_a_model_that_a_process_uses_is_not_removed(
    server: FileServer, sha: str, tmp_path: Path
) -> None:
    clock = Clock()
    used = _old_model(tmp_path, "used-model", 9000, clock.now)
    held = model_lock.hold(used / "files")
    assert held is not None
    try:
        with pytest.raises(errors.CacheError, match="models that cannot be removed"):
            ensure(tmp_path, request(server, sha, max_bytes=3 << 19), clock)
        assert (used / "files" / "weights").exists()
    finally:
        os.close(held)
    ensure(tmp_path, request(server, sha, max_bytes=3 << 19), clock)
    assert not used.exists()


def test_two_pods_of_a_node_download_a_model_once(
    server: FileServer, sha: str, tmp_path: Path
) -> None:
    server.gate = threading.Event()
    results: list[model_cache.Result] = []

    def start() -> None:
        results.append(model_cache.ModelCache(tmp_path, request(server, sha)).ensure())

    threads = [threading.Thread(target=start) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert server.waiting.wait(60)
    server.gate.set()
    for thread in threads:
        thread.join(60)
    assert is_complete(tmp_path, sha)
    assert len(results) == 3
    assert server.sent[WEIGHTS] == len(UNET)
    assert sorted(result.downloaded_bytes > 0 for result in results) == [False, False, True]


def test_a_pod_that_waits_too_long_says_for_whom(
    server: FileServer, sha: str, tmp_path: Path
) -> None:
    (tmp_path / sha).mkdir()
    with (tmp_path / sha / "download").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(errors.CacheError, match=f"another pod has downloaded {sha}"):
            ensure(tmp_path, request(server, sha))


def _run(server: FileServer, sha: str, root: Path, **options: Any) -> subprocess.Popen[str]:
    wanted = request(server, sha)
    command = [sys.executable, "-m", "avatar_runtime", "cache-model"]
    command += ["--url", wanted.url, "--sha256", sha, "--cache", str(root)]
    command += ["--allow-host", "127.0.0.1"]
    return subprocess.Popen(command, text=True, stderr=subprocess.PIPE, **options)


@pytest.mark.slow
def test_a_pod_that_is_killed_during_a_download_frees_its_lock(
    server: FileServer, sha: str, tmp_path: Path
) -> None:
    server.gate = threading.Event()
    first = _run(server, sha, tmp_path)
    assert server.waiting.wait(60)
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=60)
    server.gate.set()
    ensure(tmp_path, request(server, sha))
    assert is_complete(tmp_path, sha)


@pytest.mark.slow
def test_a_disk_that_fills_up_is_reported_and_the_part_is_removed(
    server: FileServer, sha: str, tmp_path: Path
) -> None:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))  # EFBIG instead of ENOSPC

    process = _run(server, sha, tmp_path, preexec_fn=limit)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75  # another attempt may succeed
    assert "no space is left while" in said
    assert os.strerror(errno.EFBIG) in said
    assert not any((tmp_path / sha / "parts").iterdir())


def test_a_full_disk_is_reported_before_anything_is_written(
    server: FileServer, sha: str, tmp_path: Path
) -> None:
    free = shutil.disk_usage(tmp_path).free
    server.declared[WEIGHTS] = free + (1 << 30)
    with pytest.raises(errors.CacheError, match=r"the disk is full: \d+ MiB more are needed"):
        ensure(tmp_path, request(server, sha, max_bytes=free * 4))
    assert server.sent[WEIGHTS] <= len(UNET)


@pytest.mark.parametrize(
    ("manifest", "fault"),
    [
        ("", "names no file"),
        ("abc  weights\n", "line 1 of the manifest must be 64 hexadecimal digits"),
        (f"{'a' * 64}  ../weights\n", "must be a relative path"),
        (f"{'a' * 64}  /etc/passwd\n", "must be a relative path"),
        (f"{'a' * 64}  .lock\n", "must be a relative path"),
        (f"{'a' * 64}  a//b\n", "must be a relative path"),
        (f"{'a' * 64}  a?b\n", "printable characters"),
        (f"{'a' * 64}  a\n{'b' * 64}  a\n", "twice"),
        ('{"files": 3}', "must be a JSON object with the object files"),
        ('{"files": {"a": "x"}}', "64 lowercase hexadecimal"),
        ("".join(f"{'a' * 64}  f{i}\n" for i in range(1001)), "more than 1000 files"),
    ],
    ids=[
        *("empty", "not-a-hash", "parent", "absolute", "hidden", "empty-part", "query"),
        *("twice", "json", "json-hash", "many"),
    ],
)
def test_a_wrong_manifest_is_refused_in_words(
    server: FileServer, tmp_path: Path, manifest: str, fault: str
) -> None:
    server.files[f"{FOLDER}SHA256SUMS"] = manifest.encode()
    sha = download_name(manifest.encode())
    with pytest.raises(errors.FetchError, match=fault):
        ensure(tmp_path, request(server, sha))


def test_the_manifest_of_convert_is_read(server: FileServer, tmp_path: Path) -> None:
    content = f'{{"files": {{"sd-vae/config.json": "{download_name(VAE)}"}}}}'.encode()
    server.files[f"{FOLDER}manifest.json"] = content
    sha = download_name(content)
    ensure(tmp_path, request(server, sha, url=f"{server.url}{FOLDER}manifest.json"))
    assert files(tmp_path, sha) == {"manifest.json": content, "sd-vae/config.json": VAE}


def test_the_command_prints_what_it_did(
    server: FileServer, sha: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["cache-model", "--url", request(server, sha).url, "--sha256", sha]
    arguments += ["--allow-host", "127.0.0.1", "--cache", str(tmp_path)]
    began = time.time()
    assert main(arguments) == 0
    assert '"files": 2' in capsys.readouterr().out
    assert (tmp_path / sha / "used").stat().st_mtime >= began - 1
    server.files.clear()
    assert main([*arguments[:4], "0" * 64, *arguments[5:]]) == 65  # permanent: status 404
