"""The pages and pictures of docs/ that are made by measuring or counting."""
