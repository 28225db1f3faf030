from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile

import pytest

from pytest_ocrepro.stage.package import Package, package, reply_to

URL = "http://127.0.0.1:1/"


@pytest.fixture
def scoped() -> Package:
    return package("@some/thing", "1.2.3", {"lib/a.js": "export const a = 1\n"})


def test_a_tarball_holds_the_files_below_package(scoped: Package) -> None:
    with tarfile.open(fileobj=io.BytesIO(scoped.tarball)) as archive:
        assert archive.getnames() == ["package/index.js", "package/lib/a.js", "package/package.json"]
        file = archive.extractfile("package/lib/a.js")
        assert file is not None
        assert file.read() == b"export const a = 1\n"


def test_the_document_has_the_hashes_of_the_tarball_that_is_served(scoped: Package) -> None:
    told = json.loads(scoped.document(URL))
    dist = told["versions"][told["dist-tags"]["latest"]]["dist"]
    path = "/" + dist["tarball"].removeprefix(URL)
    served = reply_to(path, {scoped.name: scoped}, URL)
    assert served is not None
    assert dist["integrity"] == "sha512-" + base64.b64encode(hashlib.sha512(served[0]).digest()).decode()
    assert dist["shasum"] == hashlib.sha1(served[0], usedforsecurity=False).hexdigest()


def test_the_same_files_give_the_same_bytes(scoped: Package) -> None:
    assert scoped.tarball == package(scoped.name, scoped.version, {"lib/a.js": "export const a = 1\n"}).tarball


@pytest.mark.parametrize("path", ["/@some%2fthing", "/@some/thing", "/@some%2Fthing?write=true"])
def test_a_name_is_found_however_it_is_written(scoped: Package, path: str) -> None:
    assert reply_to(path, {scoped.name: scoped}, URL) == (scoped.document(URL), "application/json")


@pytest.mark.parametrize("path", ["/@some/other", "/@some/thing/-/thing-9.9.9.tgz", "/"])
def test_what_is_not_published_is_not_found(scoped: Package, path: str) -> None:
    assert reply_to(path, {scoped.name: scoped}, URL) is None
