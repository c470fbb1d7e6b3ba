"""Keras layers of the Switch Transformer, laid out over a mesh where one is in use.

Shape letters, in every module of `layers` and `models`: B batch, L length, T memory length,
G groups, S tokens a group, E experts, C expert_capacity, M d_model, F d_ff, H heads,
K d_kv (in routers: the experts a token may visit), V vocab.
"""
