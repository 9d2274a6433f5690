"""The pipeline: dict in, dict out. It knows no competition; `src/competition` brings that."""
