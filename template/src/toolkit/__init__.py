"""General tools that know no competition: arrays, tables and paths in and out."""
