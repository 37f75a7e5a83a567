"""What PEFT saves in the situations that a reader meets: other prefixes, places, heads and files. Nothing is trained, all values are random.

`peft-found/cases.json` names each case's base and says whether a reader has to refuse it, which needs no outputs. PEFT reloads the others to the same
outputs, but for `reloads=False` below.
"""

import copy
import json
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import fixtures
import numpy as np
import torch
import transformers
from peft import AdaLoraConfig, LoraConfig, PeftConfig, PeftModel, TaskType, get_peft_model
from safetensors.torch import load_file

transformers.utils.logging.set_verbosity_error()
warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")

BERT, ROBERTA = "bert-cls3", "roberta-cls3"
CLASSES = {BERT: transformers.BertForSequenceClassification, ROBERTA: transformers.RobertaForSequenceClassification}
ROWS, WIDTH = [1, 3], 5  # of the base's batch: five tokens and two


class Wrapper(torch.nn.Module):
    """A user's own module around a model of transformers."""

    def __init__(self, model):
        super().__init__()
        self.model = model


class Transformer(torch.nn.Module):
    """The module of the same name of sentence-transformers, as far as names go; it stands first in a `Sequential`."""

    def __init__(self, model):
        super().__init__()
        self.auto_model = model


# Each of these makes what PEFT is given and the sequence classifier that holds the same encoder.


def classifier(base):
    model = fixtures.load(CLASSES[base], base)
    return model, model


def bare(base):
    model, encoder = fixtures.load(CLASSES[base], base), fixtures.load(transformers.AutoModel, base)
    setattr(model, model.base_model_prefix, encoder)
    return encoder, model


def wrapped_model(base):
    encoder, model = bare(base)
    return Wrapper(encoder), model


def wrapped_auto(base):
    encoder, model = bare(base)
    return torch.nn.Sequential(Transformer(encoder)), model


def wrapped_classifier(base):
    model, _ = classifier(base)
    return Wrapper(model), model


def two_more_words(base):
    model, _ = classifier(base)
    model.resize_token_embeddings(model.config.vocab_size + 2)
    return model, model


def token_classifier(base):
    model = fixtures.load(transformers.BertForTokenClassification, base)
    return model, model


def lora(**options):
    return LoraConfig(**{"r": 2, "lora_alpha": 4, "target_modules": ["query"]} | options)


def seq_cls(**options):
    return lora(task_type=TaskType.SEQ_CLS, **options)


def randomise_embeddings(model, rng):
    weight = model.get_input_embeddings().weight
    weight.copy_(fixtures.normal(rng, *weight.shape, std=0.3))


def as_floats(value):
    """Whole numbers as `4.0`, also inside, as writers without integers write them."""
    if isinstance(value, dict):
        return {key: as_floats(inner) for key, inner in value.items()}
    return float(value) if type(value) is int else value


@dataclass
class Case:
    base: str
    config: PeftConfig
    notes: str
    build: Callable = classifier
    names: tuple = ("default",)
    refused: bool = False
    reloads: bool = True
    change: Callable = lambda model, rng: None  # of the adapted model
    edit: Callable = lambda config: config  # of the saved adapter_config.json
    saving: dict = field(default_factory=dict)


# Disjoint but for the last alpha: the first match wins, and the file holds the keys sorted.
LOOKAROUND = seq_cls(
    target_modules=r".*\.layer\.\d+\.(?!attention\.output).*(query|value|dense)",
    rank_pattern={r"(?<!output\.)dense": 3, r"layer\.(?!0)\d+\.attention\.self\.query": 5, r"^roberta\.encoder\.layer\.0\.attention\.self\.value": 1},
    alpha_pattern={r"(?<!intermediate\.)dense": 7, r"(?<=self\.)value": 3, "dense": 6},
)
ADALORA = AdaLoraConfig(
    task_type=TaskType.SEQ_CLS, init_r=3, target_r=2, lora_alpha=4, tinit=1, tfinal=1, deltaT=1, total_step=10, target_modules=["query", "value"]
)  # fmt: skip

CASES = {
    # The base is not the sequence classifier.
    "bare": Case(BERT, lora(task_type=TaskType.FEATURE_EXTRACTION), "beside AutoModel: keys without bert.", bare),
    "bare-roberta": Case(ROBERTA, lora(), "beside AutoModel, no task type: keys without roberta.", bare),
    "wrapped-model": Case(BERT, lora(), "keys with model. for bert., the base's name null", wrapped_model),
    "wrapped-auto": Case(BERT, lora(), "keys with 0.auto_model. for bert. (sentence-transformers), the base's name null", wrapped_auto),
    "wrapped-head": Case(
        BERT, lora(modules_to_save=["classifier"]), "keys with model. before bert. and classifier, the base's name null", wrapped_classifier
    ),
    # The adapter has a name.
    "named": Case(BERT, seq_cls(), "the adapter is in sst/", names=("sst",)),
    "two-named": Case(BERT, seq_cls(), "adapters in mnli/ and sst/, none here: not to be guessed; each holds its golden", names=("mnli", "sst"), refused=True),
    "default-and-named": Case(BERT, seq_cls(), "one adapter here, another in sst/ with its own golden", names=("default", "sst")),
    # Options.
    "lookaround": Case(ROBERTA, LOOKAROUND, "look-around in both patterns, in the string target_modules too"),
    "floats": Case(
        BERT, seq_cls(target_modules=["query", "value"], rank_pattern={"value": 3}, alpha_pattern={"value": 5}),
        "whole numbers as 4.0; PEFT itself takes this for the alphas only", reloads=False, edit=as_floats,
    ),
    "floats-adalora": Case(BERT, ADALORA, "whole numbers as 4.0; PEFT itself does not take it for init_r", reloads=False, edit=as_floats),
    # What is saved beside the pairs.
    "saved-part": Case(ROBERTA, lora(modules_to_save=["out_proj"]), "half of the head saved; classifier.dense is the base's"),
    "saved-part-path": Case(ROBERTA, lora(modules_to_save=["classifier.out_proj"]), "the same by its path"),
    "saved-nested": Case(
        ROBERTA, seq_cls(modules_to_save=["out_proj"]),
        "PEFT wraps classifier and out_proj: classifier.out_proj.weight is an unused copy, classifier.modules_to_save.default.out_proj.weight counts; "
        "PEFT fails to reload it",
        refused=True, reloads=False,
    ),
    "saved-path": Case(BERT, seq_cls(modules_to_save=["bert.pooler", "classifier"]), "pooler by its path; classifier stands twice in modules_to_save"),
    "saved-full-path": Case(BERT, seq_cls(modules_to_save=["base_model.model.bert.pooler"]), "pooler by its path in the PEFT model"),
    "saved-norms": Case(BERT, lora(modules_to_save=["LayerNorm"]), "trained norms of the encoder", refused=True),
    "embeddings": Case(BERT, seq_cls(), "the base's word embeddings saved along, unchanged", saving={"save_embedding_layers": True}),
    "embeddings-changed": Case(
        BERT, seq_cls(), "other word embeddings", change=randomise_embeddings, refused=True, saving={"save_embedding_layers": True}
    ),
    "embeddings-resized": Case(
        BERT, seq_cls(), "two more words, their embeddings saved along: the usual reason for it", two_more_words, change=randomise_embeddings,
        refused=True, saving={"save_embedding_layers": True},
    ),
    # Pairs outside the encoder's layers.
    "lora-head": Case(BERT, lora(target_modules=["query", "classifier"]), "no task type, pair on classifier, nothing saved along"),
    "lora-head-roberta": Case(
        ROBERTA, lora(target_modules=["query", "classifier.dense", "out_proj"]), "no task type, pairs on both layers of the head"
    ),
    "lora-head-mixed": Case(
        ROBERTA, lora(target_modules=["query", "classifier.dense"], modules_to_save=["out_proj"]), "no task type, pair on classifier.dense, out_proj saved"
    ),
    "lora-pooler": Case(BERT, seq_cls(target_modules="all-linear"), "all-linear takes BERT's pooler.dense, not classifier"),
    # Other files, other tasks.
    "bin": Case(BERT, seq_cls(), "adapter_model.bin, no safetensors", saving={"safe_serialization": False}),
    "token-cls": Case(BERT, lora(task_type=TaskType.TOKEN_CLS), "only task_type tells it from a sequence classifier", token_classifier, refused=True),
}  # fmt: skip


def save(model, folder, case):
    """`save_pretrained` without the model card, with a relative base name and sets in a fixed order."""
    for config in model.peft_config.values():
        # PEFT knows no name for a module that is not of transformers, and writes null.
        config.base_model_name_or_path = case.base if hasattr(model.get_base_model(), "name_or_path") else None
    model.save_pretrained(folder, **{"save_embedding_layers": False} | case.saving)
    (folder / "README.md").unlink()
    for path in folder.rglob("adapter_config.json"):
        config = case.edit(json.loads(path.read_text()))
        if isinstance(config["target_modules"], list):
            config["target_modules"].sort()
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def check_reload(case, folder, inputs, expected):
    outer, model = case.build(case.base)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Found missing adapter keys")
        PeftModel.from_pretrained(outer, folder)
    reloaded = fixtures.outputs(model, inputs)
    for name in expected:
        torch.testing.assert_close(reloaded[name], expected[name], rtol=0, atol=1e-6)


def make(folder, name, case):
    outer, model = case.build(case.base)
    adapted = get_peft_model(outer, copy.deepcopy(case.config), adapter_name=case.names[0])
    for adapter in case.names[1:]:
        adapted.add_adapter(adapter, copy.deepcopy(case.config))
    for adapter in case.names:
        adapted.set_adapter(adapter)
        rng = np.random.default_rng(zlib.crc32(f"{name}/{adapter}".encode()))
        with torch.no_grad():
            for _, parameter in sorted(adapted.named_parameters()):
                if parameter.requires_grad:
                    parameter.copy_(fixtures.normal(rng, *parameter.shape, std=0.3))
            case.change(adapted, rng)
    save(adapted, fixtures.fresh(folder), case)

    golden = {key: value[ROWS] for key, value in load_file(fixtures.HERE / case.base / "golden.safetensors").items()}
    inputs = {key: golden[key][:, :WIDTH] for key in ("input_ids", "attention_mask", "token_type_ids")}
    for adapter in case.names:
        if case.refused and len(case.names) == 1:
            continue
        adapted.set_adapter(adapter)
        expected = fixtures.outputs(model, inputs)
        change = (expected["last_hidden_state"] - golden["last_hidden_state"][:, :WIDTH]).abs().max().item()
        print(f"{name}/{adapter}: hidden states moved by up to {change:.2f}")
        assert change > 0.1
        place = folder if adapter == "default" else folder / adapter
        if case.reloads:
            check_reload(case, place, inputs, expected)
        fixtures.save({**inputs, **expected}, (folder if len(case.names) == 1 else place) / "golden.safetensors")


def generate(out):
    found = fixtures.fresh(out / "peft-found")
    for name, case in CASES.items():
        torch.manual_seed(0)
        make(found / name, name, case)
    table = {name: {"base": case.base, "refused": case.refused, "notes": case.notes} for name, case in CASES.items()}
    fixtures.write_json(table, found / "cases.json")


if __name__ == "__main__":
    fixtures.main(generate)
