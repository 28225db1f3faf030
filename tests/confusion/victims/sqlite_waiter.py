"""Wants to write beside another writer, and tries for as many seconds as the prompt says."""

import sqlite3
import sys

from acting import DATABASE, WORD, answer, begin

begin()
connection = sqlite3.connect(DATABASE, isolation_level=None, timeout=float(WORD))
try:
    connection.execute("BEGIN IMMEDIATE")
except sqlite3.OperationalError as failure:
    sys.exit(f"Error: {failure}")
connection.execute("INSERT INTO part VALUES ('at last')")
connection.execute("COMMIT")
answer()
