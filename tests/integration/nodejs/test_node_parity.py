"""Node.js beside us: the same keys, and the same JSON, compared live."""

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bson.raw_bson import RawBSONDocument
from pymongo.collection import Collection

from cachekeeper.devservers import MongoServer
from cachekeeper.values.fold import escape_braces, fold, pattern
from cachekeeper.values.mongoose_json import LEAN_CODEC_OPTIONS, dumps
from testkit.node import EXAMPLE, mongoose_lean, run_node, with_script
from tests.golden.build import Anything
from tests.golden.cases import cases

EVERYTHING = "".join(chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000)


def test_the_example_passes_its_own_tests() -> None:
    assert "# fail 0" in run_node("--test", "--test-reporter=tap", EXAMPLE / "search-key.test.js")


def test_every_character_gives_the_same_key_and_pattern_in_node(tmp_path: Path) -> None:
    texts = [EVERYTHING[at : at + 1000] for at in range(0, len(EVERYTHING), 1000)]
    source = random.Random(3)
    texts += ["".join(source.choices("{}%257BDbdkK\u212a\u0130\U00010400", k=8)) for _ in range(2000)]
    script = with_script("fold_lines.mjs", tmp_path)
    lines = run_node(script, text="".join(json.dumps(text) + "\n" for text in texts))
    for text, line in zip(texts, lines, strict=True):
        folded = fold(text)
        key = "search:" + escape_braces(folded)
        assert json.loads(line) == {"text": text, "folded": folded, "key": key, "pattern": pattern(text)}


@pytest.fixture
def documents(mongo_server: MongoServer, database: str) -> Iterator[Collection[RawBSONDocument]]:
    """An empty collection."""
    with mongo_server.client() as client:
        yield client[database]["documents"].with_options(codec_options=LEAN_CODEC_OPTIONS)


@pytest.mark.parametrize("seed", range(3))
def test_random_documents_give_what_mongoose_gives(
    seed: int, node_packages: Path, documents: Collection[RawBSONDocument], mongo_server: MongoServer
) -> None:
    anything = Anything(seed)
    documents.insert_many([RawBSONDocument(anything.document(identity, depth=4)) for identity in range(1000)])
    _, texts = mongoose_lean(node_packages, mongo_server.url_of(documents.database.name), documents.name)
    ours = [dumps(document).decode() for document in documents.find().sort("_id")]
    assert ours == texts


def test_the_golden_file_is_what_this_mongoose_gives(
    node_packages: Path, documents: Collection[RawBSONDocument], mongo_server: MongoServer
) -> None:
    golden: dict[str, Any] = json.loads(Path(__file__).parents[2].joinpath("golden/lean.json").read_bytes())
    documents.insert_many([RawBSONDocument(raw) for _, raw in cases()])
    versions, texts = mongoose_lean(node_packages, mongo_server.url_of(documents.database.name), documents.name)
    assert texts == [case["json"] for case in golden["cases"]], f"{versions} and {golden['made_by']} differ"
