"""faiss and usearch in a process of their own, driven by the benchmark: one JSON object a line in, one out.

usage: peers.py FOLDER VECTORS DIMENSIONS QUERIES K      FOLDER holds base.f32 and queries.f32: rows of little-endian floats

  {"do": "versions"}                                     -> {"faiss": ..., "usearch": ...}
  {"do": "build", "index": "flat|hnsw32|usearch-i8"}     -> {"seconds": ..., "bytes": ...}
  {"do": "time", "index": ..., "ef": n, "from": q, "count": n}  -> {"times": [microseconds], "found": [[rows]]}

Indexes are built as their libraries do by default, with all cores, and asked with one thread, one query a call. Vectors have length one, so the inner product is the cosine.
"""

import json
import os
import sys
import time

import faiss
import numpy as np
import usearch
from usearch.index import Index


def resident():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def main():
    folder, (n, d, q, k) = sys.argv[1], map(int, sys.argv[2:6])
    base = np.fromfile(os.path.join(folder, "base.f32"), dtype="<f4").reshape(n, d)
    queries = np.fromfile(os.path.join(folder, "queries.f32"), dtype="<f4").reshape(q, d)
    cores = os.cpu_count() or 1
    indexes = {}

    def build(index):
        before, began = resident(), time.perf_counter()
        faiss.omp_set_num_threads(cores)
        if index == "flat":
            made = faiss.IndexFlatIP(d)
            made.add(base)
        elif index == "hnsw32":
            made = faiss.IndexHNSWFlat(d, 32, faiss.METRIC_INNER_PRODUCT)
            made.add(base)
        else:
            made = Index(ndim=d, metric="cos", dtype="i8")
            made.add(np.arange(n), base, threads=cores)
        faiss.omp_set_num_threads(1)
        indexes[index] = made
        return {"seconds": time.perf_counter() - began, "bytes": resident() - before}

    def timed(index, ef, first, count):
        chosen, times, found = indexes[index], [], []
        if index == "hnsw32":
            chosen.hnsw.efSearch = ef
        elif index == "usearch-i8":
            chosen.expansion_search = ef
        for i in range(first, first + count):
            query = queries[i % q]
            began = time.perf_counter()
            if index == "usearch-i8":
                rows = chosen.search(query, k, threads=1).keys
            else:
                rows = chosen.search(query[None], k)[1][0]
            times.append((time.perf_counter() - began) * 1e6)
            found.append([int(row) for row in rows])
        return {"times": times, "found": found}

    for line in sys.stdin:
        asked = json.loads(line)
        if asked["do"] == "versions":
            reply = {"faiss-cpu": faiss.__version__, "usearch": usearch.__version__}
        elif asked["do"] == "build":
            reply = build(asked["index"])
        else:
            reply = timed(asked["index"], asked["ef"], asked["from"], asked["count"])
        print(json.dumps(reply), flush=True)


main()
