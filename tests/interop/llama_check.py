"""llama_check.py MODEL ADAPTER EXPECTED: llama.cpp generates with a GGUF adapter on a GGUF model.

EXPECTED, JSON: "requests": prompt, tokens and logProbabilities of each (see expected.py); "tolerance".
"""

import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

from expected import check_steps, read_expected

START_SECONDS = 60


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ask(url, body=None):
    request = urllib.request.Request(url, data=body and json.dumps(body).encode(), headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def wait(server, url):
    for _ in range(START_SECONDS * 10):
        if server.poll() is not None:
            break
        try:
            return ask(f"{url}/health")
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
    raise RuntimeError("llama-server does not answer")


def generate(url, request):
    answer = ask(
        f"{url}/completion",
        {"prompt": request["prompt"], "n_predict": len(request["tokens"]), "temperature": 0, "n_probs": len(request["logProbabilities"][0]), "cache_prompt": False},
    )
    return [
        (step["id"], [entry["logprob"] for entry in sorted(step["top_logprobs"], key=lambda entry: entry["id"])])
        for step in answer["completion_probabilities"]
    ]


model, adapter, expected = sys.argv[1], sys.argv[2], read_expected(sys.argv[3])
port = free_port()
url = f"http://127.0.0.1:{port}"
# F32 throughout, so that small differences can be seen.
options = ["--cache-type-k", "f32", "--cache-type-v", "f32", "--flash-attn", "off", "--threads", "1", "--parallel", "1", "--no-warmup", "--no-webui"]
with tempfile.TemporaryFile() as log:
    server = subprocess.Popen(["llama-server", "--model", model, "--lora", adapter, "--host", "127.0.0.1", "--port", str(port), *options], stdout=log, stderr=log)
    try:
        wait(server, url)
        found = [generate(url, request) for request in expected["requests"]]
    except Exception:
        log.seek(0)
        sys.stderr.buffer.write(log.read())
        raise
    finally:
        server.kill()
        server.wait()
check_steps(found, expected["requests"], expected["tolerance"])
