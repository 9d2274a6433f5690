"""From files to batches: tables, readers, folds and loaders, and what is checked before any of it is trusted."""

from pipeline.names import References

NAMES: References = {
    "reader": {
        "image": "pipeline.data.images:image",
        "array": "pipeline.data.images:array",
        "dicom": "pipeline.data.formats:dicom",
    },
}
