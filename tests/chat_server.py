"""A server on loopback that speaks OpenAI's chat completions, and can misbehave."""

import json
import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PROMPT, ANSWER = 100, 2  # tokens that each request is charged for


class ChatServer:
    """Answers with the number of the label whose word the text holds.

    Args:
        labels: In the order of their numbers.
        logprobs: Whether it gives log-probabilities: `refused` is a server that doesn't know them.
        faults: A status for the first requests each, in turn; then all is well.
        seconds: That an answer takes.
        say: What it answers to a text, instead.
        key: What it wants to be shown.
        raw: Writes the whole answer to a request by itself, given its handler.
    """

    def __init__(
        self, labels, *, logprobs=True, faults=(), seconds=0.0, say=None, key=None, raw=None
    ):
        self.raw, self.shown, self.requests = raw, [], []
        self.labels, self.logprobs, self.faults = labels, logprobs, [*faults]
        self.seconds, self.say, self.key = seconds, say, key
        self.asked, self.answered, self.at = Counter(), 0, []
        self.at_once, self.most_at_once = 0, 0
        self.lock = threading.Lock()

    def answer(self, text):
        """The message about a text."""
        return self.number(text) if self.say is None else self.say(text)

    def number(self, text):
        """The numbers of the labels that the text holds."""
        found = [i for i, label in enumerate(self.labels, 1) if label in text.split()]
        return ", ".join(map(str, found)) or "0"

    def completion(self, body):
        """The document of an answer."""
        told = self.answer(body["messages"][-1]["content"])
        choice = {"index": 0, "message": {"role": "assistant", "content": told}}
        if self.logprobs is True and body.get("logprobs"):
            other = "2" if told == "1" else "1"
            tops = [{"token": told, "logprob": -0.1}, {"token": other, "logprob": -2.5}]
            choice["logprobs"] = {"content": [{"token": told, "logprob": -0.1,
                                               "top_logprobs": tops}]}  # fmt: skip
        usage = {"prompt_tokens": PROMPT, "completion_tokens": ANSWER}
        return {"object": "chat.completion", "choices": [choice], "usage": usage}

    @contextmanager
    def running(self):
        """Its address, while it runs."""
        served = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def parse_request(self):
                served.requests.append(self.raw_requestline)
                return super().parse_request()

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with served.lock:
                    served.at.append(time.monotonic())
                    served.shown.append(self.headers.get("Authorization"))
                    served.at_once += 1
                    served.most_at_once = max(served.most_at_once, served.at_once)
                    fault = served.faults.pop(0) if served.faults else None
                time.sleep(served.seconds)
                status, document = self.reply(body, fault)
                # Before it is sent: who has an answer may ask again at once.
                with served.lock:
                    served.at_once -= 1
                self.send(status, document)

            def reply(self, body, fault):
                if served.raw is not None:
                    return served.raw(self)
                if self.path != "/v1/chat/completions":
                    return 404, {"error": {"message": "no such path"}}
                if served.key and self.headers.get("Authorization") != f"Bearer {served.key}":
                    return 401, {"error": {"message": "Incorrect API key provided"}}
                if fault is not None:
                    return fault, {"error": {"message": "try again"}}
                if served.logprobs == "refused" and "logprobs" in body:
                    return 400, {"error": {"message": "logprobs is not supported"}}
                with served.lock:
                    served.asked[json.dumps(body, sort_keys=True)] += 1
                    served.answered += 1
                return 200, served.completion(body)

            def send(self, status, document):
                content = json.dumps(document).encode()
                self.send_response(status)
                if status == 429:
                    self.send_header("Retry-After", "0.05")
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            server.server_close()
