"""Waits for something that nobody will do."""

import threading

from acting import begin

begin()
lock = threading.Lock()
lock.acquire()
lock.acquire()
