"""Model bundle: one safetensors file with weights, calibrations and provenance, identified by its sha256."""

from __future__ import annotations

import hashlib
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np

from aqdask.errors import ModelError, UsageError, place_failed
from aqdask.methods.calibration_spans import SEPARATOR, CalibrationSpans, TimeSpan
from aqdask.methods.container import pack, unpack, write_atomic
from aqdask.paths import check_local, read_regular

FORMAT = "aqdask-bundle"
VERSION = 3  # 2: of earlier releases, without tests of frames
LATER_VERSION = 4  # with what earlier releases would misread: options of the network, or spans of time
READ_VERSIONS = (2, VERSION, LATER_VERSION)
OPTIONS = "options"  # entry of ``architecture`` of such a network: `NetworkOptions`
LONGEST_SHOWN = 80  # characters of a value in a message
POOLED = ""  # key of the calibration on all calibration frames together
LONGEST_NAME = 100
PATCHES = range(8, 4097)  # px; sides of a patch
_FIELDS = ("name", "method", "patch", "normalisation", "architecture", "provenance", "notes")


def is_name(name: object) -> bool:
    """Return True if a model name is valid: it becomes part of the names of a quality group and of files."""
    if not isinstance(name, str) or len(name) > LONGEST_NAME or ".." in name:
        return False
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) is not None


def is_patch(side: object) -> bool:
    """Return True if a side of a patch in px is valid."""
    return isinstance(side, int) and not isinstance(side, bool) and side in PATCHES


def calibration_key(camera: str, filter: str) -> str:
    """Return the key of the calibration of one camera and filter."""
    return f"{camera}|{filter}"


def nearest_key(calibrations: Iterable[str], key: str) -> str:
    """Return a key if it is there, else that of another filter of the same camera, else `POOLED`."""
    camera = key.rpartition("|")[0]
    same = [other for other in sorted(calibrations) if other and other.rpartition("|")[0] == camera]
    return key if key in same else same[0] if same else POOLED


@dataclass(frozen=True, eq=False)
class Calibration:
    """Calibration of one camera and filter; only its method reads the arrays.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        By name; names may contain '/'.
    facts : mapping
        Plain JSON. 'patches' (int, how many reference patches) and 'smallest_pvalue' (float) are printed.
        'span' (str) is the span of time of the frames that it serves; absent for all.
    """

    arrays: Mapping[str, np.ndarray]
    facts: Mapping[str, Any]

    def with_span(self, span: str) -> Calibration:
        """Return a copy that serves frames of a span of time (`TimeSpan`)."""
        return replace(self, facts={**self.facts, "span": span})


def _tensor_name(key: str, array: str) -> str:
    """Name an array of calibration ``key`` in the file: quoted, a key has no '/' of its own."""
    return f"calibration/{quote(key, safe='|')}/{array}"


@dataclass(frozen=True, eq=False)
class Bundle:
    """A trained model: bytes that are identified by their sha256, and loaded without unpickling.

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
    calibrations : mapping of str to Calibration
        By `calibration_key`; ``""`` is the pooled one and always there.
    provenance : mapping
        Frames, settings, versions and loss curve, plain JSON.
    notes : tuple of str
        Remarks for the user of the model, one sentence each.
    """

    name: str
    method: str
    patch: int
    normalisation: str
    architecture: Mapping[str, Any]
    weights: Mapping[str, np.ndarray]
    calibrations: Mapping[str, Calibration]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @cached_property
    def contents(self) -> bytes:
        """Bytes of the file; of a loaded bundle those that it was loaded from."""
        tensors = {f"weights/{name}": array for name, array in self.weights.items()}
        for key, calibration in self.calibrations.items():
            tensors |= {_tensor_name(key, name): array for name, array in calibration.arrays.items()}
        document = {name: getattr(self, name) for name in _FIELDS}
        version = LATER_VERSION if self.spans or OPTIONS in self.architecture else VERSION
        document |= {"format": FORMAT, "bundle_version": version}
        document["calibrations"] = {key: dict(c.facts) for key, c in self.calibrations.items()}
        return pack(tensors, document)

    @cached_property
    def digest(self) -> str:
        """sha256 of `contents`, 64 hexadecimal digits: the identity of the model."""
        return hashlib.sha256(self.contents).hexdigest()

    def calibration(self, camera: str = "", filter: str = "") -> Calibration:
        """Return the calibration of a camera and filter; the pooled one where there is none."""
        return self.calibrations.get(calibration_key(camera, filter), self.calibrations[POOLED])

    def calibrated_for(self, camera: str, filter: str) -> bool:
        """Return True if a camera and filter have a calibration of their own (unknown ones: both empty)."""
        key = calibration_key(camera, filter)
        return key in self.calibrations or key in self.spans

    @cached_property
    def spans(self) -> CalibrationSpans:
        """Spans of time of the calibrations, which choose the one of a frame."""
        return CalibrationSpans({key: c.facts.get("span", "") for key, c in self.calibrations.items()})

    def with_calibrations(self, calibrations: Mapping[str, Calibration], **changes: Any) -> Bundle:
        """Return a copy with calibrations added, or replaced where the key is the same.

        ``changes`` are other fields of the copy, such as ``name``, ``notes`` or ``provenance``.
        """
        return replace(self, calibrations={**self.calibrations, **calibrations}, **changes)

    def save(self, path: str | Path) -> None:
        """Write the file whole or not at all; an existing one is replaced."""
        check_local(path)
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
            check_local(path)
            data = read_regular(path)
        except OSError as error:
            raise ModelError(
                f"the model file {path} cannot be read ({error.strerror})",
                expected="a bundle that `aqdask train` or `calibrate` wrote",
                consequence="There is no model to score with",
                remedy="check the path, or calibrate or train a model first",
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
        tensors, document = unpack(data, FORMAT, READ_VERSIONS)
        try:
            settings = {name: document[name] for name in _FIELDS}
            _check(settings | {"calibrations": document["calibrations"]})
            settings["notes"] = tuple(settings["notes"])
            calibrations = _calibrations(tensors, document["calibrations"])
            calibrations[POOLED]  # the one that every lookup falls back to
        except (KeyError, TypeError, AttributeError) as error:
            raise ModelError(
                f"a bundle without {error}",
                expected=f"what a bundle of version {VERSION} holds",
                consequence="No frame can be scored with it",
                remedy="train again with this release of aqdask",
            ) from error
        weights = {
            name.removeprefix("weights/"): array
            for name, array in tensors.items()
            if name.startswith("weights/")
        }
        bundle = cls(weights=weights, calibrations=calibrations, **settings)
        vars(bundle)["contents"] = data  # the digest is the file's, whatever safetensors would write today
        return bundle

    def info(self) -> dict[str, Any]:
        """Summarise the bundle as plain JSON, for printing."""
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
                key: {name: calibration.facts.get(name) for name in ("patches", "smallest_pvalue")}
                for key, calibration in self.calibrations.items()
            },
            "provenance": dict(self.provenance),
            "notes": list(self.notes),
        }


def _check(document: Mapping[str, Any]) -> None:
    """Raise `ModelError` for fields out of range: they would name files and size arrays."""
    sound: dict[str, tuple[Callable[[Any], bool], str]] = {
        "name": (is_name, "at most 100 letters, digits, '.', '_' and '-'"),
        "method": (lambda word: _is_text(word) and bool(word), "a word"),
        "patch": (is_patch, f"a whole number of px, {PATCHES[0]} to {PATCHES[-1]}"),
        "normalisation": (_is_text, "a word"),
        "architecture": (_is_mapping, "settings by name"),
        "provenance": (_is_mapping, "facts by name"),
        "notes": (lambda notes: isinstance(notes, list) and all(map(_is_text, notes)), "a list of sentences"),
        "calibrations": (lambda facts: _is_mapping(facts) and all(map(_are_facts, facts, facts.values())),
                         "facts by name for each camera and filter"),
    }  # fmt: skip
    for name, (is_sound, meaning) in sound.items():
        if not is_sound(document[name]):
            shown = textwrap.shorten(repr(document[name]), LONGEST_SHOWN, placeholder="...")
            raise ModelError(
                f"a bundle with the {name} {shown}",
                expected=meaning,
                consequence="It was not made by aqdask, and nothing was loaded",
                remedy="give a file that `aqdask train` or `calibrate` wrote",
            )


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping)


def _are_facts(key: str, value: object) -> bool:
    """Return True if the facts of a calibration have the types that other code relies on."""
    if not isinstance(value, Mapping) or not _is_span(key, value.get("span", "")):
        return False
    patches, smallest = value.get("patches"), value.get("smallest_pvalue")
    numbers = (patches is None or type(patches) is int) and (
        smallest is None or type(smallest) in (int, float)
    )
    return numbers and all(
        isinstance(value.get(name, {}), Mapping) for name in ("about", "noise", "brighter")
    )


def _is_span(key: str, span: object) -> bool:
    """Return True if a span of time is valid, and part of the key; empty for none."""
    try:
        return span == "" or (key.endswith(f"{SEPARATOR}{span}") and str(TimeSpan.parse(str(span))) == span)
    except UsageError:
        return False


def _calibrations(
    tensors: Mapping[str, np.ndarray], facts: Mapping[str, Mapping[str, Any]]
) -> dict[str, Calibration]:
    """Restore calibrations by key from tensors and facts of a file; `KeyError` for an array of no key."""
    arrays: dict[str, dict[str, np.ndarray]] = {key: {} for key in facts}
    for name, array in tensors.items():
        kind, _, rest = name.partition("/")
        if kind == "calibration":
            key, _, inner = rest.partition("/")
            arrays[unquote(key)][inner] = array
    return {key: Calibration(arrays[key], dict(facts[key])) for key in facts}
