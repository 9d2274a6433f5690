"""Predictions of heads whose images are looked up among others."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from pipeline.competition import Competition, Head
from pipeline.heads.identities import apart_column
from pipeline.heads.kinds.embedding import Embedding
from pipeline.keys import INPUT_ID, embedding_key
from pipeline.tasks.components import Decoder, Outputs, Table
from pipeline.tasks.image_level.predictions import HeadPredictions
from pipeline.types import Batch
from toolkit.errors import UserError


class GalleryPredictions(HeadPredictions):
    """Embeddings are decoded by the images of a gallery, all other outputs as they are."""

    has_gallery = True

    def __init__(self, competition: Competition, heads: Sequence[Head]) -> None:
        super().__init__(competition, heads)
        self.embeddings = [kind for kind in self.kinds if isinstance(kind, Embedding)]

    def looks_among(self, rows: Table) -> bool:
        return any(apart_column(kind.head.name) in rows for kind in self.embeddings)

    def gallery(self, rows: Table, held_out: Table | None = None) -> Table | None:
        if held_out is not None and self.looks_among(held_out):
            return held_out
        known = np.any([kind.targets(rows) >= 0 for kind in self.embeddings], axis=0)
        if not known.any():
            raise UserError(
                "the gallery is empty: no training row has a label to look images up by; correct the labels in "
                "src/competition/tables.py"
            )
        return rows[known].reset_index(drop=True)

    def decoders(self, gallery: Table, outputs: Iterable[tuple[Any, Outputs]], own: bool) -> dict[Any, Decoder]:
        searching = {embedding_key(kind.head.name): kind for kind in self.embeddings}
        stored = defaultdict[Any, list[Outputs]](list)
        for model, found in outputs:
            stored[model].append({key: found[key] for key in searching})

        def decoder(batches: Sequence[Outputs]) -> Decoder:
            memories = [
                kind.memory(gallery, torch.cat([embeddings[key] for embeddings in batches]), own)
                for key, kind in searching.items()
            ]

            def decode(batch: Batch, found: Outputs) -> Table:
                looked_up = dict(found)
                for memory in memories:
                    looked_up |= memory(batch[INPUT_ID], found)
                return self.decode(batch[INPUT_ID], looked_up)

            return decode

        return {model: decoder(batches) for model, batches in stored.items()}
