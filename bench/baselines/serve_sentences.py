"""A straightforward server: FastAPI in front of sentence-transformers, one model, one process.

Arguments: the checkpoint's directory or name, `--device` (cpu, cuda), `--port`, `--threads`.
It answers `POST /v1/embeddings` in OpenAI's form, with vectors as lists or in base64, and encodes
each request as it comes, as the two libraries' own examples do. `calor load 127.0.0.1:PORT` makes
the same load on it as on `calor serve`.

Needs `fastapi`, `uvicorn` and `sentence-transformers` beside what requirements.txt lists.
"""

import argparse
import base64

import fastapi
import numpy as np
import pydantic
import sentence_transformers
import torch
import uvicorn


class Request(pydantic.BaseModel):
    input: str | list[str]
    model: str = "default"
    encoding_format: str = "float"


def application(model):
    app = fastapi.FastAPI()

    # Without `async`, so that a request does not keep the others from being read.
    @app.post("/v1/embeddings")
    def embeddings(request: Request):
        texts = [request.input] if isinstance(request.input, str) else request.input
        rows = model.encode(texts, normalize_embeddings=True).astype(np.float32)
        if request.encoding_format == "base64":
            vectors = [base64.b64encode(row.tobytes()).decode() for row in rows]
        else:
            vectors = [row.tolist() for row in rows]
        data = [
            {"object": "embedding", "index": index, "embedding": vector}
            for index, vector in enumerate(vectors)
        ]
        return {"object": "list", "model": request.model, "data": data}

    return app


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--port", type=int, default=3001)
    parser.add_argument("--threads", type=int, default=0)
    given = parser.parse_args()
    if 0 < given.threads:
        torch.set_num_threads(given.threads)
    model = sentence_transformers.SentenceTransformer(given.checkpoint, device=given.device)
    model.eval()
    # So that the first request of the load is not the first of all.
    model.encode(["warm", "a text that is somewhat longer than the first"])
    uvicorn.run(application(model), host="127.0.0.1", port=given.port, log_level="warning")


if __name__ == "__main__":
    main()
