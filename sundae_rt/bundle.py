"""A bundle: a folder, or the same as one zip file, that holds `manifest.json` and the graph files that it names."""

import hashlib
import io
import lzma
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from sundae_rt import engines
from sundae_rt.backends.origin import Origin
from sundae_rt.errors import BundleError
from sundae_rt.files import user_cache
from sundae_rt.manifest import DataFile, GraphFile, Manifest

MANIFEST_FILE: Final = "manifest.json"

_MANIFEST_LIMIT = 16 * 2**20
_GRAPH_LIMIT = 2**31  # a protobuf, hence an ONNX file, holds no more
_DATA_LIMIT = 2**37
# What `zipfile` raises on damage, encryption or an unknown compression, besides OSError. ValueError: names not UTF-8.
_UNREADABLE_ZIP = (zipfile.BadZipFile, RuntimeError, ValueError, EOFError, zlib.error, lzma.LZMAError)


class Bundle:
    """An opened bundle. It keeps no file open, and may be used from several threads.

    Attributes:
        path: the folder or zip file.
        manifest: its manifest.
        fingerprint: SHA-256 of the manifest's bytes, as hex. The manifest holds the digests of all graphs, so two
            bundles of one fingerprint are the same.
    """

    def __init__(self, path: Path, manifest: Manifest, fingerprint: str) -> None:
        self.path = path
        self.manifest = manifest
        self.fingerprint = fingerprint

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "Bundle":
        """Read the manifest at `path`; graph files are read and checked when they are asked for.

        Raises:
            BundleError: no bundle is there, or its manifest is not valid; the message names the path.
        """
        where = Path(path)
        if not (where.is_dir() or where.is_file()):
            raise BundleError(f"{where}: no such bundle, neither a folder nor a zip file")
        raw = _read(where, MANIFEST_FILE, _MANIFEST_LIMIT)
        try:
            manifest = Manifest.from_json(raw)
        except BundleError as error:
            raise BundleError(f"{where}: {error}") from error
        return cls(where, manifest, hashlib.sha256(raw).hexdigest())

    def variants(self, graph: str) -> Mapping[str, GraphFile]:
        """The variants of a graph by name.

        Raises:
            BundleError: the bundle lacks the graph; the message says how to get it.
        """
        if graph in self.manifest.graphs:
            return self.manifest.graphs[graph]
        held = ", ".join(self.manifest.graphs)
        remedies = {"denoiser": "from a prior's checkpoint", "logits": "with --logits"}
        remedy = remedies.get(graph, "with --vqgan")
        raise BundleError(f"bundle {self.manifest.name!r} has no {graph} graph (it holds {held}): export it {remedy}")

    def read(self, graph: str, variant: str) -> bytes:
        """The bytes of one variant of one graph, whose SHA-256 is that of the manifest.

        Raises:
            BundleError: the bundle lacks the graph or variant, or its file is missing, altered or outside the bundle.
        """
        variants = self.variants(graph)
        if variant not in variants:
            raise BundleError(f"{self.path}: {graph} has no variant {variant!r} (it has {', '.join(variants)})")
        entry = variants[variant]
        data = _read(self.path, entry.file, _GRAPH_LIMIT)
        self._check_digest(entry, hashlib.sha256(data).hexdigest())
        return data

    def size(self, graph: str, variant: str) -> int:
        """Bytes of one variant of one graph: of its file, and of its data file where it has one.

        Raises:
            BundleError: the bundle lacks the graph, or one of its files is missing or outside the bundle.
        """
        entry = self.variants(graph)[variant]
        return sum(_size(self.path, file.file) for file in (entry, entry.data) if file is not None)

    @contextmanager
    def weights(self, graph: str, variant: str) -> Iterator[Path | None]:
        """A folder with the file of one variant of one graph and its data file, while the graph is loaded.

        None where it has no data file. It is the bundle's own, or a temporary one into which a zip file's are unpacked.

        Raises:
            BundleError: the bundle lacks the data file, or it is altered or outside the bundle.
        """
        of_graph = self.variants(graph)[variant]
        entry = of_graph.data
        if entry is None:
            yield None
        elif self.path.is_dir():
            with _open_in_folder(self.path, entry.file, _DATA_LIMIT) as file:
                self._check_digest(entry, hashlib.file_digest(file, "sha256").hexdigest())
            yield self.path
        else:
            # What has mapped a file on Windows keeps it from being removed.
            with tempfile.TemporaryDirectory(prefix="sundae-rt-", ignore_cleanup_errors=True) as folder:
                unpacked = Path(folder) / entry.file
                _unpack(self.path, entry.file, unpacked)
                with unpacked.open("rb") as file:
                    self._check_digest(entry, hashlib.file_digest(file, "sha256").hexdigest())
                _unpack(self.path, of_graph.file, Path(folder) / of_graph.file)
                yield Path(folder)

    def origin(self, graph: str, variant: str) -> Origin:
        """Where one variant of one graph comes from.

        What is made from it may be kept in the folder `engines` inside the bundle, else in the user's cache: there for
        a zip file, and for a bundle that ships, whose folder is the package's own.

        Raises:
            BundleError: the bundle lacks the graph.
        """
        entry = self.variants(graph)[variant]
        digest = entry.sha256
        if entry.data is not None:
            digest = hashlib.sha256(f"{entry.sha256} {entry.data.sha256}".encode()).hexdigest()
        cached = user_cache() / "engines" / f"{self.manifest.name}-{self.fingerprint[:12]}"
        own = self.path.is_dir() and self.path.resolve() not in (path.resolve() for path in engines.shipped().values())
        return Origin(graph, variant, digest, (self.path / "engines", cached) if own else (cached,))

    def _check_digest(self, entry: GraphFile | DataFile, digest: str) -> None:
        if digest != entry.sha256:
            raise BundleError(
                f"{self.path}: {entry.file} is damaged or was altered (SHA-256 {digest[:12]}..., the manifest says "
                f"{entry.sha256[:12]}...): fetch or export the bundle again"
            )


def _read(bundle: Path, name: str, limit: int) -> bytes:
    """The bytes of one file of a bundle."""
    with (_open_in_folder if bundle.is_dir() else _open_in_zip)(bundle, name, limit) as file:
        return file.read()


def _size(bundle: Path, name: str) -> int:
    if bundle.is_dir():
        with _open_in_folder(bundle, name, _DATA_LIMIT) as file:
            return os.fstat(file.fileno()).st_size
    with _open_zip(bundle, name) as archive:
        return archive.getinfo(name).file_size


def _unpack(archive: Path, name: str, target: Path) -> None:
    with _open_in_zip(archive, name, _DATA_LIMIT) as file, target.open("wb") as unpacked:
        shutil.copyfileobj(file, unpacked, 2**20)


@contextmanager
def _open_in_folder(folder: Path, name: str, limit: int) -> Iterator[io.BufferedReader]:
    file = Path(os.path.realpath(folder / name))
    if not file.is_relative_to(os.path.realpath(folder)):
        raise BundleError(f"{folder}: {name} is a link that leads out of the bundle")
    if not file.is_file():
        raise BundleError(f"{folder}: {name} is missing")
    try:
        _check_size(folder, name, file.stat().st_size, limit)
        with file.open("rb") as opened:
            yield opened
    except OSError as error:
        raise BundleError(f"{folder}: cannot read {name}: {error.strerror or error}") from error


@contextmanager
def _open_in_zip(archive: Path, name: str, limit: int) -> Iterator[IO[bytes]]:
    with _open_zip(archive, name) as opened:
        _check_size(archive, name, opened.getinfo(name).file_size, limit)
        with opened.open(name) as file:
            yield file


@contextmanager
def _open_zip(archive: Path, name: str) -> Iterator[zipfile.ZipFile]:
    """An archive, from which `name` shall be read."""
    try:
        with zipfile.ZipFile(archive) as opened:
            yield opened
    except KeyError:
        raise BundleError(f"{archive}: {name} is missing at the root of the archive") from None
    except _UNREADABLE_ZIP as error:
        raise BundleError(f"{archive}: not a readable zip file: {error}") from error
    except OSError as error:
        raise BundleError(f"{archive}: cannot read {name}: {error.strerror or error}") from error


def _check_size(bundle: Path, name: str, size: int, limit: int) -> None:
    if size > limit:
        raise BundleError(f"{bundle}: {name} is too large ({size} bytes, at most {limit})")
