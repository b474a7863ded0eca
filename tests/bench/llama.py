"""llama.cpp as one of the programs that the engine benchmark runs in turn: its C interface through ctypes, so no Python stands between two tokens but one call.

usage: llama.py MODEL.gguf THREADS            (a Python with llama-cpp-python: scripts/bench-peers --llama makes one)
       llama.py --library libllama.so MODEL.gguf THREADS      the same with a built ik_llama.cpp, a fork with kernels of its own
       llama.py --quantize FROM.gguf TO.gguf TYPE       writes another file with llama.cpp's own quantiser; TYPE is the name of a llama_ftype: Q4_K_M, Q6_K …

The protocol: one command a line on stdin, one JSON object a line on stdout. The program that measures starts several such programs on the same file and asks
them in turn; only one works at a time, and one that waits uses no processor. Times are wall time of the named work alone, in seconds.

  version                what is running                                             -> {"llama.cpp": …, …}
  load                   reads the model, makes an empty context; again: from anew   -> {"seconds": …, "resident_mb": …, "anonymous_mb": …}
  memory                 what the process has in memory now                          -> {"resident_mb": …, "anonymous_mb": …}
  prefill N              a prompt of N tokens into an empty context, with the logits of the last         -> {"seconds": …}
  decode DEPTH N         N steps of one token each with its logits, after DEPTH tokens (not timed)       -> {"seconds": …}
  streams S N            N steps of S tokens each with their logits, of S texts at a depth of 32         -> {"seconds": …}
  greedy ID,ID,… N       the N tokens of highest logit, one after the other, after this prompt           -> {"ids": […]}
  quit                   ends the program; so does the end of stdin

What fails is answered with {"error": "why"}. Token i of the text of stream s is 1000 + (7919 i + 104729 s + 13) mod 250000, from position 0: prompts and steps
take their tokens from there, so that every program does the same work and nothing is sampled; commands with one stream are stream 0. The next token is known,
but a step ends when its logits lie in memory. A megabyte is a million bytes.

How llama.cpp is run: context 4096 (streams: 512 per stream, a cache for each), batches of 512, the same number of threads for prompts and steps, and sliding
layers that keep their window only, as llama.cpp's own tools have them (the library's default keeps everything, which is slower at depth). The rest is at its
default, flash attention too (it is used where it can be). Weights are mapped or repacked as it likes.
"""

import ctypes
import json
import sys
import time

import numpy

CONTEXT, BATCH, STREAM_DEPTH, STREAM_CONTEXT = 4096, 512, 32, 512


LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


# Of what the library has to say, only errors are of interest.
@LOG
def log(level, text, _):
    if level == 4:
        print(text.decode(errors="replace"), end="", file=sys.stderr)


def tokens(stream, first, n):
    return [1000 + (7919 * i + 104729 * stream + 13) % 250000 for i in range(first, first + n)]


class Fork:
    """The functions used here of ik_llama.cpp, under llama.cpp's names.

    Its structures are not llama.cpp's, and change. Only what stands first in them is used: a structure that is larger than the library's is passed and returned
    by value all the same, by the calling conventions of x86-64 and AArch64, because the callee touches its own part of it.
    """

    class ContextParams(ctypes.Structure):
        _fields_ = [
            *((name, ctypes.c_uint32) for name in ("seed", "n_ctx", "n_batch", "n_ubatch", "n_seq_max", "n_threads", "n_threads_batch")),
            ("rest", ctypes.c_byte * 2020),
        ]

    class ModelParams(ctypes.Structure):
        _fields_ = [("all", ctypes.c_void_p * 256)]

    class Batch(ctypes.Structure):
        _fields_ = [
            ("n_tokens", ctypes.c_int32), ("token", ctypes.POINTER(ctypes.c_int32)), ("embd", ctypes.c_void_p), ("pos", ctypes.POINTER(ctypes.c_int32)),
            ("n_seq_id", ctypes.POINTER(ctypes.c_int32)), ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))), ("logits", ctypes.POINTER(ctypes.c_int8)),
            ("all_pos_0", ctypes.c_int32), ("all_pos_1", ctypes.c_int32), ("all_seq_id", ctypes.c_int32),
        ]  # fmt: skip

    def __init__(self, path):
        library, pointer, number = ctypes.CDLL(path), ctypes.c_void_p, ctypes.c_int32
        for name, result, arguments in (
            ("llama_backend_init", None, []),
            ("llama_log_set", None, [LOG, pointer]),
            ("llama_print_system_info", ctypes.c_char_p, []),
            ("llama_context_default_params", self.ContextParams, []),
            ("llama_model_default_params", self.ModelParams, []),
            ("llama_model_load_from_file", pointer, [ctypes.c_char_p, self.ModelParams]),
            ("llama_init_from_model", pointer, [pointer, self.ContextParams]),
            ("llama_free_model", None, [pointer]),
            ("llama_free", None, [pointer]),
            ("llama_batch_init", self.Batch, [number, number, number]),
            ("llama_batch_free", None, [self.Batch]),
            ("llama_kv_cache_clear", None, [pointer]),
            ("llama_decode", number, [pointer, self.Batch]),
            ("llama_get_logits_ith", ctypes.POINTER(ctypes.c_float), [pointer, number]),
            ("llama_n_vocab", number, [pointer]),
        ):
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)
        self.llama_model_free, self.llama_vocab_n_tokens = self.llama_free_model, self.llama_n_vocab

    def llama_get_memory(self, context):
        return context

    def llama_memory_clear(self, context, _):
        self.llama_kv_cache_clear(context)

    def llama_model_get_vocab(self, model):
        return model


def memory():
    with open("/proc/self/status") as status:
        kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in status if line.startswith(("VmRSS", "RssAnon"))}
    return {"resident_mb": kilobytes["VmRSS"] * 1024 / 1e6, "anonymous_mb": kilobytes["RssAnon"] * 1024 / 1e6}


class Context:
    """A context for so many streams, and a batch to fill it with."""

    def __init__(self, model, threads, streams, length):
        params = llama.llama_context_default_params()
        params.n_ctx, params.n_seq_max = length, streams
        params.n_batch = params.n_ubatch = BATCH
        params.n_threads = params.n_threads_batch = threads
        params.swa_full = False
        self.context = llama.llama_init_from_model(model, params)
        if not self.context:
            raise RuntimeError("llama.cpp makes no context")
        self.batch = llama.llama_batch_init(BATCH, 0, 1)

    def close(self):
        llama.llama_batch_free(self.batch)
        llama.llama_free(self.context)

    def clear(self):
        llama.llama_memory_clear(llama.llama_get_memory(self.context), True)

    def fill(self, row, token, position, stream, logits):
        batch = self.batch
        batch.token[row], batch.pos[row], batch.logits[row] = token, position, logits
        batch.n_seq_id[row], batch.seq_id[row][0] = 1, stream

    def decode(self, rows):
        self.batch.n_tokens = rows
        status = llama.llama_decode(self.context, self.batch)
        if status != 0:
            raise RuntimeError(f"llama_decode: {status}")

    def extend(self, stream, first, ids, logits=True):
        """Appends tokens, in batches; if asked for, with the logits of the last."""
        for at in range(0, len(ids), BATCH):
            part = ids[at : at + BATCH]
            for row, token in enumerate(part):
                self.fill(row, token, first + at + row, stream, logits and at + row == len(ids) - 1)
            self.decode(len(part))

    def logits(self, row):
        """Where the logits of a row lie; this waits for them."""
        return llama.llama_get_logits_ith(self.context, row)


class Bench:
    def __init__(self, path, threads):
        self.path, self.threads, self.model, self.context = path.encode(), threads, None, None

    def version(self):
        from importlib.metadata import version

        features = llama.llama_print_system_info().decode().strip()
        if isinstance(llama, Fork):
            return {"ik_llama.cpp": "as built", "features": features}
        return {"llama.cpp": f"llama-cpp-python {version('llama-cpp-python')}", "features": features}

    def load(self):
        if self.model:
            self.context.close()
            llama.llama_model_free(self.model)
        began = time.perf_counter()
        self.model = llama.llama_model_load_from_file(self.path, llama.llama_model_default_params())
        if not self.model:
            raise RuntimeError("llama.cpp does not load the file")
        self.context = Context(self.model, self.threads, 1, CONTEXT)
        return {"seconds": time.perf_counter() - began, **memory()}

    def memory(self):
        return memory()

    def prefill(self, n):
        self.context.clear()
        ids = tokens(0, 0, int(n))
        began = time.perf_counter()
        self.context.extend(0, 0, ids)
        self.context.logits(-1)
        return {"seconds": time.perf_counter() - began}

    def decode(self, depth, n):
        depth, n, context = int(depth), int(n), self.context
        context.clear()
        context.extend(0, 0, tokens(0, 0, depth), logits=False)
        ids = tokens(0, depth, n)
        began = time.perf_counter()
        for i, token in enumerate(ids):
            context.fill(0, token, depth + i, 0, True)
            context.decode(1)
            context.logits(0)
        return {"seconds": time.perf_counter() - began}

    def streams(self, streams, n):
        streams, n = int(streams), int(n)
        context = Context(self.model, self.threads, streams, STREAM_CONTEXT * streams)
        try:
            for stream in range(streams):
                context.extend(stream, 0, tokens(stream, 0, STREAM_DEPTH), logits=False)
            ids = [tokens(stream, STREAM_DEPTH, n) for stream in range(streams)]
            began = time.perf_counter()
            for i in range(n):
                for stream in range(streams):
                    context.fill(stream, ids[stream][i], STREAM_DEPTH + i, stream, True)
                context.decode(streams)
                context.logits(streams - 1)
            return {"seconds": time.perf_counter() - began}
        finally:
            context.close()

    def greedy(self, prompt, n):
        prompt, ids = [int(token) for token in prompt.split(",")], []
        rows = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self.model))
        self.context.clear()
        self.context.extend(0, 0, prompt)
        while len(ids) < int(n):
            if ids:
                self.context.extend(0, len(prompt) + len(ids) - 1, ids[-1:])
            ids.append(int(numpy.ctypeslib.as_array(self.context.logits(-1), (rows,)).argmax()))
        return {"ids": ids}


def quantize(source, target, kind):
    params = llama.llama_model_quantize_default_params()
    params.ftype = getattr(llama, f"LLAMA_FTYPE_MOSTLY_{kind.upper()}")
    status = llama.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params))
    if status != 0:
        raise RuntimeError(f"llama_model_quantize: {status}")


def main():
    global llama
    arguments = sys.argv[1:]
    if arguments[0] == "--library":
        llama = Fork(arguments[1])
        arguments = arguments[2:]
    else:
        import llama_cpp as llama
    llama.llama_log_set(log, None)
    llama.llama_backend_init()
    if arguments[0] == "--quantize":
        return quantize(*arguments[1:])
    bench = Bench(arguments[0], int(arguments[1]))
    commands = {name: getattr(bench, name) for name in ("version", "load", "memory", "prefill", "decode", "streams", "greedy")}
    for line in sys.stdin:
        command, *arguments = line.split() or [""]
        if command == "quit":
            break
        try:
            if command not in commands:
                raise RuntimeError("unknown command")
            if bench.model is None and command not in ("version", "load", "memory"):
                raise RuntimeError("nothing is loaded")
            reply = commands[command](*arguments)
        except Exception as error:  # Whatever it is, the program that measures shows it.
            reply = {"error": f"{command}: {error or type(error).__name__}"}
        print(json.dumps(reply), flush=True)


main()
