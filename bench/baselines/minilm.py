"""A sentence encoder on a Python peer, timed by rounds that are asked for on standard input.

Arguments: the peer (`torch` or `onnxruntime`), the checkpoint's directory, a file of
little-endian 32-bit ids, the number of texts, the calls before the first round, the threads.
Every line of standard input holds a number of calls; every answer is one line of JSON. The line
`steps` is answered with the time of each kind of operation of one more call.

Both peers get the ids and an attention mask of ones, and give mean-pooled vectors of length one:
what is timed is the model, not the tokenizer. The graph of ONNX Runtime is exported by
`torch.onnx` from the very model that PyTorch runs, with every graph optimisation.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


def torch_peer(directory, ids, thread_count):
    import sentence_transformers
    import torch
    import transformers

    torch.set_num_threads(thread_count)
    model = sentence_transformers.SentenceTransformer(str(directory), device="cpu").eval()
    features = {
        "input_ids": torch.from_numpy(ids.astype(np.int64)),
        "attention_mask": torch.ones(ids.shape, dtype=torch.int64),
        "token_type_ids": torch.zeros(ids.shape, dtype=torch.int64),
    }

    def call():
        with torch.inference_mode():
            vectors = model.forward(dict(features))["sentence_embedding"]
            return torch.nn.functional.normalize(vectors, dim=-1).numpy()

    def steps():
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            call()
        rows = [
            [it.key, int(it.self_cpu_time_total * 1000), it.count]
            for it in profile.key_averages()
            if it.self_cpu_time_total
        ]
        return sorted(rows, key=lambda it: -it[1])

    versions = {
        "torch": torch.__version__,
        "sentence_transformers": sentence_transformers.__version__,
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "attention": model[0].auto_model.config._attn_implementation,
    }
    return call, steps, versions


def exported(directory, ids, path):
    """Writes the model, its pooling and normalisation as one graph."""
    import torch
    from transformers import AutoModel

    class Sentence(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk = AutoModel.from_pretrained(directory, attn_implementation="eager").eval()

        def forward(self, input_ids, attention_mask, token_type_ids):
            states = self.trunk(
                input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
            ).last_hidden_state
            keep = attention_mask.unsqueeze(-1).to(states.dtype)
            mean = (states * keep).sum(1) / keep.sum(1).clamp(min=1e-9)
            return torch.nn.functional.normalize(mean, dim=-1)

    one = torch.from_numpy(ids.astype(np.int64))
    arguments = (one, torch.ones_like(one), torch.zeros_like(one))
    names = ["input_ids", "attention_mask", "token_type_ids"]
    with torch.inference_mode():
        torch.onnx.export(
            Sentence(),
            arguments,
            str(path),
            input_names=names,
            output_names=["vectors"],
            opset_version=18,
            dynamo=True,
            external_data=False,
        )


def onnxruntime_peer(directory, ids, thread_count):
    import onnx
    import onnxruntime
    from onnxruntime.transformers.optimizer import optimize_model

    place = Path(tempfile.mkdtemp(prefix="minilm-onnx-"))
    exported(directory, ids, place / "model.onnx")
    # The runtime's own offline pass fuses attention, the norms and GELU; the rest is fused when
    # the session opens.
    config = json.loads((directory / "config.json").read_text())
    fused = optimize_model(
        str(place / "model.onnx"),
        model_type="bert",
        num_heads=config["num_attention_heads"],
        hidden_size=config["hidden_size"],
        opt_level=0,
    )
    fused.save_model_to_file(str(place / "fused.onnx"))
    feeds = {
        "input_ids": ids.astype(np.int64),
        "attention_mask": np.ones(ids.shape, np.int64),
        "token_type_ids": np.zeros(ids.shape, np.int64),
    }

    def session(name, profile):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = thread_count
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.enable_profiling = profile
        options.profile_file_prefix = str(place / "profile")
        path = str(place / name)
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def runner(opened):
        kept = {it.name: feeds[it.name] for it in opened.get_inputs()}
        return lambda: opened.run(None, kept)[0]

    # Both forms run once more each; the faster one is the peer.
    forms = {}
    for name in ("model.onnx", "fused.onnx"):
        call = runner(session(name, False))
        call()
        forms[name] = (min(timed(call) for _ in range(4)), call)
    name = min(forms, key=lambda it: forms[it][0])

    def steps():
        opened = session(name, True)
        call = runner(opened)
        call()
        call()
        events = json.loads(Path(opened.end_profiling()).read_text())
        totals = {}
        kernels = [it for it in events if it.get("name", "").endswith("_kernel_time")]
        for event in kernels[len(kernels) // 2 :]:
            row = totals.setdefault(event["args"]["op_name"], [0, 0])
            row[0] += event["dur"] * 1000
            row[1] += 1
        return sorted(([it, *row] for it, row in totals.items()), key=lambda it: -it[1])

    versions = {
        "onnxruntime": onnxruntime.__version__,
        "onnx": onnx.__version__,
        "threads": thread_count,
        "graph": name,
        "fused": {it: count for it, count in fused.get_fused_operator_statistics().items() if count},
        "trial_ns": {it: form[0] for it, form in forms.items()},
    }
    return forms[name][1], steps, versions


def timed(call):
    start = time.perf_counter_ns()
    call()
    return time.perf_counter_ns() - start


def answer(value):
    sys.__stdout__.write(json.dumps(value) + "\n")
    sys.__stdout__.flush()


PEERS = {"torch": torch_peer, "onnxruntime": onnxruntime_peer}


def main():
    peer, directory, ids, text_count, warm_count, thread_count = sys.argv[1:]
    # What libraries print must not come between the answers.
    sys.stdout = sys.stderr
    rows = np.fromfile(ids, dtype="<u4").reshape(int(text_count), -1)
    call, steps, versions = PEERS[peer](Path(directory), rows, int(thread_count))
    first_ns = timed(call)
    for _ in range(int(warm_count)):
        call()
    vectors = call().astype(np.float32)
    answer({"versions": versions, "first_ns": first_ns, "vectors": vectors.ravel().tolist()})
    for line in sys.stdin:
        if line.strip() == "steps":
            answer({"steps": steps()})
        else:
            answer({"samples_ns": [timed(call) for _ in range(int(line))]})


if __name__ == "__main__":
    main()
