"""The model bundle: one safetensors file with weights, calibrations and provenance, known by its sha256."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from aqdask.errors import ModelError, place_failed
from aqdask.kernels.calibration import ScoreTable
from aqdask.models.container import pack, unpack, write_atomic

FORMAT = "aqdask-bundle"
VERSION = 1
POOLED = ""  # key of the calibration on all calibration frames together
_FIELDS = ("name", "method", "patch", "normalisation", "architecture", "provenance", "notes")


def calibration_key(camera: str, filter: str) -> str:
    """Key of the calibration that belongs to one camera and filter."""
    return f"{camera}|{filter}"


@dataclass(frozen=True, eq=False)
class Bundle:
    """A trained model; travels as bytes, is identified by their sha256, and never unpickles.

    Parameters
    ----------
    name : str
        Name of the model.
    method : str
        Which algorithm reads the weights ('paper').
    patch : int
        Side of a patch in pixels.
    normalisation : str
        How patches are scaled ('minmax').
    architecture : mapping
        Settings of the network, plain JSON.
    weights : mapping of str to ndarray
        The network's state.
    calibrations : mapping of str to ScoreTable
        By `calibration_key`; ``""`` is the pooled one and always there.
    provenance : mapping
        Frames, settings, versions and loss curve, plain JSON.
    notes : tuple of str
        What the user of the model should know, one sentence each.
    """

    name: str
    method: str
    patch: int
    normalisation: str
    architecture: Mapping[str, Any]
    weights: Mapping[str, np.ndarray]
    calibrations: Mapping[str, ScoreTable]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @cached_property
    def contents(self) -> bytes:
        """The bytes of the file; those it was loaded from where it was loaded."""
        tensors = {f"weights/{name}": array for name, array in self.weights.items()}
        for key, table in self.calibrations.items():
            tensors[f"calibration/{key}/values"] = table.values
            tensors[f"calibration/{key}/above"] = table.above
        document = {name: getattr(self, name) for name in _FIELDS}
        document |= {"format": FORMAT, "bundle_version": VERSION}
        document["calibrations"] = {key: table.total for key, table in self.calibrations.items()}
        return pack(tensors, document)

    @cached_property
    def digest(self) -> str:
        """sha256 of `contents`, 64 hexadecimal digits: the identity of the model."""
        return hashlib.sha256(self.contents).hexdigest()

    def calibration(self, camera: str = "", filter: str = "") -> ScoreTable:
        """Reference scores for this camera and filter; the pooled ones where it has none of its own."""
        return self.calibrations.get(calibration_key(camera, filter), self.calibrations[POOLED])

    def save(self, path: str | Path) -> None:
        """Write the file whole or not at all; an existing one is replaced."""
        try:
            write_atomic(Path(path), self.contents)
        except OSError as error:
            raise place_failed(path, error) from error

    @classmethod
    def load(cls, path: str | Path) -> Bundle:
        """Read a bundle from disk.

        Raises
        ------
        ModelError
            If the file cannot be read or is no sound bundle.
        """
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise ModelError(
                f"the model file {path} cannot be read ({error.strerror})",
                expected="a bundle that `aqdask train` wrote",
                consequence="There is no model to score with",
                remedy="check the path, or train a model first",
            ) from error
        try:
            return cls.from_bytes(data)
        except ModelError as error:
            raise ModelError(
                f"{path}: {error.got}",
                expected=error.expected,
                consequence=error.consequence,
                remedy=error.remedy,
            ) from error

    @classmethod
    def from_bytes(cls, data: bytes) -> Bundle:
        """Read a bundle that travelled as bytes; `digest` is the sha256 of exactly these.

        Raises
        ------
        ModelError
            For bytes that are truncated, corrupt, foreign or of another version.
        """
        tensors, document = unpack(data, FORMAT, VERSION)
        try:
            settings = {name: document[name] for name in _FIELDS}
            settings["notes"] = tuple(settings["notes"])
            tables = {
                key: ScoreTable(
                    tensors[f"calibration/{key}/values"], tensors[f"calibration/{key}/above"], total
                )
                for key, total in document["calibrations"].items()
            }
            tables[POOLED]  # the one that every lookup falls back to
        except (KeyError, TypeError, AttributeError) as error:
            raise ModelError(
                f"a bundle without {error}",
                expected=f"what a bundle of version {VERSION} holds",
                consequence="It cannot be scored with",
                remedy="train again with this release of aqdask",
            ) from error
        weights = {
            name.removeprefix("weights/"): array
            for name, array in tensors.items()
            if name.startswith("weights/")
        }
        bundle = cls(weights=weights, calibrations=tables, **settings)
        vars(bundle)["contents"] = data  # the digest is the file's, whatever safetensors would write today
        return bundle

    def info(self) -> dict[str, Any]:
        """What is worth printing, plain JSON."""
        return {
            "name": self.name,
            "digest": self.digest,
            "method": self.method,
            "patch": self.patch,
            "normalisation": self.normalisation,
            "architecture": dict(self.architecture),
            "parameters": int(sum(array.size for array in self.weights.values())),
            "bytes": len(self.contents),
            "calibrations": {
                key: {"patches": table.total, "smallest_pvalue": table.smallest}
                for key, table in self.calibrations.items()
            },
            "provenance": dict(self.provenance),
            "notes": list(self.notes),
        }
