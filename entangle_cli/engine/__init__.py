"""Exact squared norms and inner products of response gradients, for whole batches of pairs.

This folder needs torch alone. It reads and writes no files, prints nothing and knows no command line.

Dimension legend, valid in every module of this folder (einsum strings use the same letters):

    P  pairs of a batch
    B  rows of a batch, 2 P: the chosen responses of all pairs, then the rejected ones
    T  token positions of a row, padding included      U  a second token index
    S  leading tokens that the two rows of every pair of the batch share
    F  all B * T positions of a batch, flattened       L  those of them that hold a token, not padding
    E  those of them that a linear layer computes      G  tokens gathered from anywhere in a batch, as an expert's
    N  scored positions of a batch, all rows one after the other
    R  scored positions of one row                     C  columns of a vocabulary chunk
    I  input features of a weight                      O  its output features
    K  elements of a gradient, flattened               W  distinct ids that a batch looks up
    D  model width                                     V  vocabulary

A lower-case letter is a part of the dimension of the same letter: `t` some tokens of T, `n` some positions of N.

"Products" are always a float64 tensor [3, P]: |g_chosen|^2, |g_rejected|^2, <g_chosen, g_rejected>.
"""
