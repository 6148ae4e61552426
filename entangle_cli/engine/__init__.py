"""Exact squared norms and inner products of response gradients, for whole batches of pairs.

This folder depends only on torch. It does no file access, no printing and no command-line parsing.

Dimension legend for all modules of this folder (einsum strings use the same letters):

    P  pairs in a batch
    B  rows in a batch, 2 P: the chosen responses of all pairs, then the rejected ones
    T  token positions in a row, padding included      U  a second token index
    S  leading tokens shared by the two rows of every pair in the batch
    F  all B * T positions of a batch, flattened       L  the positions in F that are not padding
    E  the positions in F that a linear layer computes G  tokens gathered from anywhere in a batch, e.g. for an expert
    X  experts of a layer                              M  tokens gathered for a pair, for all experts of a layer
    N  scored positions in a batch, rows concatenated
    R  scored positions in one row                     C  columns of a vocabulary chunk
    I  input features of a weight                      O  its output features
    K  elements of a gradient, flattened               W  distinct ids looked up in a batch
    D  model width                                     V  vocabulary

A lower-case letter denotes a subset of that dimension: `t` is some tokens of T, `n` some positions of N.

"Products" always means a float64 tensor [3, P]: |g_chosen|^2, |g_rejected|^2, <g_chosen, g_rejected>.
"""
