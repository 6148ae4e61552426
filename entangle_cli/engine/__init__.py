"""Exact squared norms and inner products of response gradients, for whole batches of pairs.

Torch only: nothing here reads or writes files, prints, or knows the command line.

Dimension legend, valid in every module of this folder (einsum strings use the same letters):

    P  pairs of a batch
    B  rows of a batch, 2 P: the chosen responses of all pairs, then the rejected ones
    T  token positions of a row, padding included      U  a second token index
    S  leading tokens that the two rows of every pair of the batch share
    N  scored positions of a batch, all rows one after the other
    R  scored positions of one row                     C  columns of a vocabulary chunk
    I  input features of a weight                      O  its output features
    D  model width                                     V  vocabulary

"Products" are always a float64 tensor [3, P]: |g_chosen|^2, |g_rejected|^2, <g_chosen, g_rejected>.
"""
