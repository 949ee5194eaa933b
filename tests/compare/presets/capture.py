"""Captures the golden bodies of servers that run from PyPI anew: `python tests/compare/presets/capture.py [NAME ...]`.

Each server gets an environment of its own under --environments (made where it isn't there), runs one of the programs
below, and is asked what `REQUESTS` says. Whole messages are written to golden/, head and body, byte for byte.
What is to be found in them stands in golden/cases.json, and is written by hand.
"""

from __future__ import annotations

import argparse
import http.client
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

GOLDEN = Path(__file__).parent / "golden"
PORT = 18190

LITSERVE = """
import litserve

class Squares(litserve.LitAPI):
    def setup(self, device):
        pass
    def decode_request(self, request):
        return request["input"]
    def predict(self, x):
        return x**2 + x**3
    def encode_response(self, output):
        return {"output": output}

if __name__ == "__main__":
    litserve.LitServer(Squares(), accelerator="cpu").run(port=PORT, host="127.0.0.1", generate_client_file=False)
"""

BENTOML = """
import bentoml
import numpy as np
from pydantic import BaseModel

class Item(BaseModel):
    id: str
    score: float

@bentoml.service
class Demo:
    @bentoml.api
    def summarize(self, text: str) -> str:
        return "Summary: " + text[:20]
    @bentoml.api
    def predict(self, input_series: np.ndarray) -> np.ndarray:
        return input_series.sum(axis=1)
    @bentoml.api
    def rank(self, ids: list[str]) -> list[Item]:
        return [Item(id=name, score=1 / (1 + at)) for at, name in enumerate(ids)]
"""

RAY = """
from ray import serve
from starlette.requests import Request

@serve.deployment
class Demo:
    async def __call__(self, request: Request):
        asked = await request.json()
        if isinstance(asked, str):
            return asked.upper()
        return {"items": [{"id": name, "score": 1 / (1 + at)} for at, name in enumerate(asked["ids"])]}

serve.start(http_options={"host": "127.0.0.1", "port": PORT})
serve.run(Demo.bind(), blocking=True)
"""

KSERVE = """
import kserve
import numpy as np

class Demo(kserve.Model):
    def __init__(self):
        super().__init__("demo")
        self.ready = True
    async def predict(self, payload, headers=None, response_headers=None):
        if isinstance(payload, dict):
            return {"predictions": [sum(row) if None not in row else float("nan") for row in payload["instances"]]}
        outputs = []
        for one in payload.inputs:
            name, values = one.name, one.as_numpy()
            if name == "features":
                name, values = "scores", values.sum(axis=1)
            outputs.append(kserve.InferOutput(name, list(values.shape), one.datatype))
            outputs[-1].set_data_from_numpy(values, binary_data=payload.use_binary_outputs)
        return kserve.InferResponse(
            payload.id or "0", "demo", outputs, use_binary_outputs=payload.use_binary_outputs,
            requested_outputs=payload.request_outputs,
        )

kserve.ModelServer(http_port=PORT, enable_grpc=False, workers=1).start([Demo()])
"""

MLSERVER = """
import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceResponse

class Demo(MLModel):
    async def predict(self, payload):
        x = NumpyCodec.decode_input(payload.inputs[0])
        outputs = [
            StringCodec.encode_output("ids", [f"item-{at}" for at in range(len(x))]),
            NumpyCodec.encode_output("scores", x.sum(axis=1)),
            NumpyCodec.encode_output("probabilities", x / x.sum(axis=1, keepdims=True)),
        ]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)
"""

SELDON = """
import numpy as np

class Demo:
    def class_names(self):
        return ["ham", "spam"]
    def predict(self, X, names, meta=None):
        if isinstance(X, str | dict):
            return X
        X = np.asarray(X, float)
        return X / X.sum(axis=1, keepdims=True)
"""

SELDON_PORTS = ("--http-port", "PORT", "--grpc-port", "18191", "--metrics-port", "18192")

# With Triton's own client, so that whoever encodes is not who decodes.
ENCODED = """
import sys
import ml_dtypes
import numpy as np
import tritonclient.http as client
from tritonclient.utils import np_to_triton_dtype

def tensor(name, array, datatype=None, binary=True):
    made = client.InferInput(name, list(array.shape), datatype or np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array, binary_data=binary)
    return made

kinds = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")
limits = {kind.upper(): np.array([np.iinfo(kind).min, 1, np.iinfo(kind).max], kind) for kind in kinds}
floats = {f"FP{8 * np.dtype(kind).itemsize}": np.array([[0.1, -2.5], [3, 1000]], kind) for kind in ("f2", "f4", "f8")}
others = {"BOOL": np.array([True, False]), "BYTES": np.array(["é", "", "a,b"], dtype=object)}
brain = np.array([1.5, -0.0078125, 3.0], ml_dtypes.bfloat16)
sent = {
    "all": [tensor(name, array) for name, array in (limits | floats | others).items()],
    "bf16": [tensor("BF16", brain, "BF16"), tensor("ids", np.array([7, 8, 9]), binary=False)],
    "features": [tensor("features", np.array([[1, 2], [3, 4.5]], "f4"))],
}[sys.argv[1]]
outputs = [client.InferRequestedOutput("scores")] if sys.argv[1] == "features" else None
body, size = client.InferenceServerClient.generate_request_body(sent, outputs=outputs, request_id="7")
sys.stdout.buffer.write(f"{size if size is not None else ''}\\n".encode() + body)
"""


class Server(NamedTuple):
    """What to install, and how to start it on `PORT`."""

    packages: tuple[str, ...]
    program: str
    command: tuple[str, ...] = ("{python}", "program.py")
    files: tuple[tuple[str, str], ...] = ()


SERVERS = {
    "litserve": Server(("litserve",), LITSERVE),
    "bentoml": Server(
        ("bentoml",), BENTOML, ("{bin}/bentoml", "serve", "program:Demo", "--port", "PORT", "--host", "127.0.0.1")
    ),
    "ray": Server(("ray[serve]",), RAY),
    "kserve": Server(("kserve", "tritonclient[http]", "ml_dtypes"), KSERVE),
    "seldon": Server(
        ("seldon-core", "setuptools<80"),
        SELDON,
        ("{bin}/seldon-core-microservice", "program.Demo", "--service-type", "MODEL", *SELDON_PORTS),
    ),
    "mlserver": Server(
        ("mlserver",),
        MLSERVER,
        ("{bin}/mlserver", "start", "."),
        (
            ("model-settings.json", '{"name": "demo", "implementation": "program.Demo", "version": "v1"}'),
            ("settings.json", '{"http_port": PORT, "grpc_port": 18191, "metrics_port": 18192, "parallel_workers": 0}'),
        ),
    ),
}

FEATURES = '{"inputs": [{"name": "features", "shape": [2, 2], "datatype": "FP32", "data": [[1, 2], [3, 4.5]]}]}'

# Server, case, path, body; a body `encoded:NAME` is made by Triton's client.
REQUESTS = (
    ("litserve", "litserve", "/predict", '{"input": 4.0}'),
    ("bentoml", "bentoml-text", "/summarize", '{"text": "Breaking news"}'),
    ("bentoml", "bentoml-array", "/predict", '{"input_series": [[5.1, 3.5, 1.4, 0.2]]}'),
    ("bentoml", "bentoml-ranker", "/rank", '{"ids": ["a", "b"]}'),
    ("ray", "ray-serve-ranker", "/", '{"ids": ["a", "b"]}'),
    ("ray", "ray-serve-text", "/", '"hello"'),
    ("kserve", "kserve-v1", "/v1/models/demo:predict", '{"instances": [[1, 2], [3, 4.5]]}'),
    ("kserve", "kserve-v1-nan", "/v1/models/demo:predict", '{"instances": [[1, 2], [null, 4.5]]}'),
    ("kserve", "kserve-v2-json", "/v2/models/demo/infer", FEATURES),
    ("kserve", "kserve-v2-features", "/v2/models/demo/infer", "encoded:features"),
    ("kserve", "kserve-v2-all", "/v2/models/demo/infer", "encoded:all"),
    ("kserve", "kserve-v2-bf16", "/v2/models/demo/infer", "encoded:bf16"),
    ("seldon", "seldon-ndarray", "/api/v1.0/predictions", '{"data": {"ndarray": [[1, 3]]}}'),
    (
        "seldon",
        "seldon-tensor",
        "/api/v1.0/predictions",
        '{"data": {"tensor": {"shape": [2, 2], "values": [1, 1, 1, 3]}}}',
    ),
    ("seldon", "seldon-text", "/api/v1.0/predictions", '{"strData": "hi"}'),
    ("seldon", "seldon-json", "/api/v1.0/predictions", '{"jsonData": {"label": "ham"}}'),
    ("mlserver", "mlserver", "/v2/models/demo/infer", FEATURES),
)


@contextmanager
def running(name: str, environments: Path) -> Iterator[Path]:
    """The server, started; its environment's bin."""
    server, environment = SERVERS[name], environments / name
    bin_ = environment / "bin"
    if not bin_.exists():
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        subprocess.run([bin_ / "pip", "install", "--quiet", *server.packages], check=True)
    with tempfile.TemporaryDirectory() as folder:
        for file, text in (("program.py", server.program), *server.files):
            (Path(folder) / file).write_text(text.replace("PORT", str(PORT)))
        command = [part.format(python=bin_ / "python", bin=bin_).replace("PORT", str(PORT)) for part in server.command]
        environ = {**os.environ, "PATH": f"{bin_}:{os.environ['PATH']}", "PYTHONPATH": folder}
        started = subprocess.Popen(command, cwd=folder, env=environ, start_new_session=True)
        try:
            wait_until_ready(started)
            yield bin_
        finally:
            os.killpg(started.pid, signal.SIGTERM)
            started.wait(30)


def wait_until_ready(started: subprocess.Popen[bytes]) -> None:
    """Until it answers whatever it answers to `GET /`."""
    for _ in range(120):
        if started.poll() is not None:
            raise SystemExit(f"it ended with {started.returncode} before it answered")
        try:
            exchange("GET", "/", {}, b"")
        except OSError:
            time.sleep(1)
        else:
            return
    raise SystemExit("it didn't answer within two minutes")


def exchange(method: str, path: str, head: dict[str, str], body: bytes) -> bytes:
    """The answer as one message."""
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
    try:
        connection.request(method, path, body, head)
        answer = connection.getresponse()
        return message(f"HTTP/1.1 {answer.status} {answer.reason}", dict(answer.getheaders()), answer.read())
    finally:
        connection.close()


def message(line: str, head: dict[str, str], body: bytes) -> bytes:
    return "\r\n".join([line, *(f"{name}: {value}" for name, value in head.items()), "", ""]).encode("latin-1") + body


def capture(case: str, path: str, asked: str, bin_: Path) -> None:
    """Ask once, and write what went over the wire."""
    head, body = {"Host": f"127.0.0.1:{PORT}", "Content-Type": "application/json"}, asked.encode()
    if asked.startswith("encoded:"):
        made = subprocess.run(
            [bin_ / "python", "-c", ENCODED, asked.removeprefix("encoded:")], check=True, capture_output=True
        ).stdout
        size, _, body = made.partition(b"\n")
        head |= {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": size.decode()}
    head["Content-Length"] = str(len(body))
    (GOLDEN / f"{case}.request").write_bytes(message(f"POST {path} HTTP/1.1", head, body))
    (GOLDEN / f"{case}.response").write_bytes(exchange("POST", path, head, body))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *SERVERS])
    parser.add_argument("--environments", type=Path, default=Path(tempfile.gettempdir()) / "shadowproxy-capture")
    given = parser.parse_args()
    given.environments.mkdir(parents=True, exist_ok=True)
    for name in given.names or SERVERS:
        with running(name, given.environments.absolute()) as bin_:
            for server, case, path, asked in REQUESTS:
                if server == name:
                    capture(case, path, asked, bin_)


if __name__ == "__main__":
    main()
