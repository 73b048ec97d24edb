"""Checked downloads, from a server on this machine that plays good and bad mirrors."""

import hashlib
import http.server
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bench import IncompleteError, IntegrityError, UsageError, unpack
from bench import fetch as module
from bench.fetch import PublishedFile, download, obtain_all, retrieve

CONTENT = bytes(range(256)) * 4_000  # 1,024,000 bytes
MD5 = hashlib.md5(CONTENT).hexdigest()
PAGE = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>" + b"x" * 500_000


class Mirror(http.server.BaseHTTPRequestHandler):
    """How a mirror behaves is the first word of the path."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        """Answer, and note what was asked."""
        self.server.asked.append((self.path, self.headers.get("Range")))
        getattr(self, self.path.strip("/").partition("/")[0].replace("-", "_"))()

    def answer(self, body, *, status=200, length=None, kind="application/octet-stream", **headers):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.send_header("Connection", "close")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def start(self):
        """The first byte that was asked for."""
        return int((self.headers.get("Range") or "bytes=0-")[len("bytes=") :].rstrip("-"))

    def rest(self, piece=10**9, content=CONTENT):
        """The part that was asked for, as a server does that gives parts; of it at most a piece."""
        start = self.start()
        if start >= len(content):
            return self.answer(b"", status=416)
        span = {"Content_Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        body = content[start : start + piece]
        return self.answer(body, status=206 if start else 200, length=len(content) - start, **(span if start else {}))

    def whole(self):
        self.rest()

    def other(self):
        self.rest(content=CONTENT[::-1])

    def short(self):
        self.answer(CONTENT[:1000])

    def long(self):
        self.answer(CONTENT * 3)

    def breaks(self):
        self.rest(300_000)

    def breaks_always(self):
        self.answer(CONTENT[:300_000], length=len(CONTENT))

    def no_parts(self):
        self.answer(CONTENT)

    def wrong_part(self):
        self.answer(CONTENT[1000:], status=206, Content_Range=f"bytes 1000-{len(CONTENT) - 1}/{len(CONTENT)}")

    def missing(self):
        self.answer(b"gone", status=404)

    def failing(self):
        self.answer(b"oops", status=500)

    def page(self):
        self.answer(PAGE, kind="text/html")

    def moved(self):
        self.answer(b"", status=302, Location="/whole")

    def resets(self):
        self.answer(CONTENT[:300_000], length=len(CONTENT))
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def silent(self):
        self.server.over.wait(20)

    def stalls(self):
        self.answer(CONTENT[:300_000], length=len(CONTENT))
        self.server.over.wait(20)

    def drips(self):
        self.answer(b"", length=len(CONTENT))
        for byte in CONTENT:
            self.wfile.write(bytes([byte]))
            if self.server.over.wait(0.05):
                return

    def log_message(self, *_words):
        """Say nothing."""


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_words):
        """A client that goes away is what some of these tests are about."""


@pytest.fixture
def mirror(monkeypatch):
    """The address of a mirror that behaves so; `mirror.asked` lists (path, range)."""
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Server(("127.0.0.1", 0), Mirror)
    server.asked, server.over = [], threading.Event()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()

    def address(behaviour):
        return f"http://127.0.0.1:{server.server_port}/{behaviour}"

    address.asked = server.asked
    yield address
    server.over.set()
    server.shutdown()
    thread.join()
    server.server_close()


def wanted(*urls, **changes):
    """The published file, from these mirrors."""
    return PublishedFile(
        **({"file": "images.bin", "checksum": f"md5:{MD5}", "urls": urls, "size": len(CONTENT)} | changes)
    )


def quiet(_line):
    """No report."""


def test_the_first_mirror_that_has_the_file_gives_it(mirror, tmp_path):
    """Broken mirrors are passed over, those behind the good one are not asked, and only the file is left."""
    said = []
    urls = [mirror(b) for b in ("missing", "failing", "page", "whole", "other")]
    path = retrieve(wanted(*urls), tmp_path, said.append)
    assert path == tmp_path / "images.bin" and path.read_bytes() == CONTENT
    assert [asked for asked, _ in mirror.asked] == ["/missing", "/failing", "/page", "/whole"]
    assert [p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")] == ["images.bin"]
    assert said[-1].startswith("images.bin: 1.0 of 1.0 MB, ")


def test_what_is_there_and_whole_is_not_fetched_again(mirror, tmp_path):
    """A second call asks nobody; a file that was changed since is fetched anew."""
    there = wanted(mirror("whole"))
    path = retrieve(there, tmp_path, quiet)
    assert retrieve(there, tmp_path, quiet) == path and len(mirror.asked) == 1
    path.write_bytes(CONTENT[:-1] + b"?")
    assert retrieve(there, tmp_path, quiet).read_bytes() == CONTENT and len(mirror.asked) == 2


BAD = {
    "missing": (IncompleteError, "it answers 404"),
    "failing": (IncompleteError, "it answers 500"),
    "page": (IncompleteError, "it gives an HTML page ('Sign in') instead of the file"),
    "short": (IntegrityError, "it has 1,000 bytes, expected 1,024,000"),
    "long": (IntegrityError, "expected 1,024,000"),
    "other": (IntegrityError, f"have md5 {hashlib.md5(CONTENT[::-1]).hexdigest()}, expected {MD5}"),
    "breaks-always": (IncompleteError, "it broke off at 300,000 of 1,024,000 bytes"),
    "silent": (IncompleteError, "said nothing for 0.4 s"),
    "stalls": (IncompleteError, "nothing came for 0.4 s"),
    "drips": (IncompleteError, "it gives less than 1,000 bytes a second"),
}


@pytest.mark.parametrize("behaviour", BAD)
def test_a_bad_mirror_is_named_with_what_it_did(mirror, tmp_path, monkeypatch, behaviour):
    """The error names the address, what came and what was expected, and how to get the file by hand; it comes soon."""
    monkeypatch.setattr(module, "STALL", 0.4)
    kind, words = BAD[behaviour]
    started = time.monotonic()
    with pytest.raises(kind) as caught:
        retrieve(wanted(mirror(behaviour), page="http://example.org"), tmp_path, quiet, "bench fetch images")
    message = str(caught.value)
    assert f"{mirror(behaviour)}: " in message and words in message
    assert f"images.bin (1,024,000 bytes, md5:{MD5}) from http://example.org" in message
    assert "bench fetch images --from-file PATH/images.bin" in message
    assert not (tmp_path / "images.bin").exists()
    assert time.monotonic() - started < 5


def test_a_connection_that_is_reset_is_made_again_for_the_rest(mirror, tmp_path):
    """A reset in the middle loses nothing that came: the next mirror is asked for the rest."""
    path = retrieve(wanted(mirror("resets"), mirror("whole")), tmp_path, quiet)
    assert path.read_bytes() == CONTENT


def test_a_download_that_breaks_off_goes_on_where_it_stopped(mirror, tmp_path):
    """Four pieces make the whole, each asked for from the byte behind the last."""
    path = retrieve(wanted(mirror("breaks")), tmp_path, quiet)
    assert path.read_bytes() == CONTENT
    ranges = [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]
    assert mirror.asked == [("/breaks", r) for r in ranges]


def test_a_second_call_goes_on_where_a_killed_one_stopped(mirror, tmp_path):
    """Only the rest is asked for."""
    (tmp_path / "images.bin.part").write_bytes(CONTENT[:1_000_000])
    assert retrieve(wanted(mirror("whole")), tmp_path, quiet).read_bytes() == CONTENT
    assert mirror.asked == [("/whole", "bytes=1000000-")]


@pytest.mark.parametrize("behaviour", ["no-parts", "whole", "moved"])
def test_what_came_before_from_elsewhere_does_no_harm(mirror, tmp_path, behaviour):
    """A server without parts starts over; a kept part of another file is found by the check, and all is fetched."""
    (tmp_path / "images.bin.part").write_bytes(b"?" * 1000)
    assert retrieve(wanted(mirror(behaviour)), tmp_path, quiet).read_bytes() == CONTENT


def test_a_kept_part_that_is_too_long_is_thrown_away(mirror, tmp_path):
    """Nothing is asked for behind the end."""
    (tmp_path / "images.bin.part").write_bytes(b"?" * 2_000_000)
    assert retrieve(wanted(mirror("whole")), tmp_path, quiet).read_bytes() == CONTENT
    (tmp_path / "images.bin").unlink()
    (tmp_path / "images.bin.part").write_bytes(b"?" * 2_000_000)
    assert retrieve(wanted(mirror("whole"), size=0), tmp_path, quiet).read_bytes() == CONTENT


def test_a_server_that_gives_another_part_is_refused(mirror, tmp_path):
    """Bytes from another place are never taken for the rest."""
    (tmp_path / "images.bin.part").write_bytes(CONTENT[:500_000])
    with pytest.raises(IncompleteError, match="another part of the file"):
        retrieve(wanted(mirror("wrong-part")), tmp_path, quiet)


def closed_port():
    """A port of this machine that nobody listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_without_a_network_it_ends_in_seconds_and_tells_the_manual_way(tmp_path, monkeypatch):
    """A refused connection, a name that nobody knows, and a look-up that never ends: exit code 4, soon."""
    monkeypatch.setattr(module, "CONNECT", 0.5)
    monkeypatch.delenv("http_proxy", raising=False)
    over = threading.Event()
    real = socket.create_connection

    def connect(address, **settings):
        if address[0] == "nobody.invalid":
            raise socket.gaierror(-2, "Name or service not known")
        if address[0] == "slow.invalid":
            over.wait(20)
        return real(address, **settings)

    monkeypatch.setattr(socket, "create_connection", connect)
    urls = (f"http://127.0.0.1:{closed_port()}/x", "http://nobody.invalid/x", "http://slow.invalid/x")
    started = time.monotonic()
    with pytest.raises(IncompleteError) as caught:
        retrieve(wanted(*urls), tmp_path, quiet, "bench fetch images")
    over.set()
    assert time.monotonic() - started < 3 and caught.value.exit_code == 4
    message = str(caught.value)
    assert "Connection refused" in message and "Name or service not known" in message and "none in 0.5 s" in message
    assert "--from-file PATH/images.bin" in message


def test_behind_a_proxy_the_proxy_is_asked(mirror, tmp_path, monkeypatch):
    """With http_proxy set no name is looked up here: the request goes to the proxy, with the whole address."""
    proxy = mirror("").rstrip("/")
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setattr(Mirror, "do_GET", lambda self: (self.server.asked.append(self.path), self.answer(CONTENT)))
    retrieve(wanted("http://nobody.invalid/whole"), tmp_path, quiet)
    assert mirror.asked == ["http://nobody.invalid/whole"]


def test_a_disk_without_room_is_named_before_the_download(mirror, tmp_path):
    """A file of a million gigabytes is not begun."""
    with pytest.raises(IncompleteError, match=r"images\.bin needs 1,000,000,000,000,000 bytes more in"):
        retrieve(wanted(mirror("whole"), size=10**15), tmp_path, quiet)
    assert not mirror.asked


def test_a_disk_that_fills_up_keeps_what_came(mirror, tmp_path):
    """A write that fails for want of room is an error with exit code 4 that says where, not a traceback."""
    full = tmp_path / "images.bin.part"
    full.symlink_to("/dev/full")
    with pytest.raises(IncompleteError, match=r"images\.bin: the disk is full"):
        retrieve(wanted(mirror("whole")), tmp_path, quiet)


def test_a_mistake_in_what_is_published_is_a_usage_error():
    """A checksum of another length, and an address that is a file, never reach a download."""
    with pytest.raises(UsageError, match="expected md5"):
        wanted(checksum="md5:abc")
    with pytest.raises(UsageError, match="expected http"):
        wanted("file:///etc/passwd")


def test_a_loose_file_by_its_sha256(mirror, tmp_path):
    """`download` is the same for one file: checked, from several addresses, or unchecked where nobody says."""
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    urls = [mirror("missing"), mirror("whole")]
    assert download(urls, tmp_path / "a", sha256=sha256, size=len(CONTENT)).read_bytes() == CONTENT
    with pytest.raises(IntegrityError, match=f"expected {'0' * 64}"):
        download(urls, tmp_path / "b", sha256="0" * 64)
    (tmp_path / "c.part").write_bytes(b"?" * 1000)
    assert download(urls, tmp_path / "c").read_bytes() == CONTENT


def test_two_at_once_download_once(mirror, tmp_path):
    """A second caller waits for the first, and finds the file."""
    threads = [threading.Thread(target=retrieve, args=(wanted(mirror("whole")), tmp_path, quiet)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(mirror.asked) == 1 and (tmp_path / "images.bin").read_bytes() == CONTENT


def test_a_killed_download_leaves_no_whole_file_and_goes_on(mirror, tmp_path):
    """After kill -9 there is only a part; the next call asks for the rest of it."""
    code = (
        "import sys; from pathlib import Path; from bench.fetch import *\n"
        f"retrieve(PublishedFile('images.bin', 'md5:{MD5}', (sys.argv[1],), {len(CONTENT)}), Path(sys.argv[2]), print)"
    )
    command = [sys.executable, "-c", code, mirror("stalls"), str(tmp_path)]
    part = tmp_path / "images.bin.part"
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.DEVNULL) as killed:
        while not part.exists() or part.stat().st_size < 200_000:
            time.sleep(0.02)
            assert killed.poll() is None
        killed.kill()
    kept = part.stat().st_size
    assert not (tmp_path / "images.bin").exists()
    assert retrieve(wanted(mirror("whole")), tmp_path, quiet).read_bytes() == CONTENT
    assert mirror.asked[-1] == ("/whole", f"bytes={kept}-")


def test_given_files_are_checked_and_put_in_their_place(mirror, tmp_path):
    """A file by its own or another name, or a folder that holds it: copied, not moved; nobody is asked."""
    file = wanted(mirror("whole"), into="raw")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "images.bin").write_bytes(CONTENT)
    (tmp_path / "renamed").write_bytes(CONTENT)
    for i, given in enumerate((mine / "images.bin", tmp_path / "renamed", mine)):
        root = tmp_path / str(i)
        obtain_all("set", [file], root, [given], quiet, "bench fetch set")
        assert (root / "raw" / "images.bin").read_bytes() == CONTENT and given.exists()
    assert not mirror.asked


def test_a_given_file_that_is_wrong_is_named(tmp_path):
    """A truncated file, another file, a folder without it, and a path that is not there."""
    (tmp_path / "images.bin").write_bytes(CONTENT[:-1])
    (tmp_path / "cat.jpg").write_bytes(b"miaow")
    (tmp_path / "empty").mkdir()
    for given, kind, words in (
        ("images.bin", IntegrityError, "for images.bin: it has 1,023,999 bytes, expected 1,024,000"),
        ("cat.jpg", IntegrityError, "cat.jpg is not a published file of this data set: for images.bin: it has 5 bytes"),
        ("empty", UsageError, "holds none of images.bin"),
        ("nowhere", UsageError, "there is no such file"),
    ):
        with pytest.raises(kind) as caught:
            obtain_all("set", [wanted()], tmp_path / "root", [tmp_path / given], quiet, "bench fetch set")
        assert words in str(caught.value)


def test_an_archive_is_unpacked_beside_what_is_there(tmp_path):
    """Its files replace old ones of their names; others in the folder stay; nothing is left of the work."""
    import tarfile

    (tmp_path / "in" / "set").mkdir(parents=True)
    (tmp_path / "in" / "set" / "a").write_bytes(b"new")
    with tarfile.open(tmp_path / "set.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "in" / "set", "set")
    root = tmp_path / "root"
    (root / "set").mkdir(parents=True)
    (root / "set" / "a").write_bytes(b"damaged")
    (root / "set" / "mine").write_bytes(b"mine")
    archive = tmp_path / "set.tar.gz"
    checksum = f"sha256:{hashlib.sha256(archive.read_bytes()).hexdigest()}"
    file = PublishedFile("set.tar.gz", checksum, unpack=unpack, gives=("set/a",))
    obtain_all("set", [file], root, [archive], quiet, "")
    assert (root / "set" / "a").read_bytes() == b"new" and (root / "set" / "mine").read_bytes() == b"mine"
    assert not list((root / module.FOLDER / "set").iterdir()) and archive.exists()
    with pytest.raises(IncompleteError, match="without an account"):
        obtain_all("set", [file], root, [], quiet, "")
