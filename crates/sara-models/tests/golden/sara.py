"""SARA by its equations in torch: two layers with ranks of their own, forward, gradients, and three steps of plain descent."""

import math

import fixtures
import numpy as np
import torch

ALPHA = 5.0
RATE = 0.05
STEPS = 3
# Input and output width and rank of each site; none is square.
SITES = {"0-query": (6, 5, 3), "0-down": (5, 6, 2)}
NAMES = ("down", "scale", "up")


def layer(x, weight, bias, factors, scaling):
    down, scale, up = factors
    return x @ weight + bias + scaling * ((x @ down) * scale) @ up


def model(x, base, adapter, scalings):
    """A layer, tanh, a layer; returns every output."""
    query = layer(x, *base["0-query"], adapter["0-query"], scalings["0-query"])
    return query, layer(torch.tanh(query), *base["0-down"], adapter["0-down"], scalings["0-down"])


def case(rng, scaling_of):
    x = fixtures.normal(rng, 2, 4, 6)
    base, adapter, scalings = {}, {}, {}
    for site, (d_in, d_out, rank) in SITES.items():
        base[site] = (fixtures.normal(rng, d_in, d_out, std=0.5), fixtures.normal(rng, d_out, std=0.5))
        factors = (fixtures.normal(rng, d_in, rank, std=0.6), fixtures.normal(rng, rank), fixtures.normal(rng, rank, d_out, std=0.6))
        adapter[site] = [torch.nn.Parameter(factor) for factor in factors]
        scalings[site] = scaling_of(rank)
    tensors = {"x": x}
    for site, (weight, bias) in base.items():
        tensors |= {f"{site}.weight": weight, f"{site}.bias": bias}
    losses = []
    for step in range(STEPS):
        query, out = model(x, base, adapter, scalings)
        loss = (out**2).mean()
        losses.append(loss.item())
        parameters = {f"{site}.{name}": p for site, factors in adapter.items() for name, p in zip(NAMES, factors)}
        tensors |= {f"step{step}.{path}": p.detach().clone() for path, p in parameters.items()}
        tensors |= {f"step{step}.query": query.detach().clone(), f"step{step}.out": out.detach().clone()}
        for site, (down, scale, up) in adapter.items():
            tensors[f"step{step}.{site}.delta"] = (scalings[site] * (down * scale) @ up).detach().clone()
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        tensors |= {f"step{step}.{path}.gradient": g for path, g in zip(parameters, gradients)}
        with torch.no_grad():
            for p, gradient in zip(parameters.values(), gradients):
                p -= RATE * gradient
    tensors["losses"] = torch.tensor(losses)
    return tensors


def generate(out):
    rng = np.random.default_rng(7)
    cases = {"rank": lambda rank: ALPHA / rank, "root_rank": lambda rank: ALPHA / math.sqrt(rank)}
    tensors = {f"{name}.{key}": value for name, scaling in cases.items() for key, value in case(rng, scaling).items()}
    fixtures.save(tensors, fixtures.fresh(out / "sara") / "golden.safetensors")


if __name__ == "__main__":
    fixtures.main(generate)
