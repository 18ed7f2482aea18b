"""The cache: what stage one leaves, sealed and verifiable, in Zarr or HDF5.

Knows numpy, zarr, h5py and fsspec; never torch, transformers, timm or images.
"""
