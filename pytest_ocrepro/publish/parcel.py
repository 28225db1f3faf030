"""A bundle as it travels with a test's report from a worker that shares no file system with us.

It is packed where it was written, behind that trial's gate, and stored here under the same name. What comes is read
with distrust: known files only, of a bounded size, whose records can be read.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import msgspec

from pytest_ocrepro.errors import BundleError
from pytest_ocrepro.publish import storage
from pytest_ocrepro.publish.bundle import BUNDLE_FILES, RunDir, TrialBundle
from pytest_ocrepro.publish.records import TrialResult
from pytest_ocrepro.publish.run_folders import SAFE_NAME

_TRAVELLING = tuple(name for name in BUNDLE_FILES if name != "origin.json")
_files = msgspec.msgpack.Decoder(dict[str, bytes])


def pack(bundle: Path) -> bytes:
    """The bundle's files, compressed. Raises BundleError where one cannot be read."""
    read = {name: storage.read_bytes(bundle / name, storage.MAX_FILE_BYTES) for name in _TRAVELLING}
    return zlib.compress(msgspec.msgpack.encode({name: content for name, content in read.items() if content}))


def take_in(run: RunDir, parcel: bytes, result: TrialResult) -> TrialResult:
    """Store a bundle that has travelled; the result as it belongs to this run. Raises BundleError.

    A name that is taken gets a number, as that of any other bundle of the run.
    """
    head, _, name = result.bundle.partition("/")
    if head != "trials" or not SAFE_NAME.fullmatch(name):
        raise BundleError(f"a worker names a bundle that is not in its run: {result.bundle!r:.80}")
    files = _unpacked(parcel)
    path = run.place_for(name)
    placed = msgspec.structs.replace(result, run_id=run.info.run_id, bundle=f"trials/{path.name}")
    if "result.json" in files:
        files["result.json"] = msgspec.json.encode(placed)
    for known in (one for one in _TRAVELLING if one in files):
        storage.replace(path / known, files[known])
    TrialBundle.read(path)
    return placed


def _unpacked(parcel: bytes) -> dict[str, bytes]:
    loose = zlib.decompressobj()
    try:
        content = loose.decompress(parcel, storage.MAX_FILE_BYTES)
        if loose.unconsumed_tail:
            raise BundleError(f"a worker's evidence is more than {storage.MAX_FILE_BYTES} bytes; it was not stored")
        return {name: bytes(file) for name, file in _files.decode(content).items() if name in _TRAVELLING}
    except (zlib.error, msgspec.MsgspecError) as error:
        raise BundleError(f"a worker's evidence cannot be read: {storage.short(error)}") from None
