"""All its threads wait for each other's word for a while, as in a collection of garbage, and go on."""

import threading

from acting import WORD, answer, begin

begin()
over = threading.Event()
threads = [threading.Thread(target=over.wait) for _ in range(4)]
for thread in threads:
    thread.start()
threading.Timer(float(WORD), over.set).start()
over.wait()
answer()
