"""Clients as they are published, against a server at the address in the first argument.

The second argument is the folder of the protocol files. Prints `ok` at the end.
"""

import json
import math
import sys
import tempfile
import urllib.request

address, protocols = sys.argv[1], sys.argv[2]


def post(path, body):
    request = urllib.request.Request(
        address + path, json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def close(got, want):
    assert len(got) == len(want), (len(got), len(want))
    assert max(abs(a - b) for a, b in zip(got, want)) < 1e-6


def openai_package():
    import openai

    client = openai.OpenAI(base_url=address + "/v1", api_key="none", max_retries=0)
    answer = client.embeddings.create(model="fused", input=["heat", "cold"])
    plain = post("/embed", {"inputs": ["heat", "cold"]})
    # The package asks for base64 by itself.
    for row, want in zip(answer.data, plain):
        close(row.embedding, want)
    assert [it.index for it in answer.data] == [0, 1]
    assert answer.usage.prompt_tokens > 4
    cut = client.embeddings.create(
        model="semantic", input="heat", dimensions=16, encoding_format="float"
    )
    assert len(cut.data[0].embedding) == 16
    assert "semantic" in [it.id for it in client.models.list()]
    try:
        client.embeddings.create(model="no-such-model", input="heat")
        raise AssertionError("a model that is not there answers")
    except openai.NotFoundError as err:
        assert err.code == "model_not_found", err
    try:
        client.embeddings.create(model="fused", input="")
        raise AssertionError("nothing is embedded")
    except openai.BadRequestError as err:
        assert err.code == "empty_input", err


def hub_package():
    from huggingface_hub import InferenceClient

    client = InferenceClient(address)
    vectors = client.feature_extraction("heat")
    assert vectors.shape == (1, 1536), vectors.shape
    close(vectors[0].tolist(), post("/embed", {"inputs": "heat"})[0])
    vectors = client.feature_extraction(
        "heat", normalize=True, prompt_name="query", truncate=True, truncation_direction="right"
    )
    assert abs(math.sqrt(float((vectors**2).sum())) - 1) < 1e-4
    scores = client.sentence_similarity("heat", other_sentences=["heat", "cold"])
    assert abs(scores[0] - 1) < 1e-5 and len(scores) == 2


def grpc_client():
    import grpc
    from grpc_tools import protoc

    with tempfile.TemporaryDirectory() as folder:
        made = ["protoc", f"-I{protocols}", f"--python_out={folder}", f"--grpc_python_out={folder}"]
        assert protoc.main([*made, "tei.proto"]) == 0
        sys.path.insert(0, folder)
        import tei_pb2
        import tei_pb2_grpc
    host = address.removeprefix("http://")
    with grpc.insecure_channel(host) as channel:
        embed = tei_pb2_grpc.EmbedStub(channel)
        answer = embed.Embed(tei_pb2.EmbedRequest(inputs="heat"))
        close(list(answer.embeddings), post("/embed", {"inputs": "heat"})[0])
        assert answer.metadata.compute_chars == 4 and answer.metadata.total_time_ns > 0
        chosen = [("x-calor-model", "entity"), ("x-calor-priority", "bulk")]
        answer = embed.Embed(tei_pb2.EmbedRequest(inputs="heat"), metadata=chosen, timeout=5)
        assert len(answer.embeddings) == 384
        texts = [f"text {it}" for it in range(100)]
        stream = embed.EmbedStream(tei_pb2.EmbedRequest(inputs=it) for it in texts)
        for text, answer in zip(texts, stream, strict=True):
            close(list(answer.embeddings), post("/embed", {"inputs": text})[0])
        sparse = embed.EmbedSparse(tei_pb2.EmbedSparseRequest(inputs="heat"))
        want = post("/embed_sparse", {"inputs": "heat"})[0]
        assert [it.index for it in sparse.sparse_embeddings] == [it["index"] for it in want]
        rows = embed.EmbedAll(tei_pb2.EmbedAllRequest(inputs="heat is")).token_embeddings
        assert len(rows) == len(post("/embed_all", {"inputs": "heat is"})[0])
        rerank = tei_pb2_grpc.RerankStub(channel)
        request = tei_pb2.RerankRequest(query="heat", texts=["cold", "heat"], return_text=True)
        ranks = rerank.Rerank(request).ranks
        assert [it.index for it in ranks] == [1, 0] and ranks[0].text == "heat"
        parts = [tei_pb2.RerankStreamRequest(query="heat", text=it) for it in ["cold", "heat"]]
        assert [it.index for it in rerank.RerankStream(iter(parts)).ranks] == [1, 0]
        tokenize = tei_pb2_grpc.TokenizeStub(channel)
        tokens = tokenize.Tokenize(
            tei_pb2.EncodeRequest(inputs="heat", add_special_tokens=True)
        ).tokens
        assert tokens[0].special and not tokens[0].HasField("start") and tokens[1].start == 0
        ids = [it.id for it in tokens]
        text = tokenize.Decode(tei_pb2.DecodeRequest(ids=ids, skip_special_tokens=True)).text
        assert text == post("/decode", {"ids": ids})[0]
        info = tei_pb2_grpc.InfoStub(channel).Info(tei_pb2.InfoRequest())
        assert info.max_client_batch_size == 32 and info.model_id.startswith("calor-")
        for call, request, want in [
            (embed.Embed, tei_pb2.EmbedRequest(inputs=""), grpc.StatusCode.INVALID_ARGUMENT),
            (
                tei_pb2_grpc.PredictStub(channel).Predict,
                tei_pb2.PredictRequest(inputs="a"),
                grpc.StatusCode.FAILED_PRECONDITION,
            ),
        ]:
            try:
                call(request)
                raise AssertionError(f"{want} is answered")
            except grpc.RpcError as err:
                assert err.code() == want, err
        # Health and reflection, by their published method names and plain bytes.
        plain = {"request_serializer": bytes, "response_deserializer": bytes}
        check = channel.unary_unary("/grpc.health.v1.Health/Check", **plain)
        assert check(b"") == b"\x08\x01"
        assert check(b"\x0a\x0ctei.v1.Embed") == b"\x08\x01"
        assert check(b"\x0a\x0etei.v1.Predict") == b"\x08\x02"
        method = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
        described = channel.stream_stream(method, **plain)
        listed = next(described(iter([b"\x3a\x00"])))
        assert b"tei.v1.Embed" in listed and b"grpc.health.v1.Health" in listed


openai_package()
hub_package()
grpc_client()
print("ok")
