"""The methods without a reference in PEFT, by their equations in torch.

Two blocks of two layers, forward, penalty, gradients, changes of the weights, and three steps of plain descent with what
each method does after a step. Names and shapes of parameters are those of the native files.
"""

import math

import fixtures
import numpy as np
import torch

RATE = 0.05
STEPS = 3
TOTAL = 10
D, INNER = 6, 8
HEADS, HEAD_DIM = 2, 4
SITES = {"0-query": (D, INNER), "0-output": (INNER, D), "1-query": (D, INNER), "1-output": (INNER, D)}
QUERIES = [site for site in SITES if site.endswith("query")]
OUTPUTS = [site for site in SITES if site.endswith("output")]


class Method:
    """What a method is, beside its parameters: `state` holds all tensors of its native file, by path."""

    def __init__(self, rng, base):
        self.base, self.state, self.frozen = base, {}, set()
        self.seen = {}

    def site(self, site, name):
        return self.state[f"layers.{site}.{name}"]

    def put(self, site, name, value, frozen=False):
        path = f"layers.{site}.{name}"
        self.state[path] = value
        if frozen:
            self.frozen.add(path)

    def project(self, site, x):
        return self.plain(site, x)

    def plain(self, site, x):
        weight, bias = self.base[site]
        return x @ weight + bias

    def delta(self, site):
        return None

    def penalty(self, step):
        return None

    def after(self, step):
        pass


class Prilora(Method):
    ALPHA, SHARE, BETA, EVERY = 5.0, 0.5, 0.9, 2
    RANKS = {"0": 1, "1": 3}
    matrix = False

    def __init__(self, rng, base):
        super().__init__(rng, base)
        for site, (d_in, d_out) in SITES.items():
            rank = self.RANKS[site[0]]
            self.put(site, "down", fixtures.normal(rng, d_in, rank, std=0.4))
            self.put(site, "up", fixtures.normal(rng, rank, d_out, std=0.4))
            self.put(site, "input_norm", torch.zeros(d_in), frozen=True)

    def delta(self, site):
        down = self.site(site, "down")
        return self.ALPHA / down.shape[1] * down @ self.site(site, "up")

    def project(self, site, x):
        self.seen[site] = x.detach()
        return self.plain(site, x) + x @ self.delta(site)

    def after(self, step):
        for site in SITES:
            norm = self.seen[site].flatten(0, 1).norm(dim=0)
            path = f"layers.{site}.input_norm"
            self.state[path] = self.BETA * self.state[path] + (1 - self.BETA) * norm
            if (step + 1) % self.EVERY == 0:
                down = self.state[f"layers.{site}.down"]
                score = down.abs() * self.state[path][:, None]
                if self.matrix:
                    order = score.flatten().argsort(stable=True)
                    down.view(-1)[order[: int(self.SHARE * score.numel())]] = 0
                else:
                    for component in range(down.shape[1]):
                        order = score[:, component].argsort(stable=True)
                        down[order[: int(self.SHARE * len(order))], component] = 0


class PriloraMatrix(Prilora):
    matrix = True


class Melora(Method):
    ALPHA, MINIS, RANK = 5.0, 2, 3

    def __init__(self, rng, base):
        super().__init__(rng, base)
        for site, (d_in, d_out) in SITES.items():
            self.put(site, "down", fixtures.normal(rng, self.MINIS, d_in // self.MINIS, self.RANK, std=0.6))
            self.put(site, "up", fixtures.normal(rng, self.MINIS, self.RANK, d_out // self.MINIS, std=0.6))

    def delta(self, site):
        blocks = [down @ up for down, up in zip(self.site(site, "down"), self.site(site, "up"))]
        return self.ALPHA / self.RANK * torch.block_diag(*blocks)

    def project(self, site, x):
        parts = []
        for i, chunk in enumerate(x.chunk(self.MINIS, dim=-1)):
            middle = chunk @ self.site(site, "down")[i]
            parts.append(self.ALPHA / self.RANK * middle @ self.site(site, "up")[i])
        return self.plain(site, x) + torch.cat(parts, dim=-1)


class Lorta(Method):
    """Heads along the output: the tensor `T(layer, role)` of the paper, built densely."""

    ALPHA, RANK = 5.0, 3
    sites = QUERIES

    def __init__(self, rng, base):
        super().__init__(rng, base)
        shapes = {"width": (D, self.RANK), "head_width": (self.RANK, HEAD_DIM), "heads": (HEADS, self.RANK)}
        shapes |= {"layers": (2, self.RANK), "roles": (1, self.RANK)}
        for name, shape in shapes.items():
            self.state[name] = fixtures.normal(rng, *shape)

    def tensor(self, site):
        a, b = self.state["width"], self.state["head_width"]
        of_layer, of_role = self.state["layers"][int(site[0])], self.state["roles"][0]
        blocks = [a @ torch.diag(head * of_role * of_layer) @ b for head in self.state["heads"]]
        return self.ALPHA / self.RANK * torch.cat(blocks, dim=1)

    def delta(self, site):
        return self.tensor(site) if site in self.sites else None

    def project(self, site, x):
        delta = self.delta(site)
        return self.plain(site, x) + (0 if delta is None else x @ delta)


class LortaInput(Lorta):
    """Heads along the input."""

    sites = OUTPUTS

    def delta(self, site):
        return self.tensor(site).T if site in self.sites else None


class Taps(Method):
    STRENGTH, THRESHOLD = 2.0, 0.1
    SCORES = [0.3, 0.05, 0.11, -0.2]

    def __init__(self, rng, base):
        super().__init__(rng, base)
        for score, (site, (d_in, d_out)) in zip(self.SCORES, SITES.items()):
            self.put(site, "delta", fixtures.normal(rng, d_in, d_out, std=0.3))
            self.put(site, "score", torch.tensor([score]))

    def delta(self, site):
        score = self.site(site, "score")
        gate = (score >= self.THRESHOLD).float() + score - score.detach()
        return gate * self.site(site, "delta")

    def project(self, site, x):
        weight, bias = self.base[site]
        return x @ (weight + self.delta(site)) + bias

    def penalty(self, step):
        if step < 0.1 * TOTAL:
            return None
        return self.STRENGTH / len(SITES) * sum(self.site(site, "score").abs() for site in SITES).sum()


class MoSara(Method):
    EXPERTS, HIDDEN, K = 3, 2, 4
    by_input = False

    def __init__(self, rng, base):
        super().__init__(rng, base)
        for site, (d_in, d_out) in SITES.items():
            u, _, vt = torch.linalg.svd(base[site][0], full_matrices=False)
            self.put(site, "right", u[:, : self.K].clone(), frozen=True)
            self.put(site, "left", vt[: self.K].clone(), frozen=True)
            self.put(site, "scales", fixtures.normal(rng, self.EXPERTS, self.K))
            self.put(site, "gain", fixtures.normal(rng, d_out))
            if self.EXPERTS > 1:
                width = d_in if self.by_input else self.K
                self.put(site, "router.hidden", fixtures.normal(rng, width, self.HIDDEN))
                self.put(site, "router.out", fixtures.normal(rng, self.HIDDEN, self.EXPERTS))

    def project(self, site, x):
        projected = x @ self.site(site, "right")
        scales = self.site(site, "scales")
        if self.EXPERTS > 1:
            z = x if self.by_input else projected
            mix = torch.softmax(z @ self.site(site, "router.hidden") @ self.site(site, "router.out"), dim=-1)
            scale = torch.einsum("bse,ek->bsk", mix, scales)
        else:
            scale = scales[0]
        return self.plain(site, x) + self.site(site, "gain") * ((scale * projected) @ self.site(site, "left"))

    def delta(self, site):
        if self.EXPERTS > 1:
            return None
        middle = torch.diag(self.site(site, "scales")[0])
        return self.site(site, "right") @ middle @ self.site(site, "left") * self.site(site, "gain")


class MoSaraInput(MoSara):
    by_input = True


class MoSaraOne(MoSara):
    EXPERTS = 1


class BayesianLora(Method):
    """In evaluation, where gates are decided; their gradient goes straight through the decision."""

    ALPHA, RANK, STRENGTH = 5.0, 3, 0.01
    WEIGHTS = ("base", "down", "scale", "up")
    RESULTS = ("base_out", "down_out", "scale_out", "up_out", "out")

    def __init__(self, rng, base):
        super().__init__(rng, base)
        places = (self.WEIGHTS + self.RESULTS) if self.whole else self.WEIGHTS[1:]
        for site, (d_in, d_out) in SITES.items():
            self.put(site, "down", fixtures.normal(rng, d_in, self.RANK, std=0.6))
            self.put(site, "scale", fixtures.normal(rng, self.RANK))
            self.put(site, "up", fixtures.normal(rng, self.RANK, d_out, std=0.6))
            self.put(site, "rank_gates", torch.tensor([1.5, -1.5 if site == "0-output" else 0.5]))
            for place in places:
                # Some gates closed, one shut with all that come after it.
                self.put(site, f"quantizers.{place}.gates", fixtures.normal(rng, 4, std=1.5, mean=1.0))
                low = 0.0 if place == "up_out" else -1.0 - 0.2 * float(rng.random())
                ends = torch.tensor([low, 1.5 + float(rng.random())], dtype=torch.float32)
                self.put(site, f"quantizers.{place}.range", ends, frozen=True)

    whole = True

    @staticmethod
    def decided(logits):
        """Gate open where the probability of an exact zero is below 0.34."""
        zero = torch.sigmoid(2 / 3 * math.log(0.1 / 1.1) - logits)
        return (zero < 0.34).float() + logits - logits.detach()

    def quantize(self, site, place, x):
        if f"layers.{site}.quantizers.{place}.gates" not in self.state:
            return x
        logits = self.site(site, f"quantizers.{place}.gates")
        low, high = self.site(site, f"quantizers.{place}.range")
        step = (2 if low < 0 else 1) * high / 3
        gates = self.decided(logits) * torch.cumprod((logits > -2).float(), 0).detach()

        def rounded(value, step):
            # Straight through.
            return value + (step * torch.round(value / step) - value).detach()

        parts, rest = [], x
        for finer in (1, 5, 17, 257, 65537):
            step = step / finer
            parts.append(rounded(rest, step))
            rest = rest - parts[-1]
        tail = 0
        for gate, part in zip(reversed(gates), reversed(parts[1:])):
            tail = gate * (part + tail)
        return parts[0] + tail

    def factors(self, site):
        open_ = torch.cumprod(self.decided(self.site(site, "rank_gates")), 0)
        ranks = torch.cat([torch.ones(1), open_ + (open_.round() - open_).detach()])
        down = self.quantize(site, "down", self.site(site, "down"))
        scale = self.quantize(site, "scale", self.site(site, "scale")) * ranks
        return down, scale, self.quantize(site, "up", self.site(site, "up"))

    def project(self, site, x):
        weight, bias = (self.quantize(site, "base", value) for value in self.base[site])
        out = self.quantize(site, "base_out", x @ weight + bias)
        down, scale, up = self.factors(site)
        middle = self.quantize(site, "down_out", x @ down)
        middle = self.quantize(site, "scale_out", middle * scale)
        branch = self.quantize(site, "up_out", middle @ up)
        return self.quantize(site, "out", out + self.ALPHA / self.RANK * branch)

    def delta(self, site):
        if self.whole:
            return None
        down, scale, up = self.factors(site)
        return self.ALPHA / self.RANK * (down * scale) @ up

    def penalty(self, step):
        shift = 2 / 3 * math.log(0.1 / 1.1)
        total = 0
        for path, logits in self.state.items():
            if not path.endswith(".gates"):
                continue
            q4, q8, q16, q32 = torch.sigmoid(logits - shift)
            cost = q4 + q4 * q8 + q4 * q8 * q16 + q4 * q8 * q16 * q32 + 1
            if path.endswith("scale.gates"):
                of_ranks = self.state[path.replace("quantizers.scale.gates", "rank_gates")]
                cost = (torch.sigmoid(of_ranks - shift) * cost).mean()
            total = total + cost
        return self.STRENGTH * total


class BayesianLoraWeights(BayesianLora):
    whole = False


CASES = {
    "prilora": Prilora,
    "prilora_matrix": PriloraMatrix,
    "melora": Melora,
    "lorta": Lorta,
    "lorta_input": LortaInput,
    "taps": Taps,
    "mo_sara": MoSara,
    "mo_sara_input": MoSaraInput,
    "mo_sara_one": MoSaraOne,
    "bayesian_lora": BayesianLora,
    "bayesian_lora_weights": BayesianLoraWeights,
}


def case(rng, make):
    x = fixtures.normal(rng, 2, 4, D)
    base = {
        site: (fixtures.normal(rng, d_in, d_out, std=0.5), fixtures.normal(rng, d_out, std=0.5))
        for site, (d_in, d_out) in SITES.items()
    }
    tensors = {"x": x}
    for site, (weight, bias) in base.items():
        tensors |= {f"{site}.weight": weight, f"{site}.bias": bias}
    method = make(rng, base)
    losses = []
    for step in range(STEPS):
        tensors |= {f"step{step}.state.{path}": value.detach().clone() for path, value in method.state.items()}
        trained = [path for path in method.state if path not in method.frozen]
        for path in trained:
            method.state[path] = method.state[path].detach().requires_grad_()
        hidden = x
        for site in SITES:
            hidden = method.project(site, hidden)
            hidden = torch.tanh(hidden) if site.endswith("query") else hidden
            tensors[f"step{step}.out.{site}"] = hidden.detach().clone()
        loss, penalty = (hidden**2).mean(), method.penalty(step)
        losses.append([loss.item(), 0.0 if penalty is None else penalty.item()])
        for site in SITES:
            change = method.delta(site)
            if change is not None:
                tensors[f"step{step}.delta.{site}"] = change.detach().clone()
        whole = loss if penalty is None else loss + penalty
        gradients = torch.autograd.grad(whole, [method.state[path] for path in trained])
        with torch.no_grad():
            for path, gradient in zip(trained, gradients):
                tensors[f"step{step}.gradient.{path}"] = gradient
                method.state[path] = method.state[path].detach() - RATE * gradient
            method.after(step)
    tensors |= {f"step{STEPS}.state.{path}": value.detach().clone() for path, value in method.state.items()}
    tensors["losses"] = torch.tensor(losses)
    return tensors


def hard_concrete():
    """The gate as it is drawn in training, and its gradient."""
    logits = torch.tensor([2.0, 0.3, -1.0, -3.0, 6.0], requires_grad=True)
    noise = torch.tensor([0.3, 0.55, 0.7, 0.3, 0.4])
    soft = torch.sigmoid((torch.log(noise) - torch.log(1 - noise) + logits) / (2 / 3))
    gate = torch.clamp(soft * 1.2 - 0.1, 0, 1)
    (gradient,) = torch.autograd.grad((gate * torch.arange(1.0, 6.0)).sum(), logits)
    return {"logits": logits.detach(), "noise": noise, "gate": gate.detach(), "gradient": gradient}


def generate(out):
    tensors = {f"gate.{key}": value for key, value in hard_concrete().items()}
    for seed, (name, make) in enumerate(CASES.items()):
        rng = np.random.default_rng(100 + seed)
        tensors |= {f"{name}.{key}": value.contiguous() for key, value in case(rng, make).items()}
    fixtures.save(tensors, fixtures.fresh(out / "methods") / "golden.safetensors")


if __name__ == "__main__":
    fixtures.main(generate)
