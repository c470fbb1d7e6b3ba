"""Experiments of several runs, and the tables and figures made of them."""
