"""Run servers for tests."""

import re
import socket
import threading
import time
from contextlib import contextmanager

import numpy as np

from kdcli.runtime import TextClassifier
from kdcli.serving import ServingLimits, create_app
from kdcli.serving.server import create_server


@contextmanager
def running(model, limits=None, **options):
    """Serve a model in a thread; gives the address."""
    limits = limits or ServingLimits()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = create_server(create_app(model, limits=limits, **options), limits)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def address_of(process):
    """Return the address that a process `kd serve` states on standard error."""
    for line in process.stderr:
        if found := re.search(r"http://\S+", line):
            return found[0]
    raise AssertionError("the server does not say where it is")


class FakeClassifier(TextClassifier):
    """A classifier of texts of letters: label `a` for texts that begin with an a, and so on.

    Args:
        folder: A folder, with `kd.json` or without.
        task: The task.
        act: Called with the texts of each batch.
    """

    is_thread_safe = True

    def __init__(self, folder, task="single_label_classification", act=lambda texts: None):
        labels = ["a", "b", "c"] if task != "regression" else ["score"]
        super().__init__(folder, labels, task)
        self.act = act

    def _compute_logits(self, texts, first_index, batch_size, advance):
        self.act(texts)
        rows = []
        for text in texts:
            first = text if isinstance(text, str) else text[0]
            if self.task == "regression":
                rows.append([len(first)])
            else:
                rows.append([3.0 * (label in first) - 1 for label in self.labels])
        return np.array(rows, dtype=np.float32)
