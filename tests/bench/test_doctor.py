"""Getting a data set into order, and looking at a machine's set-up, as a user meets them."""

import hashlib
import http.server
import json
import tarfile
import threading
import time
import types

import numpy as np
import pytest

from bench import IncompleteError, Zoo, fetch
from bench import doctor as module
from bench.registry import plugins

PLUGIN = '''
"""A data set of one published archive, as a stranger would write it."""
import numpy as np
from bench import Dataset, IncompleteError, IntegrityError, Part, PublishedFile, dataset, unpack

FILE = PublishedFile("made.tar", "md5:{md5}", ({url!r},), unpack=unpack, gives=("made/x.npy",))

@dataset(net="cnn", threat="linf:0.1", downloads=(FILE,))
def made(root):
    """Made up."""
    if not (root / "made" / "x.npy").is_file():
        raise IncompleteError("made is not there")
    try:
        x = np.load(root / "made" / "x.npy")
    except (ValueError, EOFError):
        raise IntegrityError("x.npy is damaged")
    part = Part(x, np.arange(len(x)) % 2)
    return Dataset("made", part, part, part, ("a", "b"))
'''


@pytest.fixture
def made(tmp_path, monkeypatch):
    """The words that name the plugin; its archive lies in `mine`, and its one mirror is not there."""
    monkeypatch.setattr(fetch, "CONNECT", 0.5)
    (tmp_path / "x").mkdir()
    np.save(tmp_path / "x" / "x.npy", np.zeros((4, 1, 8, 8), np.uint8))
    (tmp_path / "mine").mkdir()
    with tarfile.open(tmp_path / "mine" / "made.tar", "w") as tar:
        tar.add(tmp_path / "x" / "x.npy", "made/x.npy")
    md5 = hashlib.md5((tmp_path / "mine" / "made.tar").read_bytes()).hexdigest()
    (tmp_path / "made.py").write_text(PLUGIN.format(md5=md5, url="http://127.0.0.1:9/made.tar"))
    return "--plugin", str(tmp_path / "made.py")


def test_fetch_without_a_network_tells_the_manual_way(bench, made):
    """Exit code 4; the command that it names then works; and a third call finds the set whole, and says what it is."""
    failed = bench("fetch", "made", "--data", "here", *made)
    assert failed.returncode == 4 and "bench fetch made --data here --from-file PATH/made.tar" in failed.stderr
    done = bench("fetch", "made", "--data", "here", "--from-file", "mine/made.tar", *made)
    assert done.returncode == 0 and "made is whole: 4 train, 4 val, 4 test images of 1x8x8 in 2 classes" in done.stderr
    again = bench("fetch", "made", "--data", "here", "--json", *made)
    found = json.loads(again.stdout)
    assert found["schema"] == "rampart/fetch-1" and found["images"] == {"train": 4, "val": 4, "test": 4}
    assert len(found["hashes"]["test"]) == 64


def test_fetch_mends_a_damaged_set(bench, made, tmp_path):
    """What loading finds damaged is got again."""
    (tmp_path / "here" / "made").mkdir(parents=True)
    (tmp_path / "here" / "made" / "x.npy").write_bytes(b"")
    assert bench("fetch", "made", "--data", "here", *made).returncode == 4
    assert bench("fetch", "made", "--data", "here", "--from-file", "mine", *made).returncode == 0


def test_two_at_once_fetch_once(tmp_path, made):
    """The second process waits for the first, and then finds the set whole."""
    root, asked = tmp_path / "here", []
    registry = plugins([made[1]])
    real = module.obtain_all

    def slowly(*words):
        asked.append(1)
        time.sleep(0.2)
        real(*words[:3], [tmp_path / "mine"], *words[4:])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "obtain_all", slowly)
        work = {"target": module.fetch_dataset, "args": (registry, "made", root, [], lambda _line: None)}
        threads = [threading.Thread(**work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(asked) == 1 and (root / "made" / "x.npy").exists()


def test_a_full_disk_is_no_reason_to_download_again(tmp_path, made):
    """Files that are there and cannot be decoded for want of room are not fetched anew."""
    registry = plugins([made[1]])
    (tmp_path / "here" / "made").mkdir(parents=True)
    (tmp_path / "here" / "made" / "x.npy").write_bytes((tmp_path / "x" / "x.npy").read_bytes())

    def full(_root):
        raise IncompleteError("the disk is full")

    object.__setattr__(registry.things["dataset", "made"], "function", full)
    with pytest.raises(IncompleteError, match="the disk is full"):
        module.fetch_dataset(registry, "made", tmp_path / "here", [], lambda _line: None)


def test_fetch_of_what_cannot_be_fetched_is_a_usage_error(bench, made):
    """A misspelt name names the nearest; own files are not published; digits are there already."""
    assert "did you mean 'cifar10'" in bench("fetch", "cifar-10").stderr
    wrong = bench("fetch", "digits", "--from-file", "mine")
    assert wrong.returncode == 2 and "digits has no published files" in wrong.stderr
    assert bench("fetch", "digits").returncode == 0
    assert "there is no such file" in bench("fetch", "made", "--from-file", "nowhere", *made).stderr


def test_imagenet_says_how_it_is_had(bench):
    """Nothing is downloaded: an account is needed, and the error shows the two files and the command."""
    done = bench("fetch", "imagenet", "--data", "here")
    assert done.returncode == 4
    assert "--from-file ILSVRC2012_devkit_t12.tar.gz --from-file ILSVRC2012_img_val.tar" in done.stderr


def findings(done):
    """By what was looked at."""
    return {f["what"]: f for f in json.loads(done.stdout)["findings"]}


def test_doctor_finds_this_machine_fine(bench, made):
    """Exit code 0; every line has its state; a data set that is not there is a note with the command that gets it."""
    done = bench("doctor", "--data", "here", "--json", *made)
    found = findings(done)
    assert done.returncode == 0, done.stderr
    assert {f["state"] for f in found.values()} == {"fine", "note"}
    assert found["torch"]["said"].startswith("torch 2.")
    assert found["data set made"] | {"state": "note", "mend": "bench fetch made --data here"} == found["data set made"]
    bench("fetch", "made", "--data", "here", "--from-file", "mine", *made)
    assert findings(bench("doctor", "--data", "here", "--json", *made))["data set made"]["state"] == "fine"
    said = bench("doctor", *made).stderr
    assert "data set cifar100" in said and "bench fetch cifar100" in said


def test_doctor_exits_4_when_what_an_option_names_is_missing(bench, made):
    """A data set that is named must load; a device that is named must be there."""
    done = bench("doctor", "--dataset", "made", "--data", "here", "--json", *made)
    assert done.returncode == 4 and findings(done)["--dataset made"]["said"] == "made is not there"
    done = bench("doctor", "--device", "cuda:77", "--json")
    assert done.returncode == 4 and findings(done)["device"]["state"] == "wrong"


def test_doctor_finds_what_is_wrong(bench, tmp_path, monkeypatch):
    """A damaged record, two plugins of one name, a file in a folder's place, torchvision for another torch."""
    record = tmp_path / "ledger" / ("0" * 64) / f"{'1' * 64}.json"
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    (tmp_path / "file").write_text("")
    (tmp_path / "twice.py").write_text(
        "from bench import dataset\n@dataset(threat='linf:0.1')\ndef digits(root):\n    'Other digits.'\n"
    )
    real = module.requires
    monkeypatch.setattr(module, "requires", lambda name: ["torch (==1.0.0)"] if name == "torchvision" else real(name))
    done = bench("doctor", "--ledger", "ledger", "--store", "file/store", "--plugin", "twice.py", "--json")
    found = findings(done)
    assert done.returncode == 4
    assert f"{record.name} is damaged" in found["records"]["said"]
    assert "two datasets are called 'digits'" in found["plugins"]["said"]
    assert found["--store file/store"]["state"] == "wrong" and "is not a folder" in found["--store file/store"]["said"]
    assert "made for torch 1.0.0" in found["torch"]["said"] and "pip install torch==1.0.0" in found["torch"]["mend"]


def test_doctor_looks_at_the_zoo(bench, tmp_path):
    """Its nets build; a lock file that cannot be read is wrong; one whose weights were deleted says whose."""
    found = findings(bench("doctor", "--store", "store", "--json"))
    assert found["zoo nets"]["state"] == "fine" and found["zoo lock file"]["said"] == "nothing pulled yet"
    lock = tmp_path / "store" / "zoo.lock.json"
    lock.parent.mkdir(exist_ok=True)
    lock.write_text("{}")
    done = bench("doctor", "--store", "store", "--json")
    assert done.returncode == 4 and "is damaged" in findings(done)["zoo lock file"]["said"]
    entry = {"url": "https://a.b/c.pt", "sha256": "0" * 64, "size": 1, "format": "zip", "licence": "", "pulled": "2026"}
    entry["weights"] = {"": "1" * 64}
    lock.write_text(json.dumps({"schema": "rampart/zoo-lock-1", "pulled": [entry]}))
    said = findings(bench("doctor", "--store", "store", "--json"))["zoo lock file"]["said"]
    assert said == "1 file pulled; to be pulled again, since the store lacks their weights: https://a.b/c.pt"


def test_doctor_asks_hosts_only_when_told(tmp_path, made, monkeypatch):
    """Whatever a host answers, it is there; one that takes no connection is a note that says for what it was wanted."""
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)  # answers 501
    threading.Thread(target=server.serve_forever, daemon=True).start()
    up, down = f"http://127.0.0.1:{server.server_port}", "http://127.0.0.1:9"
    loaders = [t for t in plugins([made[1]]).all("dataset") if t.name == "made"]
    zoo = Zoo("mine", list, str, hosts=(f"{up}/x",))
    asked = types.SimpleNamespace(all=lambda kind: loaders if kind == "dataset" else [zoo])
    found = {f.what: f for f in module._hosts([asked])}
    server.shutdown(), server.server_close()
    assert (found[up].state, found[up].said) == ("fine", "answers (for mine)")
    assert found[down].state == "note" and found[down].said.endswith("(for made)")


def test_doctor_finds_a_full_disk_and_a_missing_package(monkeypatch, tmp_path):
    """Less than a gigabyte is too little for a run; a package that is needed and not there has its command."""
    little = module.shutil.disk_usage(tmp_path)._replace(free=10**8)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _folder: little)
    real = module.requires
    monkeypatch.setattr(
        module,
        "requires",
        lambda name: ["no-such-package>=2", 'scipy; extra == "dev"'] if "rampart" in name else real(name),
    )
    found = {f.what: f for f in module.examine(tmp_path, tmp_path, tmp_path)}
    assert found["packages"].said == "no-such-package not installed"
    assert found["packages"].mend == "pip install no-such-package"
    disk = found[f"--data {tmp_path}"]
    assert (disk.state, disk.said) == ("wrong", "0.1 GB free")


def test_a_mapped_data_set_is_run_by_other_processes(bench, tmp_path):
    """Own image files, decoded once, examined by two workers; what has no training images refuses to be trained on."""
    from PIL import Image

    for part, count in (("train", 20), ("test", 8)):
        for label, name in enumerate(("dark", "light")):
            for i in range(count):
                path = tmp_path / "own" / part / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("L", (8, 8), 10 + i + 200 * label).save(path)
    words = ("--defense", "standard(epochs=20)", "--columns", "clean, fgsm", "--threat", "linf:0.02", "--json")
    done = bench("run", *words, "--dataset", "folder(path='own', channels=1)", "--net", "cnn", "--workers", "2")
    assert done.returncode == 0, done.stderr
    (section,) = json.loads(done.stdout)["board"]["sections"]
    (row,) = section["rows"]
    assert row["numbers"]["clean"] | {"n": 16, "standing": 16} == row["numbers"]["clean"]
    assert (tmp_path / "datasets" / "prepared").is_dir()
    refused = bench("run", *words, "--dataset", "folder(path='own', channels=1, train=False)", "--net", "cnn")
    assert refused.returncode == 2 and "has no training images" in refused.stderr
