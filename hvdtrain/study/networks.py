"""Networks to forecast for: what public descriptions say, each with its source. Bandwidths are of one node, one way."""

from __future__ import annotations

from dataclasses import dataclass

from hvdtrain.study.cost_model import best_s, ring_s

GB = 1e9


@dataclass(frozen=True)
class Network:
    """How nodes are connected.

    Args:
        name: As on the command line.
        title: For people.
        source: Where the numbers come from.
        bandwidth_gb_s: GB/s of a node, one way, as its data sheet says.
        latency_us: Microseconds of a small message between two nodes.
        ranks_per_node: Ranks that share a node's link.
        inside_gb_s: GB/s between ranks of a node.
        algorithm: `ring`: one ring over all ranks, as NCCL had it before 2.4. `hierarchical`: within nodes first, then
            between them in the fastest known way.
        wire_share: What of the bandwidth allreduce can use: protocol, copies, other traffic.
    """

    name: str
    title: str
    source: str
    bandwidth_gb_s: float
    latency_us: float
    ranks_per_node: int = 1
    inside_gb_s: float = 10.0
    algorithm: str = "hierarchical"
    wire_share: float = 0.8

    def allreduce_s(self, num_bytes: float, num_ranks: int) -> float:
        """Return the seconds of one allreduce over this many ranks, full nodes first."""
        if num_ranks == 1 or num_bytes == 0:
            return 0.0
        here = min(self.ranks_per_node, num_ranks)
        nodes = -(-num_ranks // self.ranks_per_node)
        inside_beta = 1 / (self.inside_gb_s * GB)
        beta = 1 / (self.bandwidth_gb_s * GB * self.wire_share)
        alpha = 1e-6 * self.latency_us
        if nodes == 1:
            return best_s(num_bytes, here, alpha_s=alpha / 3, beta_s=inside_beta)
        if self.algorithm == "ring":
            return ring_s(num_bytes, num_ranks, alpha_s=alpha, beta_s=max(beta, inside_beta))
        inside = 2 * (here - 1) / here * num_bytes * inside_beta
        return inside + best_s(num_bytes, nodes, alpha_s=alpha, beta_s=beta)


PRESETS = {
    network.name: network
    for network in (
        Network(
            "roce-25g", "25 Gbit/s RoCE, 4 GPUs per node", "Horovod's docs/benchmarks.rst (25 Gbit/s RoCE, 4 Pascal "
            "GPUs per server); latency: measured RoCE v2 round trips of a few microseconds, plus the copy to the host",
            25 / 8, 8.0, 4, 10.0, "ring",
        ),
        Network(
            "ethernet-10g", "10 Gbit/s Ethernet (TCP)", "10GBASE data rate; TCP latency of 20 to 50 us between "
            "hosts of one rack", 10 / 8, 30.0,
        ),
        Network(
            "ethernet-50g", "50 Gbit/s Ethernet, 8 GPUs per node", "Goyal et al. 2017 (arXiv:1706.02677): 50 Gbit, 8 "
            "P100 per Big Basin server, NVLink inside", 50 / 8, 20.0, 8, 20.0,
        ),
        Network(
            "ib-fdr", "InfiniBand FDR, 8 GPUs per node", "FDR 4x: 54.5 Gbit/s of data; latency below 1 us by the data "
            "sheet, some us from GPU memory", 54.5 / 8, 4.0, 8, 10.0,
        ),
        Network(
            "ib-edr-dual", "two InfiniBand EDR links, 6 GPUs per node", "Summit: dual-rail EDR, 23 GB/s per node "
            "(OLCF user guide), NVLink inside", 23.0, 3.0, 6, 50.0,
        ),
        Network(
            "ib-hdr", "InfiniBand HDR, 8 GPUs per node", "HDR 4x: 200 Gbit/s; latency below 1 us by the data sheet, "
            "some us from GPU memory", 25.0, 3.0, 8, 100.0,
        ),
        Network(
            "aries", "Cray Aries, 1 GPU per node", "Cray XC: about 10 GB/s of injection per node, 1.3 us between nodes "
            "(Alverson et al. 2012), some us from GPU memory", 10.2, 5.0, 1,
        ),
        Network(
            "slingshot", "HPE Slingshot 11, 4 NICs and 4 GPUs per node", "Perlmutter: four 200 Gbit/s NICs per GPU "
            "node (NERSC documentation); about 2 us between nodes", 100.0, 4.0, 4, 200.0,
        ),
    )
}  # fmt: skip
