"""Keras layers of the Switch Transformer, sharded over the mesh if one is in use.

Shape letters, in every module of `layers` and `models`: B batch, L length, T memory length,
G groups, S tokens per group, E experts, C expert_capacity, M d_model, F d_ff, H heads,
K d_kv (in routers: number of experts that a token may visit), V vocab.
"""
