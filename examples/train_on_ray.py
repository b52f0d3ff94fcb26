"""Train on the nodes of a Ray cluster: `python train_on_ray.py --preset tiny --data /data/packed`.

One process on each node, with all its CPUs and GPUs; the words of the command line are those of
vitsd-train. Ray places the processes and starts them, vitsd-train does the rest.
"""

import socket
import subprocess
import sys

import ray

ray.init()
NODES = [node for node in ray.nodes() if node["Alive"]]


@ray.remote(num_cpus=0)
def free_address() -> str:
    """An address of this node with a port that is free now."""
    with socket.socket() as free:
        free.bind(("", 0))
        return f"{ray.util.get_node_ip_address()}:{free.getsockname()[1]}"


@ray.remote(num_cpus=0, max_retries=0)
def train(index: int, coordinator: str) -> int:
    """Run a process on this node; returns its exit code."""
    words = ["--distribute", "--coordinator", coordinator]
    words += ["--num-processes", str(len(NODES)), "--process-id", str(index)]
    return subprocess.run(["vitsd-train", *sys.argv[1:], *words]).returncode


def on(node: dict) -> dict:
    """Ray's option to run something on one node."""
    affinity = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    return {"scheduling_strategy": affinity(node["NodeID"], soft=False)}


coordinator = ray.get(free_address.options(**on(NODES[0])).remote())
codes = [train.options(**on(node)).remote(i, coordinator) for i, node in enumerate(NODES)]
sys.exit(max(ray.get(codes)))
