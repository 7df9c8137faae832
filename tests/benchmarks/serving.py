"""Load a server of kd and one of LitServe, with the same exported model, in turn.

    pip install litserve
    python tests/benchmarks/serving.py runs/kd-quickstart

Both run the folder's ONNX file with `kdcli.runtime`, one text a request, with as many threads or
processes as there are CPUs. The clients run on the same CPUs.
"""

import argparse
import asyncio
import csv
import json
import os
import re
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import median, quantiles

from kdcli.runtime import available_cpus

CONNECTIONS = (1, 8, 64)
LITSERVE = """
import os
import sys

import litserve

from kdcli.runtime import Classifier


class Api(litserve.LitAPI):
    def setup(self, device):
        self.classifier = Classifier(sys.argv[1], num_threads=1)

    def decode_request(self, request):
        return request["inputs"]

    def predict(self, text):
        return self.classifier.predict([text], top_k=1)[0]

    def encode_response(self, prediction):
        return [[{"label": prediction.label, "score": prediction.score}]]


if __name__ == "__main__":
    server = litserve.LitServer(
        Api(), accelerator="cpu", workers_per_device=len(os.sched_getaffinity(0))
    )
    port = int(sys.argv[2])
    server.run("127.0.0.1", port, log_level="error", generate_client_file=False)
"""


class Server:
    """A server in a process of its own."""

    def __init__(self, command, port):
        self.port = port
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )

    def stop(self):
        """End it, with its own processes."""
        os.killpg(self.process.pid, 15)
        self.process.wait()


async def ask(port, texts, connections, seconds, path="/"):
    """Send texts for some seconds; return labels by text, and the seconds of each request."""
    times, labels, end = [], defaultdict(set), time.perf_counter() + seconds

    async def client(number):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        index = number
        while time.perf_counter() < end:
            text = texts[index % len(texts)]
            body = json.dumps({"inputs": text, "parameters": {"top_k": 1}}).encode()
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            started = time.perf_counter()
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            status = await reader.readuntil(b"\r\n\r\n")
            size = int(re.search(rb"content-length: (\d+)", status, re.I)[1])
            answer = json.loads(await reader.readexactly(size))
            times.append(time.perf_counter() - started)
            assert b" 200 " in status[:16], status
            labels[text].add(answer[0][0]["label"])
            index += connections
        writer.close()

    await asyncio.gather(*map(client, range(connections)))
    return labels, times


async def wait(server, path):
    """Wait until a server answers."""
    for _ in range(600):
        try:
            await ask(server.port, ["warm up"], 1, 0.5, path)
        except (OSError, AssertionError, asyncio.IncompleteReadError):
            await asyncio.sleep(0.1)
        else:
            return
    raise SystemExit(f"{server.process.args} does not answer")


async def measure(servers, paths, texts, rounds, seconds):
    """Print texts a second, p50 and p99 of each server, at each number of connections."""
    print("| server | connections | texts/s | p50 ms | p99 ms |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for connections in CONNECTIONS:
        found, labels = defaultdict(list), defaultdict(dict)
        for _ in range(rounds):
            for name, server in servers.items():
                given, times = await ask(server.port, texts, connections, seconds, paths[name])
                percentiles = quantiles(times, n=100)
                row = (len(times) / seconds, 1000 * percentiles[49], 1000 * percentiles[98])
                found[name].append(row)
                labels[name] |= given
        for name, rows in found.items():
            rate, half, most = map(median, zip(*rows, strict=True))
            print(f"| {name} | {connections} | {rate:,.0f} | {half:.2f} | {most:.2f} |", flush=True)
        both = [text for text in texts if all(text in each for each in labels.values())]
        assert all(len({str(sorted(each[text])) for each in labels.values()}) == 1 for text in both)


def main():
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="a run with an exported student")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--port", type=int, default=8700)
    options = parser.parse_args()
    folder = options.model / "student" if (options.model / "student").is_dir() else options.model
    file = Path(__file__).parents[2] / "recipes" / "quickstart" / "test.csv"
    with file.open(encoding="utf-8") as lines:
        texts = [row["text"] for row in csv.DictReader(lines)]
    script = Path(f"/tmp/litserve-{os.getpid()}.py")
    script.write_text(LITSERVE)
    port = options.port
    kd = [sys.executable, "-m", "kdcli", "serve", str(folder), "--port"]
    cpus = str(available_cpus())
    servers = {
        "kd serve": Server([*kd, str(port)], port),
        f"kd serve --workers {cpus}": Server([*kd, str(port + 1), "--workers", cpus], port + 1),
        "LitServe": Server([sys.executable, str(script), str(folder), str(port + 2)], port + 2),
    }
    paths = {name: "/predict" if name == "LitServe" else "/" for name in servers}

    async def run():
        for name, server in servers.items():
            await wait(server, paths[name])
        await measure(servers, paths, texts, options.rounds, options.seconds)

    try:
        asyncio.run(run())
    finally:
        for server in servers.values():
            server.stop()
        script.unlink()


if __name__ == "__main__":
    main()
