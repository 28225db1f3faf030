from __future__ import annotations

import gzip
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_ocrepro.errors import BuildError
from pytest_ocrepro.stage import tarball as packages
from tests.data.subject.packages import build, member, tarball

GOOD = member("package/bin/opencode", b"#!/bin/sh\n")
HOSTILE = {
    "parent": member("package/../../outside", b"x"),
    "parent-only": member("../outside", b"x"),
    "absolute": member("/package/outside", b"x"),
    "elsewhere": member("outside", b"x"),
    "dot": member("package/./bin", b"x"),
    "empty-part": member("package//bin", b"x"),
    "symlink": member("package/bin/link", kind=tarfile.SYMTYPE, link="/"),
    "hard-link": member("package/bin/link", kind=tarfile.LNKTYPE, link="package/bin/opencode"),
    "character-device": member("package/null", kind=tarfile.CHRTYPE),
    "block-device": member("package/disk", kind=tarfile.BLKTYPE),
    "fifo": member("package/fifo", kind=tarfile.FIFOTYPE),
    "sparse": member("package/sparse", kind=tarfile.GNUTYPE_SPARSE),
    "twice": GOOD,
    "file-as-directory": member("package/bin/opencode/inner", b"x"),
    "directory-as-file": member("package/bin", b"x"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_member_is_refused(tmp_path: Path, name: str) -> None:
    file = tmp_path / "hostile.tgz"
    file.write_bytes(tarball(GOOD, HOSTILE[name]))
    with pytest.raises(BuildError, match=r"^hostile\.tgz is refused: ") as caught:
        packages.unpack(file, tmp_path / "deep/into")
    assert "\n" not in str(caught.value)
    written = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {Path("hostile.tgz"), Path("deep/into/package/bin/opencode")}


def test_names_that_no_file_can_have_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "names.tgz"
    nul, long = tarfile.TarInfo("package/x"), tarfile.TarInfo(f"package/{'x' * 5000}")
    nul.pax_headers = {"path": "package/a\0b"}
    refused, damaged = r"^names\.tgz is refused: ", r"^the package names\.tgz is damaged "
    for name, hostile, words in (("nul", nul, damaged), ("long", long, refused)):
        file.write_bytes(tarball(GOOD, (hostile, b"")))
        with pytest.raises(BuildError, match=words) as caught:
            packages.unpack(file, tmp_path / name)
        assert "\n" not in str(caught.value)


def test_headers_about_headers_are_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 512
    file = tmp_path / "headers.tgz"
    file.write_bytes(gzip.compress((info.tobuf(tarfile.GNU_FORMAT) + b"x" * 512) * 3000))
    with pytest.raises(BuildError, match=r"^the package headers\.tgz is damaged "):
        packages.unpack(file, tmp_path / "into")


def test_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "UNPACKED_LIMIT_BYTES", 1 << 20)
    file, into = tmp_path / "bomb.tgz", tmp_path / "into"
    file.write_bytes(tarball(GOOD, member("package/zeros", bytes(1 << 21))))
    with pytest.raises(BuildError, match="it unpacks to more than 1 GiB"):
        packages.unpack(file, into / "one")
    assert not (into / "one/package/zeros").exists()
    file.write_bytes(tarball(*(member(f"package/{n}") for n in range(packages.MEMBERS_LIMIT + 1))))
    with pytest.raises(BuildError, match="it has more than 1000 members"):
        packages.unpack(file, into / "two")
    # not in a file of the archive, but in its headers and its trailing padding
    long_name = tarfile.TarInfo("package/x")
    long_name.pax_headers = {"comment": "x" * (1 << 22)}
    file.write_bytes(tarball((long_name, b""), GOOD))
    with pytest.raises(BuildError, match="it unpacks to more than 1 GiB"):
        packages.unpack(file, into / "three")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is damaged"),
        (b"not gzip at all", "is damaged"),
        (build("1.0.0")[:60], "is damaged"),
        (gzip.compress(b"not a tar archive" * 100), "is damaged"),
        (gzip.compress(gzip.decompress(build("1.0.0"))[:2000]), "is damaged"),
        (tarball(member("package/package.json", b"{}")), "is refused: it has no package/bin/opencode"),
    ],
    ids=["empty", "no gzip", "cut", "no tar", "cut inside", "no executable"],  # gzip's bytes hold the time of day
)
def test_a_damaged_package_is_one_line(tmp_path: Path, data: bytes, words: str) -> None:
    file = tmp_path / "damaged.tgz"
    file.write_bytes(data)
    with pytest.raises(BuildError, match=words) as caught:
        packages.unpack(file, tmp_path / "into")
    assert "\n" not in str(caught.value)


@given(
    st.lists(st.sampled_from(["package", "..", ".", "", "bin", "opencode", "...", "a b"]), max_size=6).map("/".join)
)
def test_no_accepted_name_leads_out(name: str) -> None:
    accepted = not packages._why_not(tarfile.TarInfo(name))
    lands = os.path.normpath(f"/into/{name}")
    assert not accepted or lands == "/into/package" or lands.startswith("/into/package/")
