"""The same question after each error, until it is answered."""

import time

from acting import ask, begin, log

OK = 200
begin()
while ask() != OK:
    time.sleep(0.7)
log("exiting loop")
