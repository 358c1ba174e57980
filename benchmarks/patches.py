"""What average patches cost beside the forward pass: images of people through the shipped 3D network, once only through
the layer, once with the patches of all maps cut and averaged.
"""

from __future__ import annotations

from common import Row, in_turns, median, ratio

from posebook import explain, networks, results
from posebook.datasets import load_people


def measure(quick: bool = False) -> list[Row]:
    network, _ = networks.load_network(results.results_folder("weights") / "three-d-joint.safetensors")
    data = load_people("train", limit=256 if quick else 3000)
    rows = []
    for layer in ("conv2", "conv3"):
        def forward(layer=layer) -> None:
            for _batch in explain._streamed(network, layer, data, 256):
                pass
        seconds = in_turns({"forward": forward,
                            "patches": lambda layer=layer: explain.average_patches(network, layer, data)}, 2)
        rows.append(Row(f"average patches of {layer}: of the forward pass",
                        ratio(seconds["patches"], seconds["forward"]), 1.3, seconds=median(seconds["patches"])))
    return rows
