"""Make `lean.json` anew: what Mongoose gives for the documents of `cases.py`.

    python -m tests.golden.make_lean --mongodb URL --modules DIRECTORY

The directory is one where `npm install mongoose` has run.
"""

import argparse
import json
from base64 import b64encode
from pathlib import Path
from tempfile import TemporaryDirectory

from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient

from testkit.node import mongoose_lean
from tests.golden.cases import cases

GOLDEN = Path(__file__).with_name("lean.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mongodb", required=True, help="URL of a MongoDB server, with a database to write to")
    parser.add_argument("--modules", required=True, type=Path, help="where node_modules is")
    arguments = parser.parse_args()
    with MongoClient[RawBSONDocument](arguments.mongodb, document_class=RawBSONDocument) as client:
        collection = client.get_default_database()["golden"]
        collection.drop()
        collection.insert_many([RawBSONDocument(raw) for _, raw in cases()])
        with TemporaryDirectory() as directory:
            Path(directory, "node_modules").symlink_to(arguments.modules.resolve() / "node_modules")
            versions, texts = mongoose_lean(Path(directory), arguments.mongodb, collection.name)
        collection.drop()
    answers = [
        {"name": name, "bson": b64encode(raw).decode(), "json": text}
        for (name, raw), text in zip(cases(), texts, strict=True)
    ]
    GOLDEN.write_text(json.dumps({"made_by": versions, "cases": answers}, indent=1) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
