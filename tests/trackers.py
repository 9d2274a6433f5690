"""What trackers left behind, read with their own readers."""

import json
import struct
from pathlib import Path
from typing import Any


def wandb_records(folder: Path) -> list[Any]:
    """The records of an offline run: a log of LevelDB's form behind a header of seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    [path] = folder.glob("wandb/offline-run-*/*.wandb")
    data, position, parts, records = path.read_bytes(), 7, b"", []
    while position + 7 <= len(data):
        if (left := 32768 - position % 32768) < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = Record()
            record.ParseFromString(parts)
            records.append(record)
            parts = b""
    return records


def wandb_history(records: list[Any]) -> dict[int, dict[str, Any]]:
    """step -> key -> value; the parts of a picture are keyed `name:part`."""
    rows: dict[int, dict[str, Any]] = {}
    for record in records:
        if record.HasField("history"):
            items = {":".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            step = items["_step"]
            assert step not in rows, "one row per step"
            rows[step] = {key: value for key, value in items.items() if not key.startswith("_")}
    return rows
