"""The one state file: SQLite, so that what was answered survives kill -9 and power loss.

Owns the connection, transactions and the schema's version; each room brings its own tables (`Schema`).
Callers: `overlay.registry_standalone`, `overlay.nodestore`, `ipam.store`, `driver.store`. Runs no policy.
Source: sqlite.org/wal.html, sqlite.org/lang_transaction.html.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from overlay import errors, faults

Row = tuple[Any, ...]  # what a column holds is known to the SQL beside the call, not to a type checker

COPY_INFIX = ".of-"
"""Between the file's name and the versions that a copy has."""


class StateFileError(errors.OverlayError):
    """The state file cannot be opened or written; the message has the path and SQLite's reason."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """One room's tables. `steps[i]` takes them from version i to i + 1; a step is never changed once released."""

    room: str
    steps: tuple[str, ...]


class Transaction:
    """What one transaction may do. Valid only inside `StateFile.write` or `StateFile.read`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def run(self, sql: str, values: Sequence[object] = ()) -> int:
        """Run one statement; the number of rows it changed."""
        return self._connection.execute(sql, values).rowcount

    def run_many(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        """Run one statement for each row of values."""
        self._connection.executemany(sql, rows)

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        """All rows of a query."""
        return self._connection.execute(sql, values).fetchall()


class StateFile:
    """The open file. One connection and one lock: writers queue here instead of failing in SQLite.

    Deferred transactions that read and then write fail at once with "database is locked" under threads,
    whatever the busy timeout; BEGIN IMMEDIATE behind one lock does not.
    A file on a full disk, or that cannot be written, can still be read: what it knows is needed most then. It is
    opened anew before each write until that works.
    """

    def __init__(self, path: pathlib.Path, schemas: Iterable[Schema]) -> None:
        self.path = path
        self.trouble: str | None = None
        """Why it could not be written last; None where it could."""
        self._lock = threading.Lock()
        self._stale = False  # to be opened anew before the next write
        self._ended = False
        self._connection = self._open()
        try:
            self._migrate(tuple(schemas))
        except BaseException as exc:
            self._connection.close()
            if isinstance(exc, sqlite3.Error):
                raise StateFileError(f"cannot open the state file {path}: {exc}") from exc
            raise

    def close(self) -> None:
        """Close the file. A second close is harmless."""
        with self._lock:
            self._ended = True
            self._connection.close()

    def try_again(self) -> None:
        """Where it could not be written last: see whether it can be now, by a write that changes nothing."""
        if self.trouble is not None:
            with contextlib.suppress(StateFileError), self.write() as tx:
                tx.run("UPDATE schema_version SET version = version")

    @contextlib.contextmanager
    def write(self) -> Iterator[Transaction]:
        """A transaction that is on disk when the block ends, or did not happen when the block raises."""
        with self._lock:
            try:
                if self._stale and not self._ended:
                    self._connection.close()
                    self._connection = self._open()
                self._connection.execute("BEGIN IMMEDIATE")
                yield Transaction(self._connection)
                faults.reached("state.commit.before")
                self._connection.execute("COMMIT")
                faults.reached("state.commit.after")
                self.trouble = None
            except sqlite3.Error as exc:
                self._rollback()
                raise self._explain(exc) from exc
            except BaseException:
                self._rollback()
                raise

    @contextlib.contextmanager
    def read(self) -> Iterator[Transaction]:
        """Queries that see one state of the file."""
        with self._lock:
            try:
                self._connection.execute("BEGIN")
                yield Transaction(self._connection)
            except sqlite3.Error as exc:
                raise StateFileError(f"cannot read the state file {self.path}: {exc}") from exc
            finally:
                self._rollback()

    def _open(self) -> sqlite3.Connection:
        """A connection that can at least read. Raises StateFileError."""
        failure: Exception | None = None
        for way in (_open_shared, _open_alone, _open_unwritable):
            try:
                connection = way(self.path)
            except (OSError, sqlite3.Error) as exc:
                failure = failure or exc
                if _code(exc).startswith("SQLITE_BUSY") or not _has_content(self.path):
                    break  # somebody else is at it, or there is nothing to read
                continue
            self._stale = failure is not None
            if failure is not None:
                self.trouble = f"the state file {self.path} can only be read: {failure}{_cure(failure)}"
            return connection
        self._stale = True
        raise StateFileError(f"cannot open the state file {self.path}: {failure}{_cure(failure)}") from failure

    def _explain(self, exc: sqlite3.Error) -> StateFileError:
        message = f"cannot write the state file {self.path}: {exc}{_cure(exc)}"
        if not isinstance(exc, sqlite3.IntegrityError | sqlite3.ProgrammingError):  # those are about what was written
            self.trouble = message
            # a file that was opened on a read-only disk stays so; one with a full disk is as good as it was
            self._stale = self._stale or _code(exc).startswith(("SQLITE_READONLY", "SQLITE_IOERR"))
        return StateFileError(message)

    def _rollback(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def _migrate(self, schemas: Sequence[Schema]) -> None:
        """Bring all rooms up to date. Writes nothing where nothing is to be done."""
        versions = self._versions()
        for schema in schemas:
            if versions.get(schema.room, 0) > len(schema.steps):
                raise StateFileError(self._explain_newer(schema.room, versions[schema.room]))
        behind = [schema for schema in schemas if versions.get(schema.room, 0) < len(schema.steps)]
        if any(schema.room in versions for schema in behind):
            self._keep_copy(versions)
        for schema in behind:
            self._take_steps(schema, versions.get(schema.room, 0))

    def _versions(self) -> dict[str, int]:
        """By room; nothing in a new file."""
        with self.read() as tx:
            if not tx.rows("SELECT 1 FROM sqlite_master WHERE name = 'schema_version'"):
                return {}
            return dict(tx.rows("SELECT room, version FROM schema_version"))

    def _take_steps(self, schema: Schema, version: int) -> None:
        with self.write() as tx:
            tx.run("CREATE TABLE IF NOT EXISTS schema_version (room TEXT PRIMARY KEY, version INTEGER NOT NULL)")
            for step in schema.steps[version:]:
                for statement in step.split(";"):
                    if statement.strip():
                        tx.run(statement)
            tx.run("INSERT OR REPLACE INTO schema_version VALUES (?, ?)", (schema.room, len(schema.steps)))

    def _keep_copy(self, versions: Mapping[str, int]) -> None:
        """The file as it is, on disk beside it under a name with its versions: an older flannelpy can go on from it.

        Raises StateFileError where there is no room for it; then nothing is migrated.
        """
        name = "-".join(f"{room}{version}" for room, version in sorted(versions.items()))
        copy = self.path.with_name(f"{self.path.name}{COPY_INFIX}{name}")
        unfinished = copy.with_name(copy.name + ".new")
        try:
            unfinished.unlink(missing_ok=True)
            with self._lock:
                self._connection.execute("VACUUM INTO ?", (str(unfinished),))
            _sync(unfinished)
            unfinished.replace(copy)
            _sync(copy.parent)
        except (OSError, sqlite3.Error) as exc:
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)
            raise StateFileError(
                f"cannot copy the state file {self.path} to {copy.name} before its migration: {exc}; make room for it"
            ) from exc

    def _explain_newer(self, room: str, version: int) -> str:
        copies = sorted(copy.name for copy in self.path.parent.glob(f"{self.path.name}{COPY_INFIX}*"))
        back = f", or put back one of its copies: {', '.join(copies)}" if copies else ""
        return f"{self.path} was written by a newer flannelpy ({room} version {version}); upgrade{back}"


def _open_shared(path: pathlib.Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    return _connect(str(path), ())


def _open_alone(path: pathlib.Path) -> sqlite3.Connection:
    """Without the log's index in shared memory, for which a full disk has no room. Source: sqlite.org/wal.html."""
    return _connect(f"{path.absolute().as_uri()}?mode=rw", ("locking_mode = EXCLUSIVE",))


def _open_unwritable(path: pathlib.Path) -> sqlite3.Connection:
    """Without any lock or log, where no change is left in that."""
    with contextlib.suppress(FileNotFoundError):
        if path.with_name(path.name + "-wal").stat().st_size:
            raise OSError(f"{path} has a log of changes that cannot be read without writing")
    return _connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", ())


def _has_content(path: pathlib.Path) -> bool:
    with contextlib.suppress(OSError):
        return path.stat().st_size > 0
    return False


def _connect(name: str, pragmas: Sequence[str]) -> sqlite3.Connection:
    connection = sqlite3.connect(
        name, isolation_level=None, check_same_thread=False, timeout=5.0, uri=name.startswith("file:")
    )
    try:
        for pragma in (*pragmas, "journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("SELECT count(*) FROM sqlite_master")  # opens the log, and its index
    except BaseException:
        connection.close()
        raise
    return connection


def _code(exc: BaseException | None) -> str:
    return getattr(exc, "sqlite_errorname", "") or ""


def _cure(exc: BaseException | None) -> str:
    """What to do, for the two things that happen to disks."""
    if _code(exc) in {"SQLITE_FULL", "SQLITE_IOERR_SHMSIZE"}:
        return "; make room on its disk"
    return "; make it writable" if _code(exc).startswith("SQLITE_READONLY") else ""


def _sync(path: pathlib.Path) -> None:
    """Have a file, or a directory's names, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
