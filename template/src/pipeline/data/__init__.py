"""From files to batches: tables, readers, folds and loaders, and what is checked before any of it is trusted."""

from pipeline.registry import References

NAMES: References = {
    "reader": {
        "image": "toolkit.images.readers:image",
        "array": "toolkit.images.readers:array",
        "dicom": "toolkit.images.formats:dicom",
    },
    "view": {
        name: f"pipeline.inference.tta:{name}"
        for name in ("hflip", "vflip", "rot90", "rot180", "rot270", "scale", "crop")
    },
}
