from __future__ import annotations

import zlib
from pathlib import Path

import msgspec
import pytest

from pytest_ocrepro.errors import BundleError
from pytest_ocrepro.events import Note
from pytest_ocrepro.publish import storage
from pytest_ocrepro.publish.bundle import RunDir, TrialBundle, TrialInfo
from pytest_ocrepro.publish.counting import unjudged
from pytest_ocrepro.publish.parcel import pack, take_in

INFO = TrialInfo(scenario="a.py::test_it", title="it", version="1.0.0")


@pytest.fixture
def far(tmp_path: Path) -> Path:
    """A bundle as a worker has written it."""
    run = RunDir.create(tmp_path / "far", run_id="theirs")
    with run.open_trial("it", INFO) as bundle:
        bundle.sink(msgspec.json.encode(Note(at_ns=1, text="seen")) + b"\n")
        storage.replace(bundle.path / "result.json", msgspec.json.encode(unjudged("theirs", INFO, bundle.path)))
        (bundle.path / "core").write_bytes(b"too much")
    return bundle.path


@pytest.fixture
def here(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path / "here", run_id="ours")


def test_a_bundle_arrives_whole_and_belongs_to_the_run_that_it_came_to(far: Path, here: RunDir) -> None:
    sent = unjudged("theirs", INFO, far)
    first, second = (take_in(here, pack(far), sent) for _ in range(2))
    assert (first.run_id, first.bundle, second.bundle) == ("ours", "trials/it", "trials/it-2")
    stored = TrialBundle.read(here.bundle_of(second))
    assert [event.text for event in stored.history.of_type(Note)] == ["seen"]
    assert stored.result == second
    assert not (stored.path / "core").exists()


@pytest.mark.parametrize(
    ("parcel", "words"),
    [
        (b"no parcel", "a worker's evidence cannot be read"),
        (zlib.compress(b"\xc1"), "a worker's evidence cannot be read"),
        (zlib.compress(msgspec.msgpack.encode({"trial.json": b"{}"})), "it/trial.json is corrupt"),
        (zlib.compress(msgspec.msgpack.encode({"../trial.json": b"{}"})), "it/trial.json is missing"),
    ],
)
def test_what_cannot_be_read_is_refused(far: Path, here: RunDir, parcel: bytes, words: str) -> None:
    with pytest.raises(BundleError, match=words):
        take_in(here, parcel, unjudged("theirs", INFO, far))
    assert not list(here.path.parent.parent.glob("trial.json"))


@pytest.mark.parametrize("bundle", ["trials/../../x", "elsewhere/it", "trials/.hidden"])
def test_a_name_that_leads_out_of_the_run_is_refused(far: Path, here: RunDir, bundle: str) -> None:
    sent = msgspec.structs.replace(unjudged("theirs", INFO, far), bundle=bundle)
    with pytest.raises(BundleError, match="names a bundle that is not in its run"):
        take_in(here, pack(far), sent)


def test_more_than_a_run_may_hold_is_refused(far: Path, here: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    parcel = pack(far)
    monkeypatch.setattr(storage, "MAX_FILE_BYTES", 20)
    with pytest.raises(BundleError, match="is more than 20 bytes; it was not stored"):
        take_in(here, parcel, unjudged("theirs", INFO, far))
