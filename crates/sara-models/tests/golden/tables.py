"""Small parquet files as the Hugging Face hub has them: written by `datasets`, two by pyarrow, and their rows as JSON."""

import json
import os

os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

import fixtures
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, Features, List, Value

TEXTS = [
    "The small garden was wonderful.",
    "Café déjà vu — 日本 🙂",
    'a "quoted" word, a comma and\ttab',
    "two\nlines",
    "",
    "  spaces around  ",
    "the river path stayed better than before",
    "an old machine seemed dreadful",
]


def classes(path):
    """Two sentences, a class by number, its name in the metadata. No second sentence once; labels of -1, which is none in GLUE, and null."""
    label = ClassLabel(names=["not_equivalent", "equivalent"])
    features = Features({"sentence1": Value("string"), "sentence2": Value("string"), "label": label, "idx": Value("int32")})
    second = [text.upper() for text in TEXTS]
    second[3] = None
    rows = {"sentence1": TEXTS, "sentence2": second, "label": [1, 0, 1, 1, 0, 0, -1, None], "idx": [7, 11, 13, 20, 21, 22, 40, 41]}
    Dataset.from_dict(rows, features).to_parquet(path)


def plain(path):
    """Labels by name, a column of vectors to leave out, zstd: `datasets` writes no other compression than its own."""
    features = Features({"text": Value("string"), "label": Value("string"), "embedding": List(Value("float32"))})
    vectors = [[i / 8, -i / 4, 0.5] for i in range(len(TEXTS))]
    vectors[5] = []
    rows = {"text": TEXTS, "label": ["positive", "neutral", "neutral", "negative", "neutral", None, "positive", "negative"], "embedding": vectors}
    table = Dataset.from_dict(rows, features).data.table
    pq.write_table(table.replace_schema_metadata(features.arrow_schema.metadata), path, compression="zstd")


def lists(path):
    """Several labels by name: none, one, some, all, and no list; two row groups."""
    features = Features({"text": Value("string"), "labels": List(Value("string"))})
    labels = [["joy"], ["joy", "fear"], [], ["anger", "fear", "joy"], None, ["fear"], ["joy", "anger"], []]
    Dataset.from_dict({"text": TEXTS, "labels": labels}, features).to_parquet(path, batch_size=5)


def class_lists(path):
    """The same by number, the names in the metadata of the list's elements."""
    features = Features({"text": Value("string"), "labels": List(ClassLabel(names=["joy", "anger", "fear"]))})
    labels = [[0], [0, 2], [], [1, 2, 0], None, [2], [0, 1], []]
    Dataset.from_dict({"text": TEXTS, "labels": labels}, features).to_parquet(path)


def large(path):
    """What pandas and polars write: 64-bit offsets, a dictionary, no metadata of the hub; two row groups, no compression, pages of version 2."""
    labels = pa.array(["positive", "neutral", "neutral", "negative", None, "neutral", "positive", "negative"]).dictionary_encode()
    columns = {"text": pa.array(TEXTS, pa.large_string()), "label": labels, "count": pa.array([0, 1, -1, 2**40, None, 5, 6, -(2**63)], pa.int64())}
    pq.write_table(pa.table(columns), path, row_group_size=5, compression="none", data_page_version="2.0")


def described(path):
    """The file as JSON: what it is made of, and its rows."""
    table, file = pq.read_table(path), pq.ParquetFile(path)
    chunks = [file.metadata.row_group(group).column(i) for group in range(file.num_row_groups) for i in range(file.metadata.num_columns)]
    hub = (table.schema.metadata or {}).get(b"huggingface")
    features = json.loads(hub)["info"]["features"] if hub else {}
    of_values = {name: feature.get("feature", feature) for name, feature in features.items()}
    return {
        "columns": {field.name: str(field.type) for field in table.schema},
        "class_names": {name: feature["names"] for name, feature in of_values.items() if "names" in feature},
        "row_groups": [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)],
        "compression": sorted({chunk.compression for chunk in chunks}),
        "encodings": sorted({encoding for chunk in chunks for encoding in chunk.encodings}),
        "rows": table.to_pylist(),
    }


def generate(out):
    folder = fixtures.fresh(out / "tables")
    expected = {}
    for write in (classes, plain, lists, class_lists, large):
        path = folder / f"{write.__name__}.parquet"
        write(path)
        expected[path.name] = described(path)
    fixtures.write_json(expected, folder / "expected.json")


if __name__ == "__main__":
    fixtures.main(generate)
