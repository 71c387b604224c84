"""Goldens from llama.cpp: greedy tokens with the gap between the two best logits, digests of logits, and embeddings.

Needs a built llama.cpp of the sdist llama-cpp-python 0.3.36 and that package's own bindings on PYTHONPATH:

    export LLAMA_CPP_LIB_PATH=<build>/bin PYTHONPATH=<sdist>
    python3 tools/goldens/llama_goldens.py greedy --model <SmolLM2-135M-Instruct.Q4_1.gguf> \
        --prompts fixtures/goldens/prompts.json --out fixtures/goldens/smollm2-135m.json
    python3 tools/goldens/llama_goldens.py logits --tokens 1,20,34,55,100,7,7,250 \
        --out fixtures/goldens/fixture-logits.json fixtures/gguf/ok/{llama,bitnet}-{f,b,q,t}*.gguf
    python3 tools/goldens/llama_goldens.py --source "llama-cpp-sys-2 0.1.161" embeddings \
        --tokens 1,20,34,55,100,7,7,250 --out fixtures/goldens/fixture-embeddings.json fixtures/gguf/ok/qwen3-*.gguf

The last one also gives digests of logits. Its libraries are those of `cargo xtask reference build llama --cpu portable`, whose
logits are those of the package's own build for the other fixtures.

llama.cpp's own results depend on how a prompt is cut into batches, on flash attention and on repacking:
each changes logits by up to 0.3, since activation quantization amplifies the last bit. The goldens take its
plain arithmetic: one token at a time, flash attention off, weights as they are in the file, on a CPU with
AVX2, FMA and F16C.

Greedy: the lowest id among the largest logits. Generation goes on to --max-tokens, through end-of-text
tokens, so that every position can be compared.
"""

import argparse
import ctypes
import hashlib
import json
import pathlib

import llama_cpp
import numpy as np


class Engine:
    """One model and a fresh context."""

    def __init__(self, path):
        parameters = llama_cpp.llama_model_default_params()
        parameters.use_extra_bufts = False
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        assert self.model, f"cannot load {path}"
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.context = None

    def reset(self, embeddings=False):
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = 512
        parameters.n_threads = parameters.n_threads_batch = 1
        parameters.flash_attn_type = 0
        parameters.embeddings = embeddings
        if self.context:
            llama_cpp.llama_free(self.context)
        self.context = llama_cpp.llama_init_from_model(self.model, parameters)

    def tokenize(self, text):
        data = text.encode()
        tokens = (llama_cpp.llama_token * (len(data) + 8))()
        count = llama_cpp.llama_tokenize(self.vocab, data, len(data), tokens, len(tokens), True, True)
        assert count >= 0, f"llama_tokenize failed on {text!r}"
        return list(tokens[:count])

    def logits_after(self, token):
        ids = (llama_cpp.llama_token * 1)(token)  # the batch only points at it
        status = llama_cpp.llama_decode(self.context, llama_cpp.llama_batch_get_one(ids, 1))
        assert status == 0, f"llama_decode returned {status}"
        shape = (llama_cpp.llama_vocab_n_tokens(self.vocab),)
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self.context, -1), shape=shape).copy()


    def pooled_after(self, token):
        """The embedding, as the file pools it, of the tokens so far; its length is not 1."""
        ids = (llama_cpp.llama_token * 1)(token)
        status = llama_cpp.llama_decode(self.context, llama_cpp.llama_batch_get_one(ids, 1))
        assert status == 0, f"llama_decode returned {status}"
        shape = (llama_cpp.llama_model_n_embd(self.model),)
        return np.ctypeslib.as_array(llama_cpp.llama_get_embeddings_seq(self.context, 0), shape=shape).copy()


def greedy(engine, prompt, max_tokens):
    engine.reset()
    prompt_tokens = engine.tokenize(prompt)
    output, gaps = [], []
    for token in prompt_tokens:
        logits = engine.logits_after(token)
    while True:
        second, first = np.sort(np.partition(logits, -2)[-2:])
        output.append(int(np.argmax(logits)))
        gaps.append(round(float(first - second), 5))
        if len(output) == max_tokens:
            return {"prompt_tokens": prompt_tokens, "output_tokens": output, "gaps": gaps}
        logits = engine.logits_after(output[-1])


def run_greedy(options):
    engine = Engine(options.model)
    prompts = json.loads(pathlib.Path(options.prompts).read_text())
    entries = [{**entry, **greedy(engine, entry["prompt"], options.max_tokens)} for entry in prompts]
    digest = hashlib.sha256(pathlib.Path(options.model).read_bytes()).hexdigest()
    return {"model_sha256": digest, "entries": entries}


def run_logits(options):
    tokens = [int(token) for token in options.tokens.split(",")]
    models = {}
    for path in options.models:
        engine = Engine(path)
        engine.reset()
        logits = [engine.logits_after(token) for token in tokens]
        digests = [hashlib.sha256(row.astype("<f4").tobytes()).hexdigest() for row in logits]
        models[pathlib.Path(path).name] = {"argmax": [int(np.argmax(row)) for row in logits], "sha256": digests}
    return {"tokens": tokens, "models": models}


def run_embeddings(options):
    golden = run_logits(options)
    for path in options.models:
        engine = Engine(path)
        engine.reset(embeddings=True)
        assert llama_cpp.llama_pooling_type(engine.context) == llama_cpp.LLAMA_POOLING_TYPE_LAST
        pooled = [engine.pooled_after(token) for token in golden["tokens"]]
        digests = [hashlib.sha256(row.astype("<f4").tobytes()).hexdigest() for row in pooled]
        last = [float(value) for value in pooled[-1]]
        golden["models"][pathlib.Path(path).name] |= {"pooled_sha256": digests, "last_pooled": last}
    return golden


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("greedy")
    command.set_defaults(run=run_greedy)
    command.add_argument("--model", required=True)
    command.add_argument("--prompts", required=True)
    command.add_argument("--max-tokens", type=int, default=64)
    command.add_argument("--out", required=True)
    command = commands.add_parser("logits")
    command.set_defaults(run=run_logits)
    command.add_argument("--tokens", required=True)
    command.add_argument("--out", required=True)
    command.add_argument("models", nargs="+")
    command = commands.add_parser("embeddings")
    command.set_defaults(run=run_embeddings)
    command.add_argument("--tokens", required=True)
    command.add_argument("--out", required=True)
    command.add_argument("models", nargs="+")
    parser.add_argument("--source", default=f"llama-cpp-python {llama_cpp.__version__}", help="where the libraries are from")
    options = parser.parse_args()
    llama_cpp.llama_backend_init()
    quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    system = llama_cpp.llama_print_system_info().decode().strip()
    reference = (
        f"llama.cpp of {options.source}: token by token, flash attention off, "
        f"no repacking; {system}"
    )
    golden = {"reference": reference, **options.run(options)}
    pathlib.Path(options.out).write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n")


main()
