"""Four processes write to one SQLite database in WAL mode; leaves data.db."""

import multiprocessing
import sqlite3

ROWS = 100


def write(number):
    connection = sqlite3.connect("data.db", timeout=60, isolation_level=None)
    for row in range(ROWS):
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO log VALUES (?, ?)", (number, row))
        connection.execute("COMMIT")
    connection.close()


if __name__ == "__main__":
    connection = sqlite3.connect("data.db")
    assert connection.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)
    connection.execute("CREATE TABLE log (writer INTEGER, row INTEGER)")
    connection.commit()
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert connection.execute("SELECT count(*) FROM log").fetchone() == (4 * ROWS,)
    connection.close()
