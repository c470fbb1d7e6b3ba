"""Experiments of several runs, and the tables and figures made from them."""
