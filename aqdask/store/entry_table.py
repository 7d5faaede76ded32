"""Columns of the ledger: one numpy array for each field of all frames, and single frames made from them.

A million frames take some 500 MB as columns, ten times as much as Python objects. A table that begins with a
snapshot reads each column when it is first used.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from aqdask.specs import is_light
from aqdask.store.frame_store import Place

PENDING, DONE, QUARANTINED = "pending", "done", "quarantined"
SKIPPED = "skipped"  # of a model's scores only: the frame is no light and was not asked for
STATES = (PENDING, DONE, QUARANTINED, SKIPPED)
CODE = {state: code for code, state in enumerate(STATES)}
CHANGED = "its source has changed"
NOT_A_LIGHT = "not a light: "

FIRST_ROWS = 1024  # of an empty table; doubled when they are used up
SNAPSHOT_ROWS = 65536  # rows of a Parquet row group
RECENT_GROUPS = 2  # row groups of a column that are kept while it is read in parts
TEXT = np.dtypes.StringDType()
TEXTS = ("frame_id", "path", "sha256", "crc32c", "card")  # mostly different in every row
WORDS = ("suffix", "frame_type", "reason", "problem")  # few different values: codes into a list
NUMBERS = {
    "row": "int64", "hdu": "int32", "size": "int64", "mtime_ns": "int64", "state": "int8",
    "invalid_pixels": "int64", "attempts": "int32", "changed": "bool", "is_tried": "bool",
    "tried_size": "int64", "tried_mtime_ns": "int64", "is_dropped": "bool",
}  # fmt: skip
POINTING = ("airmass", "ra", "dec")  # float64, NaN where unknown; of the frame's centre, in degrees (ICRS)
SCORE: dict[str, Any] = {
    "state": "int8",
    "source": TEXT,
    "crc32c": TEXT,
    "reason": "int32",
}  # state -1: no score
ABSENT = -1


@dataclass(slots=True)
class Score:
    """Result of scoring a frame with one model.

    ``source`` is the checksum of the scored pixels, ``crc32c`` that of the maps, and ``values`` holds the
    frame-level variables.
    """

    state: str
    source: str = ""
    crc32c: str = ""
    reason: str = ""
    values: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Entry:
    """State of one frame, or of a source without frames, when it was taken from the table.

    ``row`` is -1 for a source without frames; ``suffix`` is the part of the id that names the HDU, and
    ``card`` the checksum of the row's coordinates. ``frame_type`` is that of `FrameMetadata`, None where a
    layout before 3 did not record it.
    ``crc32c`` is over the stored pixels and their invalid mask; ``sha256`` over the source file.
    ``changed`` marks a stored frame whose source has new content, to be ingested again; ``problem`` is the
    reason why that failed, for the source as of ``tried`` (size and time; None where it could not be read).
    Stored pixels stay until they are replaced, whatever happens to the source.
    """

    frame_id: str
    path: str
    hdu: int
    row: int
    size: int
    mtime_ns: int
    suffix: str = ""
    card: str = ""
    frame_type: str | None = None
    state: str = PENDING
    reason: str = ""
    sha256: str = ""
    crc32c: str = ""
    invalid_pixels: int = 0
    attempts: int = 0
    changed: bool = False
    problem: str = ""
    tried: tuple[int, int] | None = None
    scores: dict[str, Score] = field(default_factory=dict)

    @property
    def place(self) -> Place:
        """Row, source and checksum of the frame."""
        return Place(self.row, self.path, self.hdu, self.crc32c)

    def score_pending(self, quality: str) -> bool:
        """Return True if a quality group lacks this frame, or holds scores of other pixels."""
        score = self.scores.get(quality)
        if score is None or score.state == PENDING:
            return True
        return score.state == DONE and score.source != self.crc32c

    def is_skipped(self, quality: str) -> bool:
        """Return True if a quality group holds nothing of this frame because it is no light."""
        return quality not in self.scores and not is_light(self.frame_type)

    def worst(self, qualities: Sequence[str]) -> tuple[str, str]:
        """Return state and reason of the pixels, or of the first quality group that could not score them."""
        for quality in qualities:
            state, reason = self.standing(quality)
            if state == QUARANTINED:
                return state, reason if self.state == QUARANTINED else f"{quality}: {reason}"
        return self.standing()

    def standing(self, quality: str = "") -> tuple[str, str]:
        """Return state and reason of the pixels, or with ``quality`` of the scores."""
        if self.changed:
            return PENDING, CHANGED
        if self.state != DONE or not quality:
            return self.state, self.reason
        if self.is_skipped(quality):
            return SKIPPED, f"{NOT_A_LIGHT}{self.frame_type}"
        if self.score_pending(quality):
            return PENDING, ""
        score = self.scores[quality]
        return score.state, score.reason


class EntryTable:
    """Table of all frames and sources, in the order of their registration.

    Parameters
    ----------
    snapshot : bytes, optional
        Parquet file of `EntryTable.snapshot`.
    """

    def __init__(self, snapshot: bytes = b"") -> None:
        self._stored: Any = pq.ParquetFile(pa.BufferReader(snapshot)) if snapshot else None
        about = self._stored.schema_arrow.metadata[b"aqdask"] if self._stored else b"{}"
        self.about = known = json.loads(about)
        self._arrays: dict[str, np.ndarray] = {}
        self._words = {name: _Words(known.get("words", {}).get(name, ())) for name in WORDS}
        self._values: dict[str, list[str]] = known.get("values", {})  # names of values by quality group
        self._index: _Index | None = None
        self._recent: dict[str, dict[int, np.ndarray]] = {}  # row groups of columns that are read in parts
        self.size = self._stored.metadata.num_rows if self._stored else 0  # dropped ones included
        self._room = self.size or FIRST_ROWS
        self.dropped = 0

    def __len__(self) -> int:
        return self.size - self.dropped

    @property
    def qualities(self) -> list[str]:
        """Names of the quality groups with a score."""
        return list(self._values)

    def array(self, name: str) -> np.ndarray:
        """Return a whole column of `TEXTS`, `WORDS` (codes), `NUMBERS` or `POINTING`, also for writing."""
        if name not in self._arrays:
            if name in POINTING:
                self._load(name, "float64", np.nan)
            else:
                self._load(name, TEXT if name in TEXTS else "int32" if name in WORDS else NUMBERS[name])
        return self._arrays[name]

    def score(self, quality: str, name: str) -> np.ndarray:
        """Return a whole column of the scores of a quality group: a name of `SCORE`."""
        key = f"{quality}/{name}"
        if key not in self._arrays:
            self._values.setdefault(quality, [])
            self._load(key, SCORE[name], ABSENT if name == "state" else 0)
        return self._arrays[key]

    def value(self, quality: str, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return a frame-level value of all rows, float64, and the rows that have one, bool."""
        key = f"{quality}/values/{name}"
        if key not in self._arrays:
            if name not in self._values.setdefault(quality, []):
                self._values[quality].append(name)
            self._load(key, "float64")
        return self._arrays[key], self._arrays[f"{key}/is_given"]

    def _load(self, key: str, kind: Any, fill: float = 0) -> None:
        """Make an array, filled from the snapshot where that has the column."""
        array = np.zeros(self._room, kind) if fill == 0 else np.full(self._room, fill, kind)
        given = np.zeros(self._room, bool) if "/values/" in key else None
        if self._stored and key in self._stored.schema_arrow.names:
            for group, start in enumerate(self._starts[:-1]):
                found = self._read_group(key, group)
                part = slice(start, start + len(found))
                if given is not None:
                    given[part] = found.is_valid().to_numpy()
                    found = found.fill_null(0)
                array[part] = found.to_numpy()
        self._arrays[key] = array
        if given is not None:
            self._arrays[f"{key}/is_given"] = given

    @cached_property
    def _starts(self) -> list[int]:
        """First row of each row group of the snapshot, and the row after the last one."""
        about = self._stored.metadata
        return [0, *accumulate(about.row_group(n).num_rows for n in range(about.num_row_groups))]

    def _read_group(self, key: str, group: int) -> pa.ChunkedArray:
        return self._stored.read_row_group(group, columns=[key], use_threads=False).column(0)

    def some(self, name: str, positions: slice | np.ndarray) -> np.ndarray:
        """Return rows of a column of `TEXTS`; of one that is not in memory, read the row groups around them.

        The latest `RECENT_GROUPS` are kept, since those that are asked for next mostly lie there. Rows in
        more of them, and a table that has few, load the column.
        """
        places = np.arange(positions.start, positions.stop) if isinstance(positions, slice) else positions
        wanted = self._groups(name, places)
        if wanted is None:
            return self.array(name)[positions]
        found, recent = np.zeros(len(places), TEXT), self._recent.setdefault(name, {})
        for group in np.unique(wanted).tolist():
            if group not in recent:
                recent[group] = self._read_group(name, group).to_numpy().astype(TEXT)
                for old in list(recent)[:-RECENT_GROUPS]:
                    del recent[old]
            here = wanted == group
            found[here] = recent[group][places[here] - self._starts[group]]
        return found

    def _groups(self, name: str, places: np.ndarray) -> np.ndarray | None:
        """Return the row group of each place; None where the whole column is to be loaded."""
        if name in self._arrays or not self._stored or name not in self._stored.schema_arrow.names:
            return None
        if len(self._starts) <= 1 + RECENT_GROUPS or places.max(initial=-1) >= self._starts[-1]:
            return None
        found = np.searchsorted(self._starts, places, side="right") - 1
        return found if len(np.unique(found)) <= RECENT_GROUPS else None

    def _add_row(self) -> int:
        if self.size == self._room:
            self._room *= 2
            for key, array in self._arrays.items():
                fill = ABSENT if key.endswith("/state") else np.nan if key in POINTING else 0
                kind = array.dtype
                longer = np.full(self._room, fill, kind) if fill else np.zeros(self._room, kind)
                longer[: self.size] = array
                self._arrays[key] = longer
        self.size += 1
        return self.size - 1

    def find(self, frame_id: str) -> int:
        """Return the position of a frame; -1 where there is none."""
        return self.index.find(frame_id)

    @property
    def index(self) -> _Index:
        """Positions of the frames by id."""
        if self._index is None:
            self._index = _Index(self)
            self._index.rebuild()
        return self._index

    def register(self, frame_id: str, at: int) -> int:
        """Make the row of a new frame, or empty that at a position, except for its scores; return it."""
        if at < 0:
            index = self.index
            at = self._add_row()
            self.array("frame_id")[at] = encoded(frame_id)
            index.add(frame_id, at)
        else:
            for name in NUMBERS:
                self.array(name)[at] = 0
            for name in (*TEXTS[1:], *WORDS):
                self.set(at, name, "")
            for name in POINTING:
                self.set(at, name, np.nan)
        self.set(at, "frame_type", None)
        return at

    def drop(self, at: int) -> None:
        """Remove the frame at a position."""
        self.index.remove(self.text("frame_id", at))
        self.array("is_dropped")[at] = True
        self.dropped += 1

    def set(self, at: int, name: str, value: Any) -> None:
        """Set a field of the frame at a position."""
        if name in WORDS:
            value = self._words[name].code(value)
        elif name in TEXTS:
            value = encoded(value)
        elif name == "state":
            value = CODE[value] if value else 0
        self.array(name)[at] = value

    def set_score(self, at: int, quality: str, score: Score) -> None:
        """Set the score of the frame at a position."""
        self.score(quality, "state")[at] = CODE[score.state]
        self.score(quality, "source")[at] = encoded(score.source)
        self.score(quality, "crc32c")[at] = encoded(score.crc32c)
        self.score(quality, "reason")[at] = self._words["reason"].code(score.reason)
        for name in {*self._values[quality], *score.values}:
            values, given = self.value(quality, name)
            given[at] = name in score.values
            values[at] = score.values.get(name, 0)

    def remove_score(self, at: int | slice, quality: str) -> None:
        """Remove the scores of a quality group at a position, or everywhere (a slice)."""
        self.score(quality, "state")[at] = ABSENT

    def text(self, name: str, at: int) -> str:
        """Return a text of `TEXTS` at a position."""
        return decoded(self.array(name)[at])

    def word(self, name: str, at: int) -> Any:
        """Return a text of `WORDS` (or None) at a position."""
        return self._words[name].listed[self.array(name)[at]]

    def words(self, name: str) -> list[Any]:
        """Return the list that the codes of a column of `WORDS` point into."""
        return self._words[name].listed

    def entry(self, at: int) -> Entry:
        """Return the frame at a position."""
        numbers = {name: self.array(name)[at].item() for name in NUMBERS}
        texts: dict[str, Any] = {name: self.text(name, at) for name in TEXTS}
        return Entry(
            **texts,
            **{name: self.word(name, at) for name in WORDS},
            **{name: numbers[name] for name in ("row", "hdu", "size", "mtime_ns", "invalid_pixels")},
            attempts=numbers["attempts"], changed=numbers["changed"], state=STATES[numbers["state"]],
            tried=(numbers["tried_size"], numbers["tried_mtime_ns"]) if numbers["is_tried"] else None,
            scores=self._scores(at),
        )  # fmt: skip

    def _scores(self, at: int) -> dict[str, Score]:
        found = {}
        for quality, names in self._values.items():
            state = self.score(quality, "state")[at]
            if state != ABSENT:
                columns = {name: self.value(quality, name) for name in names}
                values = {name: v[at].item() for name, (v, given) in columns.items() if given[at]}
                source, crc32c = (decoded(self.score(quality, name)[at]) for name in ("source", "crc32c"))
                reason = self._words["reason"].listed[self.score(quality, "reason")[at]]
                found[quality] = Score(STATES[state], source, crc32c, reason, values)
        return found

    def all(self) -> Rows:
        """Return all frames and sources, in the order of their registration."""
        alive = np.flatnonzero(~self.array("is_dropped")[: self.size]) if self.dropped else None
        return Rows(self, slice(0, self.size) if alive is None else alive)

    def rows(self) -> Rows:
        """Return the frames that own a row of the archive, in row order."""
        found = self.all().where(lambda rows: rows.column("row") >= 0)
        numbers = found.column("row")
        return found if (np.diff(numbers) > 0).all() else found.take(np.argsort(numbers, kind="stable"))

    def snapshot(self, qualities: Mapping[str, Any]) -> bytes:
        """Return the table and the contents of the quality groups as a Parquet file.

        Dropped frames are left out.
        """
        words = {name: known.listed for name, known in self._words.items()}
        about = json.dumps({"words": words, "values": self._values, "qualities": qualities}).encode()
        rows, out = self.all(), io.BytesIO()
        names = (*TEXTS, *WORDS, *NUMBERS, *POINTING)
        columns = {name: self.array(name) for name in names if name != "is_dropped"}
        columns |= {f"{q}/{name}": self.score(q, name) for q in self._values for name in SCORE}
        fields = [(name, pa.string() if a.dtype == TEXT else pa.from_numpy_dtype(a.dtype))
                  for name, a in columns.items()]  # fmt: skip
        values = {f"{q}/values/{n}": self.value(q, n) for q, names in self._values.items() for n in names}
        schema = pa.schema([*fields, *((name, pa.float64()) for name in values)], {b"aqdask": about})
        with pq.ParquetWriter(out, schema, compression="zstd", use_dictionary=False) as writer:
            for start in range(0, len(rows), SNAPSHOT_ROWS):
                part = rows[start : start + SNAPSHOT_ROWS].positions
                arrays = [pa.array(array[part]) for array in columns.values()]
                arrays += [pa.array(array[part], mask=~given[part]) for array, given in values.values()]
                writer.write_table(pa.table(arrays, schema=schema), row_group_size=SNAPSHOT_ROWS)
        return out.getvalue()


class Rows(Sequence[Entry]):
    """Selected frames of a table, as columns or one by one.

    Parameters
    ----------
    table : EntryTable
        The table; the frames are those that it holds when they are asked for.
    positions : slice or ndarray of int
        Positions in the table; a slice ``start:stop``.
    """

    def __init__(self, table: EntryTable, positions: slice | np.ndarray) -> None:
        self.table, self.positions = table, positions

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Rows:
        """Make a table of some frames."""
        table = EntryTable()
        for entry in entries:
            at = table.register(entry.frame_id, -1)
            for name in (*TEXTS, *WORDS, *NUMBERS):
                if hasattr(entry, name):
                    table.set(at, name, getattr(entry, name))
            for quality, score in entry.scores.items():
                table.set_score(at, quality, score)
        return table.all()

    def __len__(self) -> int:
        if isinstance(self.positions, slice):
            return int(self.positions.stop - self.positions.start)
        return len(self.positions)

    @overload
    def __getitem__(self, at: int) -> Entry: ...
    @overload
    def __getitem__(self, at: slice) -> Rows: ...
    def __getitem__(self, at: int | slice) -> Entry | Rows:
        """Return one frame, or some of them."""
        if not isinstance(at, slice):
            return self.table.entry(int(self.positions_array()[at]))
        if isinstance(self.positions, slice):
            start, stop, step = at.indices(len(self))
            if step == 1:
                first = self.positions.start
                return Rows(self.table, slice(first + start, first + max(start, stop)))
        return Rows(self.table, self.positions_array()[at])

    def __iter__(self) -> Iterator[Entry]:
        return (self.table.entry(int(at)) for at in self.positions_array())

    def positions_array(self) -> np.ndarray:
        """Return the positions as an array of int."""
        if isinstance(self.positions, slice):
            return np.arange(self.positions.start, self.positions.stop)
        return self.positions

    def take(self, chosen: np.ndarray) -> Rows:
        """Return some of the frames, by a mask (bool) or by their places here (int)."""
        if chosen.dtype == bool and chosen.all():
            return self
        return Rows(self.table, self.positions_array()[chosen])

    def where(self, condition: Callable[[Rows], np.ndarray]) -> Rows:
        """Return the frames for which a function of these rows is True."""
        return self.take(condition(self))

    def column(self, name: str) -> np.ndarray:
        """Return a column: numbers, encoded texts (see `texts`), or codes into `EntryTable.words`."""
        if name in TEXTS:
            return self.table.some(name, self.positions)
        return self.table.array(name)[self.positions]

    def texts(self, name: str) -> list[Any]:
        """Return a column of texts as it was recorded."""
        if name in WORDS:
            listed = self.table.words(name)
            return [listed[code] for code in self.column(name).tolist()]
        return [decoded(text) for text in self.column(name).tolist()]

    def words(self, name: str) -> np.ndarray:
        """Return a column of `WORDS` as texts, empty for None."""
        listed = np.array([encoded(word or "") for word in self.table.words(name)], TEXT)
        return listed[self.column(name)]

    def score(self, quality: str, name: str) -> np.ndarray:
        """Return a column of the scores of a quality group, a name of `SCORE`."""
        if quality in self.table.qualities:
            return self.table.score(quality, name)[self.positions]
        return np.full(len(self), ABSENT, "int8") if name == "state" else np.zeros(len(self), SCORE[name])

    def value(self, quality: str, name: str, fill: float) -> np.ndarray:
        """Return a frame-level value, float64, with ``fill`` where a frame has none."""
        if name not in self.table._values.get(quality, ()):
            return np.full(len(self), fill, "float64")
        values, given = (column[self.positions] for column in self.table.value(quality, name))
        there = given & (self.score(quality, "state") != ABSENT)
        return np.where(there, values, fill)

    def are_lights(self) -> np.ndarray:
        """Return True for each light, and each frame of an unknown type."""
        lights = np.array([is_light(word) for word in self.table.words("frame_type")], bool)
        return lights[self.column("frame_type")]

    def are_skipped(self, quality: str) -> np.ndarray:
        """Return `Entry.is_skipped` of each frame."""
        return (self.score(quality, "state") == ABSENT) & ~self.are_lights()

    def of_other_pixels(self, quality: str) -> np.ndarray:
        """Return True for each finished score of pixels that are no longer stored."""
        done = self.score(quality, "state") == CODE[DONE]
        return done & (self.score(quality, "source") != self.column("crc32c"))

    def standing(self, quality: str = "") -> np.ndarray:
        """Return the state of `Entry.standing` of each frame, as the place in `STATES`, int8."""
        state = np.array(self.column("state"))
        if quality:
            score, done = np.array(self.score(quality, "state")), state == CODE[DONE]
            score[(score == ABSENT) | self.of_other_pixels(quality)] = CODE[PENDING]
            score[self.are_skipped(quality)] = CODE[SKIPPED]
            state[done] = score[done]
        state[self.column("changed")] = CODE[PENDING]
        return state

    def worst(self, qualities: Sequence[str]) -> np.ndarray:
        """Return the state of `Entry.worst` of each frame, as the place in `STATES`, int8."""
        state = self.standing()
        for quality in qualities:
            state[self.standing(quality) == CODE[QUARANTINED]] = CODE[QUARANTINED]
        return state

    def reasons(self, quality: str = "") -> np.ndarray:
        """Return the reason of `Entry.standing` of each frame."""
        reasons = self.words("reason")
        if quality:
            done, skipped = self.column("state") == CODE[DONE], self.are_skipped(quality)
            listed = np.array([encoded(word or "") for word in self.table.words("reason")], TEXT)
            scored = listed[self.score(quality, "reason")]
            scored[self.standing(quality) == CODE[PENDING]] = ""
            scored[skipped] = np.strings.add(NOT_A_LIGHT, self.words("frame_type")[skipped])
            reasons[done] = scored[done]
        reasons[self.column("changed")] = CHANGED
        return reasons


class Entries(Mapping[str, Entry]):
    """Frames of a table by id; each access makes an `Entry` of what the table holds then."""

    def __init__(self, table: EntryTable) -> None:
        self._table = table

    def __getitem__(self, frame_id: str) -> Entry:
        at = self._table.find(frame_id)
        if at < 0:
            raise KeyError(frame_id)
        return self._table.entry(at)

    def __contains__(self, frame_id: object) -> bool:
        return isinstance(frame_id, str) and self._table.find(frame_id) >= 0

    def __iter__(self) -> Iterator[str]:
        return iter(self._table.all().texts("frame_id"))

    def __len__(self) -> int:
        return len(self._table)


class _Words:
    """List of the different values of a column, and their places in it; the first is empty."""

    def __init__(self, listed: Sequence[Any] = ()) -> None:
        self.listed = list(listed) or [""]
        self._codes = {word: code for code, word in enumerate(self.listed)}

    def code(self, word: Any) -> int:
        """Return the place of a value, which is added where it is new."""
        if word not in self._codes:
            self._codes[word] = len(self.listed)
            self.listed.append(word)
        return self._codes[word]


class _Index:
    """Positions by frame id: sorted hashes, 16 bytes a frame, and a dict of those that came since."""

    def __init__(self, table: EntryTable) -> None:
        self._table = table
        self._hashes, self._positions = np.empty(0, "int64"), np.empty(0, "int64")
        self._recent: dict[str, int] = {}

    def rebuild(self) -> None:
        """Hash all frames."""
        rows = self._table.all()
        ids, positions = rows.column("frame_id"), rows.positions_array()
        hashes = np.fromiter((hash(frame_id) for frame_id in ids), "int64", len(ids))
        order = np.argsort(hashes)
        self._hashes, self._positions, self._recent = hashes[order], positions[order], {}

    def find(self, frame_id: str) -> int:
        """Return the position of a frame; -1 where there is none."""
        text = encoded(frame_id)
        if text in self._recent:
            return self._recent[text]
        wanted = hash(text)
        place = int(self._hashes.searchsorted(wanted))
        while place < len(self._hashes) and self._hashes[place] == wanted:
            at = int(self._positions[place])
            if self._table.array("frame_id")[at] == text and not self._table.array("is_dropped")[at]:
                return at
            place += 1
        return -1

    def add(self, frame_id: str, at: int) -> None:
        """Add a frame."""
        self._recent[encoded(frame_id)] = at
        if len(self._recent) > max(4096, len(self._hashes) // 4):
            self.rebuild()

    def remove(self, frame_id: str) -> None:
        """Remove a frame, which is marked as dropped in the table as well."""
        self._recent.pop(encoded(frame_id), None)


def encoded(text: str) -> str:
    r"""Return a text as numpy and Arrow can hold it: file names that are not UTF-8 hold surrogates.

    Those, and what begins with ``\0``, become ``\0`` and their bytes as Latin-1.
    """
    if text.isascii() and not text.startswith("\0"):
        return text
    data = text.encode("utf-8", "surrogateescape")
    known = not text.startswith("\0") and not any("\ud800" <= c <= "\udfff" for c in text)
    return text if known else "\0" + data.decode("latin-1")


def decoded(text: str) -> str:
    """Return the text that `encoded` took."""
    return text[1:].encode("latin-1").decode("utf-8", "surrogateescape") if text.startswith("\0") else text
