"""Container file of a model: safetensors with one JSON document.

safetensors holds plain arrays and text, so that reading a file from elsewhere runs no code. Its metadata
is a hash map without a fixed order; the document is therefore one key, and equal content gives equal bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from aqdask.errors import ModelError

_KEY = "aqdask"


def _checksum(tensors: Mapping[str, np.ndarray], document: Mapping[str, Any]) -> str:
    """Compute the sha256 of names, types, shapes, values, and of the document without its checksum."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype.str} {tensor.shape}".encode())
        digest.update(np.ascontiguousarray(tensor).data)
    rest = {key: value for key, value in document.items() if key != "checksum"}
    digest.update(json.dumps(rest, sort_keys=True).encode())
    return digest.hexdigest()


def pack(tensors: Mapping[str, np.ndarray], document: Mapping[str, Any]) -> bytes:
    """Serialise arrays and a document of plain JSON, which has 'format' and 'bundle_version'."""
    plain = json.loads(json.dumps(document, allow_nan=False))
    # safetensors writes the buffer as it lies: an array in another order would come back as another one.
    ordered = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    plain["checksum"] = _checksum(ordered, plain)
    return save(ordered, metadata={_KEY: json.dumps(plain, sort_keys=True)})


def unpack(data: bytes, kind: str, versions: Sequence[int]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read the arrays and the document of a packed file.

    Parameters
    ----------
    kind : str
        The document's 'format', such as 'aqdask-bundle'.
    versions : sequence of int
        Each 'bundle_version' that this release reads.

    Raises
    ------
    ModelError
        For a file that is truncated, corrupt, foreign or of another version.
    """
    try:
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(
            f"the file cannot be read as safetensors ({error})",
            expected=f"a complete {kind} file",
            consequence="It is truncated, corrupt or something else, and nothing was loaded",
            remedy="copy it again from where it was made and compare the sizes",
        ) from error
    document = _document(header, kind, versions)
    if document.get("checksum") != _checksum(tensors, document):
        raise ModelError(
            "the checksum of the file's content differs from the one stored in it",
            expected=f"{document.get('checksum')}",
            consequence="Some bytes changed since it was written; scores made with it would be wrong",
            remedy="copy it again from where it was made",
        )
    return tensors, document


def _document(header: dict[str, Any], kind: str, versions: Sequence[int]) -> dict[str, Any]:
    """Return the JSON document of a safetensors header, if it is of this kind and one of the versions."""
    try:
        document = json.loads(header["__metadata__"][_KEY])
        found, found_version = document["format"], document["bundle_version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        document, found, found_version = {}, "no aqdask metadata", versions[-1]
    if found != kind:
        raise ModelError(
            f"a safetensors file with {found}",
            expected=f"the format {kind}",
            consequence="It was made by another program or for another purpose",
            remedy="give a file that `aqdask train` or `calibrate` wrote",
        )
    if found_version not in versions:
        raise ModelError(
            f"a file of the format {kind}, version {found_version}",
            expected=f"version {' or '.join(map(str, versions))}",
            consequence="This release of aqdask would misread it",
            remedy="install the release of aqdask that wrote it, or train again",
        )
    return document


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file atomically: a temporary file is written, synced and renamed over it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with open(partial, "xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
