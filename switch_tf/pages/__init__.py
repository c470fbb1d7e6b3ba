"""The pages and pictures of docs/ that are generated from measurements or counts."""
