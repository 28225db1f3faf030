"""Sleeps in the middle of a transaction that writes, for so many seconds ("for-ever": until it is killed)."""

import signal
import sqlite3
import time

from acting import DATABASE, WORD, begin, hold

begin()
connection = sqlite3.connect(DATABASE, isolation_level=None)
connection.execute("PRAGMA journal_mode = WAL")
connection.execute("CREATE TABLE IF NOT EXISTS part (data TEXT)")
connection.execute("BEGIN IMMEDIATE")
connection.execute("INSERT INTO part VALUES ('written and not committed')")
hold("writing")
if WORD == "for-ever":
    signal.pause()
time.sleep(float(WORD))
connection.execute("COMMIT")
