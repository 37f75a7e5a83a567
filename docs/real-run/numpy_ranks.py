"""Compares the ranks of `sara ranks` with those of numpy's full SVD in f64, for every linear layer of a model.

numpy_ranks.py --model DIR [--sara target/release/sara]

Shares 0.01 to 0.5 in both conventions. Prints how many decisions are the same; exit code 1 if one is not.
"""

import argparse
import json
import subprocess
import sys

import numpy
from safetensors.numpy import load_file

SHARES = ("0.01", "0.03", "0.05", "0.1", "0.2", "0.5")


def rank(values, share, convention):
    """`reach`: the smallest rank that reaches the share; `floor`: the largest that stays below it, at least 1."""
    below = int(numpy.sum(numpy.cumsum(values) < share * values.sum()))
    return below + 1 if convention == "reach" else max(below, 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--sara", default="target/release/sara")
    options = parser.parse_args()
    weights = load_file(f"{options.model}/model.safetensors")
    spectra = {}

    def spectrum(name):
        key = next(key for key in weights if name.endswith(key.removesuffix(".weight")) and key.endswith(".weight"))
        return numpy.linalg.svd(weights[key].astype(numpy.float64), compute_uv=False)

    same, wrong = 0, []
    for share in SHARES:
        for convention in ("reach", "floor"):
            command = [options.sara, "ranks", "--model", options.model, "--share", share, "--convention", convention, "--json"]
            sites = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["sites"]
            for site in sites:
                if site["name"] not in spectra:
                    spectra[site["name"]] = spectrum(site["name"])
                expected = rank(spectra[site["name"]], float(share), convention)
                if site["rank"] == expected:
                    same += 1
                else:
                    wrong.append(f"{site['name']}, share {share}, {convention}: {site['rank']}, numpy says {expected}")
    print("\n".join([*wrong, f"{same} of {same + len(wrong)} decisions over {len(spectra)} matrices are numpy's"]))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
