"""What images are read from: folders, tables, arrays, parquet; how each is listed, and its labels."""
