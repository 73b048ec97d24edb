"""Pulled weights: a server on this machine plays the hub, a page, a liar; the lock file and the zoo's list."""

import hashlib
import io
import json
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from torch import nn

from bench import IncompleteError, IntegrityError, Part, Shape, Store, ThreatModel, TrainJob, UsageError
from bench.registry import split_recipe
from defenses import zoo
from defenses.zoo_files import LOOSE, files
from defenses.zoo_lock import FILE
from defenses.zoo_robustbench import robustbench as net_of
from tests.conftest import SHARED

PULLABLE = 206  # of the 236 records, those that robustbench 1.1.1 has weights and a net for
SMALL = "Hendrycks2020AugMix_WRN"  # 2.2 million weights


class Site:
    """Pages by path, and how often each was asked for."""

    def __init__(self):
        self.pages, self.asked = {}, []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                site.asked.append(self.path)
                content = site.pages.get(self.path)
                if content is None:
                    self.send_error(404)
                    return
                cut, content = (content[0], content[1]) if isinstance(content, tuple) else (len(content), content)
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[:cut])

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def put(self, path, content):
        self.pages[path] = content
        return self.address + path


@pytest.fixture
def site():
    made = Site()
    yield made
    made.server.shutdown()
    made.server.server_close()


def saved(thing):
    buffer = io.BytesIO()
    torch.save(thing, buffer)
    return buffer.getvalue()


def weights(shift=0.0):
    return {"1.weight": torch.arange(12.0).view(3, 4) + shift, "1.bias": torch.ones(3)}


def job(tmp_path, key="one", said=None):
    part = Part(np.zeros((1, 1, 2, 2), np.uint8), np.zeros(1, np.int64))
    return TrainJob(
        train=part, val=part, shape=Shape(3, 1, 2), build=lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 3)),
        threat=ThreatModel.parse("linf:0.1"), seed=0, device=torch.device("cpu"),
        scratch=tmp_path / "store" / "scratch" / key, report=print if said is None else said.append,
    )  # fmt: skip


def lock(tmp_path):
    return json.loads((tmp_path / "store" / FILE).read_text())["pulled"]


def test_the_first_pull_is_trusted_and_written_down(site, tmp_path):
    """The lock file has address, hash, size, format; the store has safetensors; a second job asks the store alone."""
    content = saved({"state_dict": {f"module.{k}": v for k, v in weights().items()}})
    address = site.put("/w.pth", content)
    said = []
    model = zoo.url(job(tmp_path, said=said), address=address)
    assert torch.equal(model.state_dict()["1.weight"], weights()["1.weight"])
    (entry,) = lock(tmp_path)
    assert (entry["url"], entry["sha256"]) == (address, hashlib.sha256(content).hexdigest())
    assert (entry["size"], entry["format"]) == (len(content), "torch")
    kept = Store(tmp_path / "store").get(entry["weights"][""])
    assert torch.equal(kept["module.1.weight"], weights()["1.weight"])
    assert any("first pull, trusted as it came" in line for line in said)
    assert any("its 'state_dict', then 'module.' off the names" in line for line in said)
    again = zoo.url(job(tmp_path, "two"), address=address)
    assert torch.equal(again.state_dict()["1.weight"], weights()["1.weight"])
    assert site.asked == ["/w.pth"]


def test_a_later_pull_must_agree(site, tmp_path):
    """Other content under the same address is refused with exit 5, unless its hash is given: that beats the lock."""
    address = site.put("/w.pth", saved(weights()))
    zoo.url(job(tmp_path), address=address)
    before = lock(tmp_path)
    Store(tmp_path / "store").path(before[0]["weights"][""]).unlink()
    other = saved(weights(1.0))
    site.put("/w.pth", other)
    with pytest.raises(IntegrityError, match="when it was first pulled"):
        zoo.url(job(tmp_path, "two"), address=address)
    assert lock(tmp_path) == before
    model = zoo.url(job(tmp_path, "two"), address=address, sha256=hashlib.sha256(other).hexdigest().upper())
    assert torch.equal(model.state_dict()["1.weight"], weights(1.0)["1.weight"])
    assert lock(tmp_path)[0]["sha256"] == hashlib.sha256(other).hexdigest()


def test_a_hash_that_is_given_must_be_met(site, tmp_path):
    """Another file is refused, also where the lock trusted it before; nothing is written."""
    address = site.put("/w.pth", saved(weights()))
    with pytest.raises(IntegrityError, match="expected 0000"):
        zoo.url(job(tmp_path), address=address, sha256="0" * 64)
    assert not (tmp_path / "store" / FILE).exists()


@pytest.mark.parametrize(
    ("content", "error", "said"),
    [
        (b"<html><title>Quota exceeded</title>", IncompleteError, "HTML page.*Quota exceeded"),
        (b"", IntegrityError, "is empty"),
        ((100, saved(weights())), IncompleteError, "w.pth"),
        (None, IncompleteError, r"checkpoint\(path='FILE'\)"),
    ],
    ids=["page", "empty", "cut short", "not there"],
)
def test_what_does_not_arrive_is_said_and_can_be_mended(site, tmp_path, content, error, said):
    """A page, nothing, half, an address without a file: errors; the same job succeeds once the file is there."""
    address = site.put("/w.pth", content)
    with pytest.raises(error, match=said):
        zoo.url(job(tmp_path), address=address)
    site.put("/w.pth", saved(weights()))
    assert zoo.url(job(tmp_path), address=address)


def test_without_a_network_it_ends_at_once_and_tells_the_manual_way(tmp_path):
    """Exit 4 within seconds, with the address and the recipe that takes a file from this machine."""
    started = time.monotonic()
    with pytest.raises(IncompleteError, match=r"or fetch http.*checkpoint\(path='FILE'\)"):
        zoo.url(job(tmp_path), address="http://127.0.0.1:9/w.pth")
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("address", ["w.pth", "ftp://x/y", "file:///etc/passwd", "https://", "https://x/a b", ""])
def test_what_is_no_address_is_refused_before_any_work(address):
    """Also the schemes that reach into this machine."""
    with pytest.raises(UsageError, match="begins with https"):
        zoo.url.pin({"address": address, "sha256": ""})


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"schema": "other"}', '{"schema": "rampart/zoo-lock-1", "pulled": [{"url": 1}]}']
)
def test_a_damaged_lock_file_is_refused_by_name(site, tmp_path, text):
    """Nothing is trusted anew because the lock cannot be read."""
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / FILE).write_text(text)
    with pytest.raises(IntegrityError, match=FILE):
        zoo.url(job(tmp_path), address=site.put("/w.pth", saved(weights())))


def test_two_at_once_pull_once(site, tmp_path):
    """Four jobs want one file: it is fetched once, and all have it."""
    address = site.put("/w.pth", saved(weights()))
    models = []
    threads = [
        threading.Thread(target=lambda i=i: models.append(zoo.url(job(tmp_path, str(i)), address=address)))
        for i in range(4)
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(models) == 4
    assert site.asked == ["/w.pth"]


def test_a_repository_of_the_hub(site, tmp_path, monkeypatch):
    """The file of a revision by its plain address, and the licence of the repository's card."""
    monkeypatch.setenv("HF_ENDPOINT", site.address + "/")
    monkeypatch.setattr(zoo, "HUB", "http://127.0.0.1:9")  # the hub itself is not asked
    site.put("/owner/name/resolve/v1/sub/w.pth", saved({"ema": weights(1.0), "model": weights()}))
    site.put("/api/models/owner/name", b'{"tags": ["pytorch", "license:apache-2.0"]}')
    model = zoo.hf(job(tmp_path), repo="owner/name", file="sub/w.pth", revision="v1", entry="ema")
    assert torch.equal(model.state_dict()["1.weight"], weights(1.0)["1.weight"])
    (entry,) = lock(tmp_path)
    assert (entry["licence"], entry["url"]) == ("apache-2.0", "http://127.0.0.1:9/owner/name/resolve/v1/sub/w.pth")
    for bad in ({"repo": "a/b/c"}, {"repo": "../x"}, {"file": "../../etc"}, {"file": ""}, {"revision": "a b"}):
        with pytest.raises(UsageError, match="expected"):
            zoo.hf.pin({"repo": "owner/name", "file": "w.pth", "revision": "main", "sha256": "", **bad})


def test_the_list_of_the_zoo(bench):
    """236 models, with the figures that their papers' readers know; words choose, and cifar10 is not cifar100."""
    found = json.loads(bench("list", "zoo", "--json").stdout)["zoo"]
    assert len(found) == 236
    assert sum(e["recipe"] is not None for e in found) == PULLABLE
    (carmon,) = json.loads(bench("list", "zoo", "Carmon", "--json").stdout)["zoo"]
    assert (carmon["clean"], carmon["autoattack"], carmon["eps"], carmon["extra_data"]) == (89.69, 59.53, "8/255", True)
    assert carmon["recipe"] == "robustbench(model='Carmon2019Unlabeled')"
    assert carmon["link"] == "https://arxiv.org/abs/1905.13736"
    counts = {
        words: len(json.loads(bench("list", "zoo", *words.split(), "--json").stdout)["zoo"])
        for words in ("cifar10 linf", "cifar10 l2", "cifar10 corruptions", "cifar100 linf", "cifar100", "imagenet linf")
    }
    assert list(counts.values()) == [99, 21, 23, 38, 51, 30]
    shown = bench("list", "zoo", "rice2020").stderr
    assert "Rice2020Overfitting" in shown
    assert "53.42" in shown
    assert "None of the zoo fits" in bench("list", "zoo", "nothing-like-it").stderr


@pytest.mark.shared
def test_the_list_says_what_the_board_says():
    """Every figure of the public records, and the best of each board first."""
    said = {(r.dataset, r.threat, r.name): r for r in zoo.records()}
    public = json.loads((SHARED / "reference" / "robustbench_model_info.json").read_text())
    assert len(said) == len(public)
    for theirs in public:
        dataset, threat = theirs["_board"].split("/")
        ours = said[dataset, threat.lower(), theirs["_id"]]
        numbers = {
            "clean": "clean_acc",
            "autoattack": "autoattack_acc",
            "worse": "external",
            "corruptions": "corruptions_acc",
        }
        for name, their_name in numbers.items():
            assert getattr(ours, name) == (float(theirs[their_name]) if their_name in theirs else None)
        assert (ours.link, ours.venue, ours.extra_data) == (theirs["link"], theirs["venue"], theirs["additional_data"])
    for group in groups(zoo.records()).values():
        assert [r.accuracy for r in group] == sorted((r.accuracy for r in group), reverse=True)


def groups(records):
    found = {}
    for record in records:
        found.setdefault((record.dataset, record.threat), []).append(record)
    return found


def test_every_recipe_of_the_list_pulls_its_own_model():
    """The recipe that is shown leads back to the record, to files, and to a net of that name."""
    for record in zoo.records():
        if not record.weights:
            with pytest.raises(UsageError, match="no weights are published"):
                zoo.robustbench.pin(
                    {
                        "model": record.name,
                        "dataset": record.dataset,
                        "threat": record.threat,
                        "sha256": None,
                        "path": None,
                    }
                )
            continue
        _, _, written = split_recipe(zoo.recipe_of(record))
        settings = zoo.robustbench.pin(dict(zoo.robustbench.recipe(**written).settings))
        assert (settings["dataset"], settings["threat"]) == (record.dataset, record.threat)
        assert all(piece.source.url.startswith("https://") for piece in files(record))
    assert {r.name for r in zoo.records()} >= set(LOOSE)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model": "Carmon2019Unlabelled"}, "did you mean 'Carmon2019Unlabeled'"),
        ({"model": "Carmon2019Unlabeled", "threat": "l2"}, r"is published for cifar10 \(linf\), not  l2"),
        ({"model": "Madry2018Towards"}, "no weights are published"),
        ({"model": "Carmon2019Unlabeled", "sha256": "abc"}, "64 hexadecimal digits"),
    ],
)
def test_a_model_that_is_not_there_is_refused_before_any_work(settings, said):
    """A misspelt name, another threat, a paper without weights, a hash that is none."""
    with pytest.raises(UsageError, match=said):
        zoo.robustbench.pin(dict(zoo.robustbench.recipe(**settings).settings))


@pytest.fixture
def small(tmp_path):
    """Weights of a small net of the zoo as its file has them: prefixed, nested, without the images' mean and std."""
    torch.manual_seed(0)
    module = net_of(classes=10, channels=3, size=32, model=SMALL, threat="corruptions")
    state = {f"module.{k}": v for k, v in module.state_dict().items() if k not in {"mu", "sigma"}}
    torch.save({"state_dict": state, "epoch": 1, "best_acc": np.float64(0.9)}, tmp_path / "small.pt")
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (40, 3, 32, 32), dtype=np.uint8)
    y = np.arange(40, dtype=np.int64) % 10
    np.savez(tmp_path / "noise.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    return module.eval()


COMMON = ("--dataset", "npz:noise.npz", "--columns", "clean", "--executor", "inline")


def test_a_model_of_the_zoo_brings_its_net(bench, tmp_path, small):
    """No --net is needed; the record names it; a second run does nothing; another --net is a usage error."""
    recipe = f"robustbench(model='{SMALL}', path='small.pt')"
    done = bench("run", "--defense", recipe, *COMMON, "--json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["board"]["sections"][0]["rows"]
    x = torch.from_numpy(np.load(tmp_path / "noise.npz")["x_test"]).float() / 255
    right = (small(x).argmax(1) == torch.arange(40) % 10).sum()
    assert row["numbers"]["clean"]["standing"] == right
    assert "Nothing to do" in bench("run", "--defense", recipe, *COMMON).stderr
    planned = bench("plan", "--defense", recipe, "standard", "--net", "", *COMMON, "--json")
    assert {line["missing"] for line in json.loads(planned.stdout)["lines"][:2]} == {0}
    refused = bench("run", "--defense", recipe, "--net", "resnet18", *COMMON)
    assert refused.returncode == 2
    assert "brings its own net" in refused.stderr


def test_a_model_for_other_images_is_refused_by_name(bench, small):
    """CIFAR-10's nets on the digits that are the default: the message says --dataset."""
    done = bench("run", "--defense", f"robustbench(model='{SMALL}', path='small.pt')", "--columns", "clean")
    assert done.returncode == 2
    assert "cifar10" in done.stderr
    assert "--dataset" in done.stderr


def test_a_wrong_file_for_a_model_is_refused(bench, tmp_path, small):
    """Weights of another net, another hash, too many files, none."""
    torch.save(weights(), tmp_path / "other.pt")
    done = bench("run", "--defense", f"robustbench(model='{SMALL}', path='other.pt')", *COMMON)
    assert done.returncode == 2
    assert "does not fit the net" in done.stderr
    done = bench("run", "--defense", f"robustbench(model='{SMALL}', path=('small.pt', 'other.pt'))", *COMMON)
    assert "is 1 files; path names 2" in done.stderr
    done = bench("run", "--defense", f"robustbench(model='{SMALL}', path='small.pt', sha256='{'0' * 64}')", *COMMON)
    assert done.returncode == 5
    assert "expected 0000" in done.stderr
    assert bench("run", "--defense", f"robustbench(model='{SMALL}', path='none.pt')", *COMMON).returncode == 4


def test_the_package_is_left_as_it_was():
    """Building a net leaves no half of robustbench behind, nor torch without its cuda()."""
    code = (
        "import sys, torch; cuda = torch.Tensor.cuda\n"
        "from defenses.zoo_robustbench import robustbench\n"
        f"robustbench(classes=10, channels=3, size=32, model={SMALL!r}, threat='corruptions')\n"
        "assert torch.Tensor.cuda is cuda\n"
        "assert 'robustbench' not in sys.modules and 'gdown' not in sys.modules and 'autoattack' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
