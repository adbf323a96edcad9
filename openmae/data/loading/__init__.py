"""Batches: views of a step in a row, or each image once, made by processes of their own."""
