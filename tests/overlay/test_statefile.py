from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import sqlite3
import subprocess
import sys
import threading

import pytest

from overlay import statefile
from tests.overlay import small_disk

NOTES = statefile.Schema(room="notes", steps=("CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT NOT NULL)",))
NOTES_2 = statefile.Schema(
    room="notes", steps=(*NOTES.steps, "ALTER TABLE note ADD COLUMN day TEXT; CREATE INDEX by_day ON note (day)")
)
OTHERS = statefile.Schema(room="others", steps=("CREATE TABLE other (id INTEGER PRIMARY KEY)",))


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "deep" / "state.db"


def texts(file: statefile.StateFile) -> list[str]:
    with file.read() as tx:
        return [row[0] for row in tx.rows("SELECT text FROM note ORDER BY id")]


def add(file: statefile.StateFile, text: str) -> None:
    with file.write() as tx:
        tx.run("INSERT INTO note (text) VALUES (?)", (text,))


def test_what_was_written_is_there_after_reopening(path: pathlib.Path) -> None:
    file = statefile.StateFile(path, [NOTES])
    add(file, "one")
    file.close()
    again = statefile.StateFile(path, [NOTES])
    assert texts(again) == ["one"]
    again.close()
    again.close()


def test_a_transaction_that_raises_did_not_happen(path: pathlib.Path) -> None:
    file = statefile.StateFile(path, [NOTES])
    with pytest.raises(KeyError), file.write() as tx:  # noqa: PT012  # the block is the transaction
        tx.run("INSERT INTO note (text) VALUES ('lost')")
        raise KeyError
    add(file, "kept")
    assert texts(file) == ["kept"]
    file.close()


def test_a_refused_statement_takes_its_transaction_along_and_names_the_file(path: pathlib.Path) -> None:
    file = statefile.StateFile(path, [NOTES])
    with pytest.raises(statefile.StateFileError, match=r"state\.db: .*NOT NULL"), file.write() as tx:  # noqa: PT012
        tx.run("INSERT INTO note (text) VALUES ('lost')")
        tx.run("INSERT INTO note (text) VALUES (NULL)")
    assert texts(file) == []
    with pytest.raises(statefile.StateFileError, match="cannot read"), file.read() as tx:
        tx.rows("SELECT * FROM nowhere")
    file.close()


def test_a_read_changes_nothing(path: pathlib.Path) -> None:
    file = statefile.StateFile(path, [NOTES])
    with file.read() as tx:
        tx.run("INSERT INTO note (text) VALUES ('lost')")
    assert texts(file) == []
    file.close()


def test_rows_changed_are_counted(path: pathlib.Path) -> None:
    file = statefile.StateFile(path, [NOTES])
    with file.write() as tx:
        tx.run_many("INSERT INTO note (text) VALUES (?)", [("a",), ("b",)])
        assert tx.run("UPDATE note SET text = 'c'") == 2
    file.close()


def test_a_later_version_migrates_what_is_there(path: pathlib.Path) -> None:
    old = statefile.StateFile(path, [NOTES])
    add(old, "one")
    old.close()
    new = statefile.StateFile(path, [NOTES_2, OTHERS])
    with new.read() as tx:
        assert tx.rows("SELECT text, day FROM note") == [("one", None)]
        assert tx.rows("SELECT room, version FROM schema_version ORDER BY room") == [("notes", 2), ("others", 1)]
    new.close()
    statefile.StateFile(path, [NOTES_2]).close()


def test_a_migration_that_fails_leaves_the_file_as_it_was(path: pathlib.Path) -> None:
    statefile.StateFile(path, [NOTES]).close()
    broken = statefile.Schema(room="notes", steps=(*NOTES.steps, "CREATE TABLE half (id INTEGER); NONSENSE"))
    with pytest.raises(statefile.StateFileError):
        statefile.StateFile(path, [broken]).close()
    again = statefile.StateFile(path, [NOTES])
    with again.read() as tx:
        assert tx.rows("SELECT version FROM schema_version") == [(1,)]
        assert tx.rows("SELECT name FROM sqlite_master WHERE name = 'half'") == []
    again.close()


def test_before_a_migration_a_copy_is_kept_from_which_the_older_version_goes_on(path: pathlib.Path) -> None:
    old = statefile.StateFile(path, [NOTES])
    add(old, "one")
    old.close()
    new = statefile.StateFile(path, [NOTES_2, OTHERS])
    add(new, "two")
    new.close()
    (copy,) = path.parent.glob("state.db.*")
    assert copy.name == "state.db.of-notes1"
    copies = r"upgrade, or put back one of its copies: state\.db\.of-notes1$"
    with pytest.raises(statefile.StateFileError, match=copies):
        statefile.StateFile(path, [NOTES])
    path.unlink()  # as docs/operations.md has it
    for left in ("state.db-wal", "state.db-shm"):
        path.with_name(left).unlink(missing_ok=True)
    copy.rename(path)
    back = statefile.StateFile(path, [NOTES])
    assert texts(back) == ["one"]
    add(back, "three")
    back.close()
    again = statefile.StateFile(path, [NOTES_2])  # and forward once more
    assert texts(again) == ["one", "three"]
    again.close()


def test_the_copy_has_what_was_only_in_the_log_yet(path: pathlib.Path) -> None:
    old = statefile.StateFile(path, [NOTES])
    add(old, "one")
    assert path.with_name("state.db-wal").stat().st_size
    statefile.StateFile(path, [NOTES_2]).close()  # the old one was killed, and closed nothing
    old.close()
    copy = statefile.StateFile(path.with_name("state.db.of-notes1"), [NOTES])
    assert texts(copy) == ["one"]
    copy.close()


def test_a_second_migration_from_the_same_version_keeps_the_later_copy(path: pathlib.Path) -> None:
    for text in ("one", "two"):
        path.unlink(missing_ok=True)
        old = statefile.StateFile(path, [NOTES])
        add(old, text)
        old.close()
        statefile.StateFile(path, [NOTES_2]).close()
    copy = statefile.StateFile(path.with_name("state.db.of-notes1"), [NOTES])
    assert texts(copy) == ["two"]
    copy.close()


def test_a_new_file_and_a_new_room_need_no_copy(path: pathlib.Path) -> None:
    statefile.StateFile(path, [NOTES]).close()
    statefile.StateFile(path, [NOTES, OTHERS]).close()
    assert [found.name for found in path.parent.iterdir()] == ["state.db"]


def test_where_nothing_is_to_be_migrated_nothing_is_written(path: pathlib.Path) -> None:
    statefile.StateFile(path, [NOTES]).close()
    before = path.stat().st_mtime_ns
    statefile.StateFile(path, [NOTES]).close()
    assert path.stat().st_mtime_ns == before


@pytest.mark.contract
def test_without_room_for_a_copy_nothing_is_migrated(path: pathlib.Path) -> None:
    """A file system of its own, full but for a page: in a mount namespace that ends with its process."""
    path.parent.mkdir(parents=True)
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", FULL.format(module="tests.overlay.test_statefile"), str(path)],
        capture_output=True,
        text=True,
        timeout=30,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(entry or "." for entry in sys.path)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    refusal, names, before, after = done.stdout.splitlines()
    assert refusal.startswith(f"cannot copy the state file {path} to state.db.of-notes1 before its migration: ")
    assert refusal.endswith("; make room for it")
    assert names == "filler state.db"
    assert before == "['one']"
    assert after == "['one']"


FULL = """
import pathlib, subprocess, sys
from overlay import statefile
from {module} import NOTES, NOTES_2, add, texts
path = pathlib.Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "none", str(path.parent)], check=True)
old = statefile.StateFile(path, [NOTES])
add(old, "one")
old.close()
filler = path.with_name("filler")
with filler.open("wb", buffering=0) as file:
    try:
        while True:
            file.write(bytes(4096))
    except OSError:
        pass
    file.truncate(file.tell() - 36 * 1024 - 4096)  # room for SQLite's log and index, not for a copy as well
try:
    statefile.StateFile(path, [NOTES_2])
except statefile.StateFileError as exc:
    print(exc)
print(*sorted(found.name for found in path.parent.iterdir() if not found.name.endswith(("-wal", "-shm"))))
old = statefile.StateFile(path, [NOTES])
print(texts(old))
old.close()
filler.unlink()
new = statefile.StateFile(path, [NOTES_2])
print(texts(new))
new.close()
"""


def test_the_file_of_a_newer_version_is_refused(path: pathlib.Path) -> None:
    statefile.StateFile(path, [NOTES_2]).close()
    with pytest.raises(statefile.StateFileError, match=r"newer flannelpy \(notes version 2\)"):
        statefile.StateFile(path, [NOTES])


def test_a_file_that_cannot_be_opened_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(statefile.StateFileError, match=r"file/state\.db"):
        statefile.StateFile(tmp_path / "file" / "state.db", [])


def test_a_file_that_is_no_database_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "state.db").write_text("no database" * 1000)
    with pytest.raises(statefile.StateFileError, match=r"state\.db: file is not a database"):
        statefile.StateFile(tmp_path / "state.db", [])


def test_threads_queue_instead_of_failing(path: pathlib.Path) -> None:
    file = statefile.StateFile(path, [NOTES])
    failed: list[Exception] = []

    def write_many() -> None:
        try:
            for number in range(20):
                add(file, str(number))
                texts(file)
        except Exception as exc:  # noqa: BLE001  # shown below
            failed.append(exc)

    threads = [threading.Thread(target=write_many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30.0)
    assert failed == []
    assert len(texts(file)) == 80
    file.close()


WRITER = """
import pathlib, sys
from overlay import statefile
from {module} import NOTES
file = statefile.StateFile(pathlib.Path(sys.argv[1]), [NOTES])
number = 0
while True:
    with file.write() as tx:
        tx.run("INSERT INTO note (text) VALUES (?)", (str(number),))
        tx.run("INSERT INTO note (text) VALUES (?)", (str(number),))
    print(number, flush=True)
    number += 1
"""


def test_what_was_acknowledged_survives_kill_9_and_halves_do_not(path: pathlib.Path) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER.format(module="tests.overlay.test_statefile"), str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(entry or "." for entry in sys.path)},
    )
    assert writer.stdout is not None
    try:
        for line in writer.stdout:
            if int(line) >= 20:
                break
    finally:
        writer.send_signal(signal.SIGKILL)
        rest = writer.stdout.read()
        writer.stdout.close()
        assert writer.wait(10.0) == -signal.SIGKILL
    acknowledged = int(([line, *rest.split("\n")[:-1]])[-1])
    file = statefile.StateFile(path, [NOTES])
    found = texts(file)
    file.close()
    assert found == [str(number) for number in range(len(found) // 2) for _ in range(2)]
    assert len(found) // 2 in (acknowledged + 1, acknowledged + 2)


UNWRITABLE = """
import os, signal
from overlay import statefile
from tests.overlay.test_statefile import NOTES, NOTES_2, add, texts
path = disk / "state.db"

def live(killed):
    child = os.fork()
    if child == 0:
        file = statefile.StateFile(path, [NOTES])
        add(file, "saved")
        if killed:
            os.kill(os.getpid(), signal.SIGKILL)
        file.close()
        os._exit(0)
    os.waitpid(child, 0)

def attempt(work):
    try:
        print(work())
    except statefile.StateFileError as exc:
        print("refused:", exc)

live({killed})
{break_}
file = statefile.StateFile(path, [NOTES])
print(texts(file))
attempt(lambda: add(file, "lost" * 10_000))
print(file.trouble)
attempt(lambda: texts(file))
attempt(lambda: statefile.StateFile(path, [NOTES_2]))
{mend}
file.try_again()
print(file.trouble)
add(file, "again")
print(texts(file))
file.close()
again = statefile.StateFile(path, [NOTES])
print(texts(again))
again.close()
"""


@pytest.mark.contract
@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize(
    ("break_", "mend", "cure"),
    [("fill()", "make_room()", "; make room on its disk"), ("remount('ro')", "remount('rw')", "; make it writable")],
    ids=["full", "read-only"],
)
def test_a_file_that_cannot_be_written_is_read_and_written_when_it_can_be(
    tmp_path: pathlib.Path, killed: bool, break_: str, mend: str, cure: str
) -> None:
    """After an orderly end, and after kill -9, when some of it is only in the log."""
    told = small_disk.run(UNWRITABLE.format(killed=killed, break_=break_, mend=mend), tmp_path / "disk")
    saved, refused, trouble, still, migration, after, written, reopened = told
    assert saved == still == "['saved']"
    path = tmp_path / "disk/state.db"
    assert refused.startswith(f"refused: cannot write the state file {path}: ")
    assert refused.endswith(cure)
    assert refused == f"refused: {trouble}"
    assert migration.startswith("refused: ")
    assert after == "None"
    assert written == reopened == "['saved', 'again']"


def test_a_file_that_somebody_else_has_alone_is_refused(path: pathlib.Path) -> None:
    """Reading it past the lock would show what is half written."""
    statefile.StateFile(path, [NOTES]).close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(statefile.StateFileError, match="database is locked"):
            statefile.StateFile(path, [NOTES])


@pytest.mark.contract
def test_a_new_file_on_a_full_disk_is_refused_and_the_disk_named(tmp_path: pathlib.Path) -> None:
    code = """
from overlay import statefile
from tests.overlay.test_statefile import NOTES
fill()
try:
    statefile.StateFile(disk / "state.db", [NOTES])
except statefile.StateFileError as exc:
    print(exc)
"""
    (told,) = small_disk.run(code, tmp_path / "disk")
    assert told.endswith("; make room on its disk")
