"""Queries ranked a second, beside PyKEEN with the same weights: `python benchmarks/ranking.py [--json]`.

The test split of MKG-W (found through $MMRNS_DATA), both sides, filtered, d = 200 (complex scorers: 200 complex),
random weights; the two take turns. One query is one side of one triple.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from typing import Any

import torch
from peer import PEERS, evaluate, ours_of, peer_of

import mmrns
from mmrns.data.graph import KnowledgeGraph
from mmrns.evaluation.ranking import rank
from mmrns.evaluation.report import metrics
from mmrns.memory import freed_memory_kept


def measure(
    name: str, graph: KnowledgeGraph, dim: int, repeats: int, batch_size: int, device: str = "cpu"
) -> dict[str, Any]:
    """Median queries a second of both, and the MRR that each finds."""
    peer = peer_of(name, graph, dim).to(device)
    ours = ours_of(name, graph, dim, peer).to(device)
    n = 2 * len(graph.test)
    taken: dict[str, list[float]] = {"ours": [], "pykeen": []}
    mrr: dict[str, float] = {}
    # Compiles the fused kernels.
    rank(ours, graph.test[:10], graph.known_index, device=device)
    for _ in range(repeats):
        # Only ours: with the memory of the whole split kept, the peer would not fit this machine.
        with freed_memory_kept():
            rank(ours, graph.test[:500], graph.known_index, device=device)
            started = time.perf_counter()
            ranks = rank(ours, graph.test, graph.known_index, device=device)
            taken["ours"].append(time.perf_counter() - started)
        mrr["ours"] = metrics(ranks.realistic)["mrr"]
        started = time.perf_counter()
        mrr["pykeen"] = evaluate(peer, graph, batch_size)
        taken["pykeen"].append(time.perf_counter() - started)
    qps = {who: n / statistics.median(seconds) for who, seconds in taken.items()}
    return {
        "ours_qps": qps["ours"],
        "pykeen_qps": qps["pykeen"],
        "ratio": qps["ours"] / qps["pykeen"],
        "mrr_ours": mrr["ours"],
        "mrr_pykeen": mrr["pykeen"],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--scorer", action="append", choices=PEERS)
    parser.add_argument("--dataset", default="MKG-W")
    parser.add_argument("--dim", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=32, help="of the peer")
    parser.add_argument("--triples", type=int, help="only so many of the split")
    a = parser.parse_args()
    graph = mmrns.load_dataset(a.dataset).graph
    graph = replace(graph, test=graph.test[: a.triples])
    with torch.no_grad():
        found = {s: measure(s, graph, a.dim, a.repeats, a.batch_size) for s in a.scorer or PEERS}
    print(json.dumps(found) if a.json else "\n".join(f"{s:>9} {found[s]}" for s in found))


if __name__ == "__main__":
    main()
