"""Greedy goldens from llama.cpp: prompt tokens, output tokens and the gap between the two best logits.

Needs a built llama.cpp of the sdist llama-cpp-python 0.3.36 and that package's own bindings on PYTHONPATH:

    LLAMA_CPP_LIB_PATH=<build>/bin PYTHONPATH=<sdist> python3 tools/goldens/llama_greedy.py \
        --model <file.gguf> --prompts fixtures/goldens/prompts.json --out fixtures/goldens/<name>.json

llama.cpp's own results depend on how a prompt is cut into batches, on flash attention and on repacking:
each changes logits by up to 0.3, since activation quantization amplifies the last bit. The goldens take its
plain arithmetic: one token at a time, flash attention off, weights as they are in the file.

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


def tokenize(vocab, text):
    data = text.encode()
    tokens = (llama_cpp.llama_token * (len(data) + 8))()
    count = llama_cpp.llama_tokenize(vocab, data, len(data), tokens, len(tokens), True, True)
    assert count >= 0, f"llama_tokenize failed on {text!r}"
    return list(tokens[:count])


def logits_after(context, vocab_size, tokens):
    for token in tokens:
        ids = (llama_cpp.llama_token * 1)(token)  # the batch only points at it
        status = llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(ids, 1))
        assert status == 0, f"llama_decode returned {status}"
    return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, -1), shape=(vocab_size,)).copy()


def generate(model, options, prompt):
    vocab = llama_cpp.llama_model_get_vocab(model)
    vocab_size = llama_cpp.llama_vocab_n_tokens(vocab)
    parameters = llama_cpp.llama_context_default_params()
    parameters.n_ctx, parameters.n_batch, parameters.n_ubatch = 2048, 512, 512
    parameters.n_threads = parameters.n_threads_batch = options.threads
    parameters.flash_attn_type = 0
    context = llama_cpp.llama_init_from_model(model, parameters)
    prompt_tokens = tokenize(vocab, prompt)
    output, gaps = [], []
    logits = logits_after(context, vocab_size, prompt_tokens)
    while True:
        second, first = np.sort(np.partition(logits, -2)[-2:])
        output.append(int(np.argmax(logits)))
        gaps.append(round(float(first - second), 5))
        if len(output) == options.max_tokens:
            break
        logits = logits_after(context, vocab_size, output[-1:])
    llama_cpp.llama_free(context)
    return {"prompt_tokens": prompt_tokens, "output_tokens": output, "gaps": gaps}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--prompts", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    llama_cpp.llama_backend_init()
    quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    parameters = llama_cpp.llama_model_default_params()
    parameters.use_extra_bufts = False
    model = llama_cpp.llama_model_load_from_file(options.model.encode(), parameters)
    assert model, f"cannot load {options.model}"
    entries = []
    for entry in json.loads(pathlib.Path(options.prompts).read_text()):
        entries.append({**entry, **generate(model, options, entry["prompt"])})
        print(entry["name"], "smallest gap", min(entries[-1]["gaps"]))
    golden = {
        "reference": f"llama.cpp of llama-cpp-python {llama_cpp.__version__} "
        f"(token by token, flash attention off, no repacking; {llama_cpp.llama_print_system_info().decode().strip()})",
        "model_sha256": hashlib.sha256(pathlib.Path(options.model).read_bytes()).hexdigest(),
        "entries": entries,
    }
    lines = json.dumps(golden, ensure_ascii=False, indent=1)
    pathlib.Path(options.out).write_text(lines + "\n")


main()
